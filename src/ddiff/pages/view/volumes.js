// Volumes: one solid on the stage, a slice beside it, thumbnails below.
const { items } = page;
const AXES = [["x", 2], ["y", 1], ["z", 0]]; // name, and its place in [D, H, W]
const first = { ...page.view, zoom: 1, spin: false };
const state = { sample: 0, axis: 2, at: null, box: true, ...first };
const kept = new Map(); // the last few decoded volumes
const ui = {
  stage: make("canvas"), name: make("span"), quiet: make("span.quiet"),
  spin: press("Spin", "turn by itself (space)", () => set({ spin: !state.spin })),
  box: press("Box", "show the box (b)", () => set({ box: !state.box })),
  slice: make("canvas"), slider: make("input"), place: make("output"),
  axes: AXES.map(([axis], k) =>
    press(axis, `slice across ${axis}`, () => set({ axis: k, at: null }))),
  facts: make("dl"), note: make("p"), grid: thumbnails(items, choose),
};
ui.stage.setAttribute("aria-label", "the solid: drag to turn, wheel to zoom");
[ui.slider.type, ui.slider.min, ui.slice.id, ui.note.id] = ["range", 0, "slice", "note"];
ui.slider.setAttribute("aria-label", "slice");
ui.slider.oninput = () => set({ at: +ui.slider.value });
const reset = press("Reset", "first view (r)", () => set(first));
$("main").append(
  make("div.bench",
    make("div.card.stage", ui.stage, make("div.label", ui.name, ui.quiet),
      make("div.tools", ui.spin, ui.box, reset)),
    make("div.card.side", ui.slice, make("div.row", ...ui.axes, ui.slider, ui.place),
      ui.facts, ui.note)),
  ui.grid);

function set(changes) {
  Object.assign(state, changes);
  repaint();
}

function choose(i) {
  set({ sample: (i + items.length) % items.length });
  location.replace("#" + state.sample);
}

async function decoded(i) {
  if (kept.has(i)) return kept.get(i);
  const volume = await inflated(items[i]);
  kept.set(i, volume);
  if (kept.size > 6) kept.delete(kept.keys().next().value);
  return volume;
}

const repaint = perFrame(async () => {
  const sample = state.sample;
  const volume = await decoded(sample);
  if (sample !== state.sample) return;
  const sides = volume.shape[AXES[state.axis][1]];
  state.at = state.at === null ? sides >> 1 : clamped(state.at, 0, sides - 1);
  volume.lines = linesOf(volume);
  paint(ui.stage, volume, state);
  drawSlice(volume);
  told(items[sample], sides);
  document.documentElement.dataset.state = `ready ${painter.name}`;
  if (state.spin) set({ azimuth: state.azimuth + 0.6 });
});

/** The box, and the frame of the slice. */
function linesOf({ extent, half, shape }) {
  const box = extent.map((side) => [-side, side]);
  const lines = state.box ? [{ points: edgesOf(box), tint: [0.5, 0.56, 0.66, 0.45] }] : [];
  const where = (state.at - (shape[2 - state.axis] - 1) / 2) / half;
  const frame = box.map((range, k) => (k === state.axis ? [where, where] : range));
  return [...lines, { points: edgesOf(frame), tint: [0.95, 0.55, 0.2, 0.5] }];
}

/** The ends of a box's edges, one after the other; of a rectangle where one range is a point. */
function edgesOf(ranges) {
  const points = [];
  ranges.forEach(([low, high], axis) => {
    if (low === high) return;
    const [b, c] = [0, 1, 2].filter((k) => k !== axis);
    for (const u of new Set(ranges[b]))
      for (const v of new Set(ranges[c]))
        for (const end of [low, high]) {
          const point = { [axis]: end, [b]: u, [c]: v };
          points.push(point[0], point[1], point[2]);
        }
  });
  return points;
}

/** The slice at state.at, the larger coordinate up: solid in blue, the rest in grey. */
function drawSlice({ voxels, shape: [depth, height, width] }) {
  const [sides, strides] = [[width, height, depth], [1, width, width * height]];
  const [a, d] = [0, 1, 2].filter((k) => k !== state.axis);
  const [across, down] = [sides[a], sides[d]];
  [ui.slice.width, ui.slice.height] = [across, down];
  ui.slice.style.aspectRatio = `${across} / ${down}`;
  const image = new ImageData(across, down);
  for (let row = 0; row < down; row++)
    for (let column = 0; column < across; column++) {
      const place = column * strides[a] + (down - 1 - row) * strides[d];
      const value = voxels[place + state.at * strides[state.axis]] / 127.5 - 1;
      const inside = [148 - 90 * value, 186 - 74 * value, 250 - 30 * value, 255];
      const outside = [124, 136, 156, 210 * (value + 1)];
      image.data.set(value > 0 ? inside : outside, 4 * (row * across + column));
    }
  ui.slice.getContext("2d").putImageData(image, 0, 0);
}

/** Puts into words what is shown. */
function told(item, sides) {
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 2 });
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

turnable(ui.stage, state, set);
ui.stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  set(zoomed(state, Math.exp(-0.0015 * event.deltaY)));
}, { passive: false });
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
new ResizeObserver(repaint).observe(ui.stage);

const keys = ["←", "→", "↑", "↓"].map((key) => make("kbd", key));
$("about").append(
  `${items.length} volume${items.length === 1 ? "" : "s"} · drag to turn, wheel to zoom · `,
  keys[0], keys[1], " sample · ", keys[2], keys[3], " slice",
);
const asked = parseInt(location.hash.slice(1), 10);
if (items[asked]) state.sample = asked;
repaint();
