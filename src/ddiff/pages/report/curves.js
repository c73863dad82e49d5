// Figures over training, and quality against cost.
const AXES = {
  steps: ["Steps", "optimiser steps"], seconds: ["Wall-clock", "training, seconds"],
  images: ["Images", "images seen"],
};

/** A section with a chart that `drawn(host, note)` draws anew. */
function chartSection(id, title, about, controls, drawn) {
  const [host, note] = [make(`div.chart#${id}`), make("p.quiet.note")];
  parts.push(() => drawn(host, note));
  return section(title, about, make("div.controls", ...controls), host, note);
}

/** The points of an entity's line: of its only run, or the mean over seeds at shared steps. */
function lineOfEntity(curve, entity, axis) {
  const lines = known(entity.runs.map((i) => curve.lines[i]));
  if (lines.length < 2)
    return lines.flatMap((line) => line.values.map((y, k) =>
      ({ x: line[axis][k], y, low: line.low[k], high: line.high[k] })));
  const at = lines.map((line) => new Map(line.steps.map((step, k) => [step, k])));
  const shared = lines[0].steps.filter((step) => at.every((places) => places.has(step)));
  return shared.map((step) => {
    const own = (name) => spread(lines.map((line, i) => line[name][at[i].get(step)]));
    const [place, value] = [own(axis), own("values")];
    const std = value && value.std;
    return { x: place && place.mean, y: value && value.mean,
      low: std && value.mean - std, high: std && value.mean + std };
  });
}

function curvesChart() {
  if (!page.curves.length) return null;
  const picked = { curve: 0, axis: "steps", scale: "log" };
  const titles = page.curves.map(({ title }, i) => [i, title]);
  const short = Object.fromEntries(Object.entries(AXES).map(([name, [text]]) => [name, text]));
  const controls = [menu("what", titles, picked, "curve"), choice("across", short, picked, "axis"),
    choice("scale", { log: "Log", linear: "Linear" }, picked, "scale")];
  const about = "the band is one standard deviation over seeds, or a single evaluation's 95%";
  return chartSection("curves", "Over training", about, controls, (host, note) => {
    const curve = page.curves[picked.curve];
    const lines = entities().map((entity) =>
      ({ entity, points: lineOfEntity(curve, entity, picked.axis) }));
    const y = { title: curve.title, log: picked.scale === "log" };
    plot(host, { x: { title: AXES[picked.axis][1] }, y, lines });
    note.textContent = `${curve.title}: ${curve.note}`;
  });
}

/** Figures over the length of the average that the weights are. */
function lengthsChart() {
  if (!page.lengths.length) return null;
  const picked = { curve: 0, scale: "linear" };
  const titles = page.lengths.map(({ title }, i) => [i, title]);
  const controls = [menu("figure", titles, picked, "curve"),
    choice("scale", { linear: "Linear", log: "Log" }, picked, "scale")];
  const about = "evaluations with weights=0.05, or another length";
  return chartSection("lengths", "Over the length of the average", about, controls, (host, note) => {
    const curve = page.lengths[picked.curve];
    const lines = entities().map((entity) =>
      ({ entity, points: lineOfEntity(curve, entity, "steps") }));
    plot(host, { x: { title: page.length }, y: { title: curve.title, log: picked.scale === "log" },
      lines });
    note.textContent = `${curve.title}: ${curve.note}`;
  });
}

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
    const ends = y.std === null ? { low, high } : { low: y.mean - y.std, high: y.mean + y.std };
    const facts = [`${page.costs[cost]} ${number(x.mean)}`,
      [step === null ? "" : `step ${step}`, way].filter(Boolean).join(", "),
      range(ends.low, ends.high), y.n > 1 ? `mean of ${y.n} seeds` : ""];
    return { entity, x: x.mean, y: y.mean, ...ends, facts: facts.filter(Boolean) };
  });
}

function paretoChart() {
  const rated = page.columns.flatMap(({ better, title }, k) =>
    (better && page.points.filter((point) => point.column === k).length > 1 ? [[k, title]] : []));
  if (!rated.length) return null;
  const picked = { column: rated[0][0], cost: "seconds", scale: "linear" };
  const costs = menu("cost", [], picked, "cost");
  const controls = [menu("quality", rated, picked, "column"), make("span.quiet", "against"), costs,
    choice("scale", { linear: "Linear", log: "Log" }, picked, "scale")];
  const about = "every evaluation is a dot; the line is the Pareto front, what it beats is dim";
  return chartSection("pareto", "Quality against cost", about, controls, (host, note) => {
    const k = +picked.column;
    const there = Object.keys(page.costs).filter((cost) =>
      page.points.some((point) => point.column === k && point[cost] !== null));
    if (!there.includes(picked.cost)) picked.cost = there[0] || "seconds";
    costs.replaceChildren(...there.map((cost) => new Option(page.costs[cost], cost)));
    costs.value = picked.cost;
    const { better, title, protocol } = page.columns[k];
    const dots = entities().flatMap((entity) => dotsOf(entity, k, picked.cost));
    const standing = onFront(dots, better);
    dots.forEach((dot, i) => { dot.dim = !standing[i]; });
    const front = dots.filter((dot) => !dot.dim).sort((p, q) => p.x - q.x);
    front.forEach((dot, i) => { // the last of each entity in a row has its name beside it
      const last = front[i + 1]?.entity.label !== dot.entity.label;
      dot.label = last ? dot.entity.label : "";
    });
    const log = picked.scale === "log";
    plot(host, { x: { title: page.costs[picked.cost], log }, y: { title, log }, dots, front });
    note.textContent = `${title}: ${protocol}`;
  });
}
