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
  const fits = (value) => Number.isFinite(value) && (!log || value > 0);
  const ruled = (value) => (log ? Math.log10(value) : value);
  const fit = values.filter(fits).map(ruled);
  if (!fit.length) return null;
  let [low, high] = [Math.min(...fit), Math.max(...fit)];
  if (low === high) {
    const pad = log ? 0.3 : Math.abs(low) / 2 || 1;
    [low, high] = [low - pad, high + pad];
  }
  const pad = 0.05 * (high - low);
  const start = !log && low >= 0 && low < 0.35 * high ? 0 : low - pad;
  const span = high + pad - start;
  const at = (value) => from + (to - from) * (ruled(value) - start) / span;
  return { at, fits, ticks: (log ? decades : rounds)(start, start + span, room) };
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
  const [right, low] = [width - MARGIN.right, height - MARGIN.bottom];
  const all = [...lines.flatMap((line) => line.points), ...dots];
  const heights = all.flatMap((p) => known([p.y, p.low, p.high]));
  const across = scaled(all.map((p) => p.x), MARGIN.left, right, x.log, Math.min(8, width / 110));
  const up = scaled(heights, low, MARGIN.top, y.log, 6);
  if (!across || !up) {
    host.replaceChildren(make("p.quiet.empty", "Nothing to draw: no values for these axes."));
    return;
  }
  const seen = (p) => across.fits(p.x) && up.fits(p.y);
  const area = {
    x, y, across, up, width, height, right, low, place: (p) => [across.at(p.x), up.at(p.y)],
  };
  lines = lines.map(({ entity, points }) => ({ entity, points: points.filter(seen) }));
  dots = dots.filter(seen);
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" },
    ...frame(area), ...lines.flatMap((line) => lineOf(area, line, lines.length)),
    ...staircase(area, front.filter(seen)),
    ...[...dots].sort((a, b) => b.dim - a.dim).flatMap((dot) => dotOf(area, dot)),
    ...labelled(area, dots.filter((dot) => dot.label)));
  host.replaceChildren(svg, pointed(area, svg, lines, dots));
}

function frame({ x, y, across, up, right, low, height }) {
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

function lineOf({ place, up }, { entity, points }, crowd) {
  const joined = (spots) =>
    spots.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
  const fill = entity.colour;
  const spots = points.map(place);
  const line = shape("path", { class: "line", d: joined(spots), stroke: fill,
    "stroke-dasharray": entity.dashes.join(" "), "data-label": entity.label });
  const dots = spots.map(([cx, cy]) => shape("circle", { cx, cy, r: 2.4, fill }));
  const drawn = spots.length <= 40 ? [line, ...dots] : [line];
  const band = points.filter((p) => up.fits(p.low) && up.fits(p.high));
  if (band.length < 2) return drawn;
  const edge = (name) => band.map((p) => place({ x: p.x, y: p[name] }));
  const d = `${joined([...edge("low"), ...edge("high").reverse()])}Z`;
  return [shape("path", { d, fill, opacity: crowd > 5 ? 0.07 : 0.15 }), ...drawn];
}

function dotOf({ place, up }, { entity, dim, low, high, ...dot }) {
  const [cx, cy] = place(dot);
  const circle = shape("circle", { class: dim ? "dot dim" : "dot", cx, cy, r: dim ? 4 : 6,
    fill: entity.colour, "data-label": entity.label });
  if (dim || !up.fits(low) || !up.fits(high)) return [circle];
  const ends = { x1: cx, x2: cx, y1: up.at(low), y2: up.at(high) };
  return [shape("line", { class: "bar", stroke: entity.colour, ...ends }), circle];
}

/** A point stands until the next is reached: steps, and on to the border. */
function staircase({ place, right }, points) {
  if (!points.length) return [];
  const [[left, top], ...rest] = points.map((p) => place(p).map((c) => c.toFixed(1)));
  const steps = rest.map(([a, b]) => `H${a}V${b}`).join("");
  return [shape("path", { class: "front", d: `M${left} ${top}${steps}H${right}` })];
}

/** Names beside dots, as many as do not lie on one another. */
function labelled({ place, width }, dots) {
  const taken = dots.map(place).map(([a, b]) => [a - 6, b - 6, a + 6, b + 6]);
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

/** The box that tells what is nearest to the pointer, and a rule where that is. */
function pointed({ x, y, place, width, low }, svg, lines, dots) {
  const told = make("div.told");
  const rule = shape("line", { class: "rule", y1: MARGIN.top, y2: low });
  svg.append(rule);
  const tell = (left, rows) => {
    told.replaceChildren(...rows);
    told.hidden = rows.length === 0;
    told.style.left = `${Math.min(left + 14, Math.max(0, width - told.offsetWidth - 4))}px`;
  };
  const nearest = (points, distance) => points.reduce((best, point) => {
    const far = distance(place(point));
    return far < best.far ? { point, far } : best;
  }, { far: Infinity });
  const row = (entity, value) =>
    make("div.told-row", swatch(entity), make("span", entity.label), make("b", value));
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    rule.removeAttribute("x1");
    if (dots.length) {
      const { point, far } = nearest(dots, ([a, b]) => Math.hypot(a - px, b - py));
      if (far > 28) return tell(px, []);
      const facts = point.facts.map((fact) => make("div.quiet", fact));
      return tell(px, [row(point.entity, `${y.title} ${number(point.y)}`), ...facts]);
    }
    const found = lines.map(({ entity, points }) =>
      ({ entity, ...nearest(points, ([a]) => Math.abs(a - px)) })).filter(({ point }) => point);
    const close = Math.min(...found.map(({ far }) => far));
    const near = found.filter(({ far }) => far <= close + 12).sort((a, b) => b.point.y - a.point.y);
    if (!near.length) return tell(px, []);
    const [at] = place(near[0].point);
    rule.setAttribute("x1", at);
    rule.setAttribute("x2", at);
    tell(at, [make("div.quiet", `${x.title} ${brief(near[0].point.x)}`),
      ...near.slice(0, 14).map(({ entity, point }) => row(entity, number(point.y)))]);
  };
  svg.onpointerleave = () => { tell(0, []); rule.removeAttribute("x1"); };
  tell(0, []);
  return told;
}
