// Learning curves, and figures over training.
const AXES = {
  steps: ["Steps", "optimiser steps"], seconds: ["Wall-clock", "training, seconds"],
  images: ["Images", "images seen"],
};

/** The points of an entity's line: of its only run, or the mean over seeds at shared steps. */
function lineOfEntity(curve, entity, axis) {
  const lines = known(entity.runs.map((i) => curve.lines[i]));
  if (lines.length < 2)
    return lines.flatMap((line) => line.values.map((y, k) =>
      ({ x: line[axis][k], y, low: line.low[k], high: line.high[k] })));
  const at = lines.map((line) => new Map(line.steps.map((step, k) => [step, k])));
  const shared = lines[0].steps.filter((step) => at.every((places) => places.has(step)));
  return shared.map((step) => {
    const own = (name) => lines.map((line, i) => line[name][at[i].get(step)]);
    const [place, value] = [spread(own(axis)), spread(own("values"))];
    const std = value && value.std;
    return { x: place && place.mean, y: value && value.mean,
      low: std && value.mean - std, high: std && value.mean + std };
  });
}

function curvesChart() {
  if (!page.curves.length) return null;
  const picked = { curve: 0, axis: "steps", scale: "log" };
  const [host, note] = [make("div.chart"), make("p.quiet.note")];
  host.id = "curves";
  const again = (change) => { Object.assign(picked, change); drawn(); };
  const titles = page.curves.map(({ title }, i) => [i, title]);
  const short = Object.fromEntries(Object.entries(AXES).map(([name, [text]]) => [name, text]));
  const controls = make("div.controls",
    menu("what", titles, (i) => again({ curve: +i })),
    choice("across", short, picked.axis, (axis) => again({ axis })),
    choice("scale", { log: "Log", linear: "Linear" }, picked.scale, (scale) => again({ scale })));
  function drawn() {
    const curve = page.curves[picked.curve];
    const lines = entities().map((entity) =>
      ({ entity, points: lineOfEntity(curve, entity, picked.axis) }));
    const [x, y] = [AXES[picked.axis][1], curve.title];
    plot(host, { x: { title: x }, y: { title: y, log: picked.scale === "log" }, lines });
    note.textContent = `${curve.title}: ${curve.note}`;
  }
  parts.push(drawn);
  const about = "the band is one standard deviation over seeds, or a single evaluation's 95%";
  return section("Over training", about, controls, host, note);
}
