// What the reader touches: stage, slice and thumbnails, tied together.
const press = (text, title, act) => {
  const button = make("button", text);
  button.title = title;
  button.onclick = act;
  return button;
};

function built() {
  const [stage, name, quiet] = [make("canvas"), make("span"), make("span.quiet")];
  const label = make("div.label", name, quiet);
  stage.setAttribute("aria-label", "the solid: drag to turn, wheel to zoom");
  const spin = press("Spin", "turn by itself (space)", () => set({ spin: !state.spin }));
  const box = press("Box", "show the box (b)", () => set({ box: !state.box }));
  const reset = press("Reset", "first view (r)", () => set(first));
  const slider = make("input");
  const [place, slice, facts, note] = [make("output"), make("canvas"), make("dl"), make("p")];
  [slider.type, slider.min, slice.id, note.id] = ["range", 0, "slice", "note"];
  slider.setAttribute("aria-label", "slice");
  slider.oninput = () => set({ at: +slider.value });
  const axes = AXES.map(([axis], k) =>
    press(axis, `slice across ${axis}`, () => set({ axis: k, at: null })));
  const side = make("div.card.side", slice, make("div.row", ...axes, slider, place), facts, note);
  const tools = make("div.tools", spin, box, reset);
  const bench = make("div.bench", make("div.card.stage", stage, label, tools), side);
  const grid = thumbnails(choose);
  $("main").append(bench, grid);
  return { stage, name, quiet, spin, box, slider, place, axes, facts, note, grid };
}

const first = { ...page.view, zoom: 1, spin: false };

function set(changes) {
  Object.assign(state, changes);
  refresh();
}

function choose(i) {
  set({ sample: (i + items.length) % items.length });
  location.replace("#" + state.sample);
}

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 2 });
const ui = built();
let painter = glStage(ui.stage);
if (!painter) {
  const fresh = ui.stage.cloneNode(); // a canvas that once tried WebGL may give nothing else
  ui.stage.replaceWith(fresh);
  ui.stage = fresh;
  painter = flatStage(fresh);
}
let [loaded, busy] = [null, false];

/** Redraws everything once, however often it is asked within a frame. */
function refresh() {
  if (busy) return;
  busy = true;
  requestAnimationFrame(async () => {
    busy = false;
    const sample = state.sample;
    const volume = await decoded(sample);
    if (sample !== state.sample) return;
    const sides = volume.shape[AXES[state.axis][1]];
    state.at = state.at === null ? sides >> 1 : Math.min(sides - 1, Math.max(0, state.at));
    volume.lines = linesOf(volume);
    if (loaded !== volume) painter.load(loaded = volume);
    fitted();
    painter.draw(cameraOf(volume, ui.stage, state));
    drawSlice(volume);
    told(items[sample], sides);
    document.documentElement.dataset.state = `ready ${painter.name}`;
    if (state.spin) { state.azimuth += 0.6; refresh(); }
  });
}

function fitted() {
  const dense = painter.name === "2d" ? 1 : Math.min(2, devicePixelRatio || 1);
  const pixels = (side) => Math.max(1, Math.round(side * dense));
  const [width, height] = [pixels(ui.stage.clientWidth), pixels(ui.stage.clientHeight)];
  if (width !== ui.stage.width || height !== ui.stage.height)
    [ui.stage.width, ui.stage.height] = [width, height];
}

function told(item, sides) {
  ui.name.textContent = item.caption;
  const empty = item.faces ? "" : " · empty: nothing is above 0";
  ui.quiet.textContent = `${state.sample + 1} of ${items.length}${empty}`;
  [ui.slider.max, ui.slider.value] = [sides - 1, state.at];
  ui.place.textContent = `${AXES[state.axis][0]} = ${state.at}`;
  [[ui.spin, state.spin], [ui.box, state.box], ...ui.axes.map((b, k) => [b, k === state.axis])]
    .forEach(([button, on]) => button.setAttribute("aria-pressed", on));
  const rows = {
    "size (D × H × W)": item.size.join(" × "), "filled": number(100 * item.filled) + " %",
    "values": item.range.map(number).join(" to "), "triangles": item.faces.toLocaleString("en"),
  };
  const cells = Object.entries(rows).flatMap(([k, v]) => [make("dt", k), make("dd", v)]);
  ui.facts.replaceChildren(...cells);
  const same = item.size.join() === item.shown.join();
  const smaller = `Drawn at ${item.shown.join(" × ")}: halved to keep this page small.`;
  ui.note.textContent = same ? "" : smaller;
  [...ui.grid.children].forEach((thumb, i) =>
    thumb.setAttribute("aria-current", i === state.sample));
}

const fingers = new Map();
const zoom = (factor) => set({ zoom: Math.min(12, Math.max(0.4, state.zoom * factor)) });
const apart = ([p, q]) => Math.hypot(p[0] - q[0], p[1] - q[1]);
ui.stage.onpointerdown = (event) => {
  ui.stage.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
};
ui.stage.onpointermove = (event) => {
  const old = fingers.get(event.pointerId);
  if (!old) return;
  const before = fingers.size === 2 ? apart([...fingers.values()]) : 0;
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (before) return zoom(apart([...fingers.values()]) / before);
  const [dx, dy] = [event.clientX - old[0], event.clientY - old[1]];
  const elevation = Math.min(90, Math.max(-90, state.elevation + 0.5 * dy));
  set({ azimuth: state.azimuth - 0.5 * dx, elevation });
};
ui.stage.onpointerup = ui.stage.onpointercancel = (event) => fingers.delete(event.pointerId);
ui.stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-0.0015 * event.deltaY));
}, { passive: false });
ui.stage.addEventListener("webglcontextlost", (event) => event.preventDefault());
ui.stage.addEventListener("webglcontextrestored", () => {
  [painter, loaded] = [glStage(ui.stage), null];
  refresh();
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    ArrowRight: () => choose(state.sample + 1), ArrowLeft: () => choose(state.sample - 1),
    ArrowUp: () => set({ at: state.at + 1 }), ArrowDown: () => set({ at: state.at - 1 }),
    r: () => set(first), b: () => set({ box: !state.box }), " ": () => set({ spin: !state.spin }),
  }[event.key];
  if (!act || (event.key === " " && event.target.tagName === "BUTTON")) return;
  event.preventDefault();
  act();
});
new ResizeObserver(refresh).observe(ui.stage);

const keys = [["←", "→"], ["↑", "↓"]].map((pair) => pair.map((key) => make("kbd", key)));
$("about").append(
  `${items.length} volume${items.length === 1 ? "" : "s"} · drag to turn, wheel to zoom · `,
  ...keys[0], " sample · ", ...keys[1], " slice",
);
const asked = parseInt(location.hash.slice(1), 10);
if (asked >= 0 && asked < items.length) state.sample = asked;
refresh();
