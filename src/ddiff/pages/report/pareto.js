// Quality against cost: every evaluation a dot, and the front that none of them beats.

/** Which dots no other beats: at most as dear and at least as good, and better in one. */
function onFront(dots, better) {
  const sign = better === "lower" ? 1 : -1;
  const beats = (p, q) => p.x <= q.x && sign * p.y <= sign * q.y && (p.x < q.x || p.y !== q.y);
  return dots.map((dot) => !dots.some((other) => beats(other, dot)));
}

/** The evaluations of an entity, the same of several seeds as one. */
function dotsOf(entity, column, cost) {
  const same = new Map();
  for (const point of page.points) {
    if (point.column !== column || point[cost] === null) continue;
    if (!entity.runs.includes(point.run)) continue;
    const key = `${point.step} ${point.way}`;
    same.set(key, [...(same.get(key) || []), point]);
  }
  return [...same.values()].map((points) => {
    const [x, y] = [spread(points.map((p) => p[cost])), spread(points.map((p) => p.value))];
    const [{ low, high, step, way }] = points;
    const range = y.std === null ? { low, high } : { low: y.mean - y.std, high: y.mean + y.std };
    const facts = [`${page.costs[cost]} ${number(x.mean)}`,
      [step === null ? "" : `step ${step}`, way].filter(Boolean).join(", "),
      known([range.low, range.high]).length === 2
        ? `${number(range.low)} to ${number(range.high)}` : "",
      y.n > 1 ? `mean of ${y.n} seeds` : ""];
    return { entity, x: x.mean, y: y.mean, ...range, facts: facts.filter(Boolean) };
  });
}

function paretoChart() {
  const rated = page.columns.map((column, k) => [k, column]).filter(([k, column]) =>
    column.better && page.points.filter((point) => point.column === k).length > 1);
  if (!rated.length) return null;
  const picked = { column: rated[0][0], cost: "seconds", scale: "linear" };
  const [host, note] = [make("div.chart"), make("p.quiet.note")];
  host.id = "pareto";
  const costs = menu("cost", [], (cost) => again({ cost }));
  const again = (change) => { Object.assign(picked, change); drawn(); };
  const controls = make("div.controls",
    menu("quality", rated.map(([k, { title }]) => [k, title]), (k) => again({ column: +k })),
    make("span.quiet", "against"), costs,
    choice("scale", { linear: "Linear", log: "Log" }, picked.scale, (scale) => again({ scale })));
  function offered() {
    const there = Object.keys(page.costs).filter((cost) =>
      page.points.some((point) => point.column === picked.column && point[cost] !== null));
    if (!there.includes(picked.cost)) picked.cost = there[0] || "seconds";
    costs.replaceChildren(...there.map((cost) => new Option(page.costs[cost], cost)));
    costs.value = picked.cost;
  }
  function drawn() {
    offered();
    const { better, title, protocol } = page.columns[picked.column];
    const dots = entities().flatMap((entity) => dotsOf(entity, picked.column, picked.cost));
    const standing = onFront(dots, better);
    dots.forEach((dot, i) => { dot.dim = !standing[i]; });
    const front = dots.filter((dot) => !dot.dim).sort((p, q) => p.x - q.x);
    front.forEach((dot, i) => {
      const last = i === front.length - 1 || front[i + 1].entity.label !== dot.entity.label;
      dot.label = last ? dot.entity.label : "";
    });
    const log = picked.scale === "log";
    plot(host, { x: { title: page.costs[picked.cost], log }, y: { title, log }, dots, front });
    note.textContent = `${title}: ${protocol}`;
  }
  parts.push(drawn);
  return section("Quality against cost",
    "every evaluation is a dot; the line is the Pareto front, what it beats is dim",
    controls, host, note);
}
