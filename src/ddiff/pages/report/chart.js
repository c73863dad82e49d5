// A chart in SVG: lines with bands, dots, a front; the nearest is told under the pointer.
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 62, right: 14, top: 12, bottom: 40 };

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** From values to pixels, with round ticks; a log axis leaves out what is not positive. */
function scaled(values, from, to, log, room) {
  const fit = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  if (!fit.length) return null;
  let [low, high] = [Math.min(...fit), Math.max(...fit)].map((v) => (log ? Math.log10(v) : v));
  if (low === high) {
    const pad = log ? 0.3 : Math.abs(low) / 2 || 1;
    [low, high] = [low - pad, high + pad];
  }
  const pad = 0.05 * (high - low);
  const start = !log && low >= 0 && low < 0.35 * high ? 0 : low - pad;
  const span = high + pad - start;
  const at = (value) => from + (to - from) * ((log ? Math.log10(value) : value) - start) / span;
  const ticks = (log ? decades : rounds)(start, start + span, room);
  return { at, ticks, fits: (value) => Number.isFinite(value) && (!log || value > 0) };
}

function rounds(low, high, room) {
  const rough = (high - low) / room;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = base * [1, 2, 5, 10].find((factor) => factor * base >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++)
    ticks.push(+(k * step).toPrecision(12));
  return ticks;
}

function decades(low, high, room) {
  for (const leads of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let d = Math.floor(low); d <= high; d++)
      for (const lead of leads) {
        const log = d + Math.log10(lead);
        if (log >= low && log <= high) ticks.push(+(lead * 10 ** d).toPrecision(12));
      }
    if (ticks.length <= room + 2 || leads.length === 1)
      return ticks.length > 1 ? ticks : rounds(10 ** low, 10 ** high, room).filter((t) => t > 0);
  }
}

const brief = (value) => {
  for (const [unit, size] of [["M", 1e6], ["k", 1e3]])
    if (Math.abs(value) >= 10 * size) return `${+(value / size).toPrecision(4)}${unit}`;
  return number(value);
};

/**
 * Draws `{ x: { title, log }, y: { title, log }, lines, dots, front }` into `host`, anew at each
 * call. Lines are { entity, points: [{ x, y, low, high }] }; dots { entity, x, y, low, high, dim,
 * label, facts }; a front is [{ x, y }] by rising x.
 */
function plot(host, { x, y, lines = [], dots = [], front = [] }) {
  const width = Math.max(280, host.clientWidth);
  const height = Math.round(Math.min(430, Math.max(250, 0.42 * width)));
  const all = [...lines.flatMap((line) => line.points), ...dots];
  const inner = [width - MARGIN.right, height - MARGIN.bottom];
  const heights = all.flatMap((p) => known([p.y, p.low, p.high]));
  const room = Math.min(8, width / 110);
  const across = scaled(all.map((p) => p.x), MARGIN.left, inner[0], x.log, room);
  const up = scaled(heights, inner[1], MARGIN.top, y.log, 6);
  if (!across || !up) {
    host.replaceChildren(make("p.quiet.empty", "Nothing to draw: no values for these axes."));
    return;
  }
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.append(...frame(across, up, inner, x, y, width, height));
  const seen = (p) => across.fits(p.x) && up.fits(p.y);
  const place = (p) => [across.at(p.x), up.at(p.y)];
  for (const line of lines) svg.append(...lineOf(line, seen, place, up, lines.length));
  const steps = front.filter(seen).map(place);
  if (steps.length) svg.append(shape("path", { class: "front", d: staircase(steps, inner[0]) }));
  for (const dot of [...dots].sort((a, b) => b.dim - a.dim))
    if (seen(dot)) svg.append(...dotOf(dot, place, up));
  svg.append(...labelled(dots.filter((dot) => dot.label && seen(dot)), place, width));
  host.replaceChildren(svg, pointed(svg, { x, y, lines, dots, seen, place, height, width }));
}

function frame(across, up, [right, low], x, y, width, height) {
  const text = (content, attributes) => shape("text", attributes, content);
  const level = (name, at) =>
    shape("line", { class: name, x1: MARGIN.left, x2: right, y1: at, y2: at });
  const middle = { class: "title", "text-anchor": "middle" };
  return [
    ...up.ticks.flatMap((tick) => [
      level("grid-line", up.at(tick)),
      text(brief(tick), { x: MARGIN.left - 8, y: up.at(tick) + 4, "text-anchor": "end" }),
    ]),
    ...across.ticks.map((tick) =>
      text(brief(tick), { x: across.at(tick), y: low + 18, "text-anchor": "middle" })),
    level("axis", low),
    text(x.title, { ...middle, x: (MARGIN.left + right) / 2, y: height - 5 }),
    text(y.title, { ...middle, transform: `translate(13 ${(MARGIN.top + low) / 2}) rotate(-90)` }),
  ];
}

const joined = (spots) =>
  spots.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");

function lineOf({ entity, points }, seen, place, up, crowd) {
  const there = points.filter(seen);
  const spots = there.map(place);
  const band = there.filter((p) => up.fits(p.low) && up.fits(p.high));
  const drawn = [];
  if (band.length > 1) {
    const edge = (name) => band.map((p) => place({ x: p.x, y: p[name] }));
    const d = `${joined([...edge("low"), ...edge("high").reverse()])}Z`;
    drawn.push(shape("path", { d, fill: entity.colour, opacity: crowd > 5 ? 0.07 : 0.15 }));
  }
  drawn.push(shape("path", { class: "line", d: joined(spots), stroke: entity.colour,
    "stroke-dasharray": entity.dashes.join(" "), "data-label": entity.label }));
  if (spots.length <= 40)
    drawn.push(...spots.map(([cx, cy]) =>
      shape("circle", { cx, cy, r: 2.4, fill: entity.colour })));
  return drawn;
}

function dotOf(dot, place, up) {
  const [cx, cy] = place(dot);
  const drawn = [];
  if (!dot.dim && up.fits(dot.low) && up.fits(dot.high))
    drawn.push(shape("line", { class: "bar", stroke: dot.entity.colour, x1: cx, x2: cx,
      y1: up.at(dot.low), y2: up.at(dot.high) }));
  drawn.push(shape("circle", { class: dot.dim ? "dot dim" : "dot", cx, cy, r: dot.dim ? 4 : 6,
    fill: dot.entity.colour, "data-label": dot.entity.label }));
  return drawn;
}

/** A point stands until the next is reached: steps, and on to the border. */
function staircase(steps, right) {
  const [[left, top], ...rest] = steps.map((spot) => spot.map((c) => c.toFixed(1)));
  return `M${left} ${top}${rest.map(([a, b]) => `H${a}V${b}`).join("")}H${right}`;
}

/** Names beside dots, as many as do not lie on one another. */
function labelled(dots, place, width) {
  const taken = dots.map((dot) => place(dot)).map(([a, b]) => [a - 6, b - 6, a + 6, b + 6]);
  const free = ([left, top, right, low]) =>
    !taken.some((t) => t[0] < right && left < t[2] && t[1] < low && top < t[3]);
  return dots.flatMap((dot) => {
    const [cx, cy] = place(dot);
    const long = 6.6 * dot.label.length;
    for (const [dx, dy] of [[10, -8], [10, 14], [-10 - long, -8], [-10 - long, 14]]) {
      const box = [cx + dx, cy + dy - 9, cx + dx + long, cy + dy + 3];
      if (box[0] < MARGIN.left || box[2] > width || box[1] < 0 || !free(box)) continue;
      taken.push(box);
      return [shape("text", { class: "name", x: box[0], y: cy + dy }, dot.label)];
    }
    return [];
  });
}

/** The box that tells what is nearest to the pointer. */
function pointed(svg, { x, y, lines, dots, seen, place, height, width }) {
  const told = make("div.told");
  told.hidden = true;
  const rule = shape("line", { class: "rule", y1: MARGIN.top, y2: height - MARGIN.bottom });
  svg.append(rule);
  const nearest = (points, distance) => points.reduce((best, point) => {
    const far = distance(place(point));
    return far < best.far ? { point, far } : best;
  }, { far: Infinity });
  const tell = (left, rows) => {
    told.replaceChildren(...rows);
    told.hidden = rows.length === 0;
    told.style.left = `${Math.min(left + 14, Math.max(0, width - told.offsetWidth - 4))}px`;
  };
  const row = (entity, value) =>
    make("div.told-row", swatch(entity), make("span", entity.label), make("b", value));
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    rule.removeAttribute("x1");
    if (dots.length) {
      const { point, far } = nearest(dots.filter(seen), ([a, b]) => Math.hypot(a - px, b - py));
      if (far > 28) return tell(px, []);
      const facts = point.facts.map((fact) => make("div.quiet", fact));
      return tell(px, [row(point.entity, `${y.title} ${number(point.y)}`), ...facts]);
    }
    const along = ([a]) => Math.abs(a - px);
    const found = lines.map(({ entity, points }) =>
      ({ entity, ...nearest(points.filter(seen), along) })).filter(({ point }) => point);
    const close = Math.min(...found.map(({ far }) => far));
    const rows = found.filter(({ far }) => far <= close + 12).sort((a, b) => b.point.y - a.point.y);
    if (!rows.length) return tell(px, []);
    const [at] = place(rows[0].point);
    rule.setAttribute("x1", at);
    rule.setAttribute("x2", at);
    const title = make("div.quiet", `${x.title} ${brief(rows[0].point.x)}`);
    const told = rows.slice(0, 14).map(({ entity, point }) => row(entity, number(point.y)));
    return tell(at, [title, ...told]);
  };
  svg.onpointerleave = () => { tell(0, []); rule.removeAttribute("x1"); };
  return told;
}
