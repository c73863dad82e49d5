// Volumes: one solid on the stage, a slice beside it, thumbnails below.
const AXES = [["x", 2], ["y", 1], ["z", 0]]; // name, and its place in [D, H, W]
const state = { sample: 0, axis: 2, at: null, zoom: 1, spin: false, box: true, ...page.view };
const kept = new Map(); // the last few decoded volumes
const $ = (id) => document.getElementById(id);

async function decoded(i) {
  if (kept.has(i)) return kept.get(i);
  const volume = await inflated(items[i]);
  kept.set(i, volume);
  if (kept.size > 6) kept.delete(kept.keys().next().value);
  return volume;
}

/** The box, and the frame of the slice. */
function linesOf(volume) {
  const { extent, half, shape } = volume;
  const box = edgesOf(extent.map((side) => [-side, side]));
  const lines = state.box ? [{ points: box, tint: [0.5, 0.56, 0.66, 0.45] }] : [];
  const where = (state.at - (shape[2 - state.axis] - 1) / 2) / half;
  const frame = extent.map((side, k) => (k === state.axis ? [where, where] : [-side, side]));
  lines.push({ points: edgesOf(frame), tint: [0.95, 0.55, 0.2, 0.5] });
  return lines;
}

/** The slice at state.at, the larger coordinate up: solid in blue, the rest in grey. */
function drawSlice({ voxels, shape: [depth, height, width] }) {
  const [across, down] = [[height, depth], [width, depth], [width, height]][state.axis];
  const canvas = $("slice");
  [canvas.width, canvas.height] = [across, down];
  canvas.style.aspectRatio = `${across} / ${down}`;
  const image = new ImageData(across, down);
  const index = (i, j) => [
    (j * height + i) * width + state.at, (j * height + state.at) * width + i,
    (state.at * height + j) * width + i,
  ][state.axis];
  for (let row = 0; row < down; row++)
    for (let column = 0; column < across; column++) {
      const value = voxels[index(column, down - 1 - row)] / 127.5 - 1;
      const inside = [148 - 90 * value, 186 - 74 * value, 250 - 30 * value, 255];
      const outside = [124, 136, 156, 210 * (value + 1)];
      image.data.set(value > 0 ? inside : outside, 4 * (row * across + column));
    }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
