// Volumes: one solid on the stage, a slice beside it, thumbnails below.
const AXES = [["x", 2], ["y", 1], ["z", 0]]; // name, and its place in [D, H, W]
const state = { sample: 0, axis: 2, at: null, zoom: 1, spin: false, box: true, ...page.view };
const kept = new Map(); // the last few decoded volumes
const $ = (id) => document.getElementById(id);

async function decoded(i) {
  if (kept.has(i)) return kept.get(i);
  const item = items[i];
  const packed = Uint8Array.from(atob(item.blob), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  const [depth, height, width] = item.shown;
  let offset = 0;
  const take = (Kind, rows, columns) => {
    const end = offset + rows * columns * Kind.BYTES_PER_ELEMENT;
    const array = new Kind(bytes.slice(offset, end));
    for (let k = columns; k < array.length; k++) array[k] += array[k - columns];
    offset = end;
    return array;
  };
  const voxels = take(Uint8Array, depth * height * width, 1);
  const places = take(Int16Array, item.vertices, 3);
  const bent = take(Int8Array, item.vertices, 4);
  const corners = take(item.vertices > 65536 ? Uint32Array : Uint16Array, item.faces, 3);
  const half = (Math.max(...item.shown) + 2) / 2;
  const extent = [width, height, depth].map((side) => side / 2 / half);
  const shadow = shadowOf(voxels, depth, height, width);
  kept.set(i, { voxels, places, bent, corners, extent, shadow, half, shape: item.shown });
  if (kept.size > 6) kept.delete(kept.keys().next().value);
  return kept.get(i);
}

/** How much solid stands above each (y, x), the nearer the darker, softened. */
function shadowOf(voxels, depth, height, width) {
  let map = new Float32Array(height * width);
  for (let z = 0, k = 0; z < depth; z++) {
    const weight = Math.exp(-2.2 * z / depth);
    for (let p = 0; p < map.length; p++, k++)
      if (voxels[k] > 127) map[p] = Math.max(map[p], weight);
  }
  for (const step of [1, 2, 3, 5])
    if (step === 1 || 20 * step <= Math.max(depth, height, width))
      map = softened(softened(map, height, width, step, 0), height, width, 0, step);
  return { width, height, data: Uint8Array.from(map, (value) => 255 * value) };
}

function softened(map, height, width, dy, dx) {
  const at = (y, x) => (y < 0 || x < 0 || y >= height || x >= width ? 0 : map[y * width + x]);
  return map.map((value, p) => {
    const [y, x] = [Math.floor(p / width), p % width];
    return value / 2 + (at(y - dy, x - dx) + at(y + dy, x + dx)) / 4;
  });
}

/** Right, up and toward the viewer, and the scale at which the box fits at every azimuth. */
function cameraOf({ extent: [x, y, z] }, canvas) {
  const [a, e] = [state.azimuth, state.elevation].map((angle) => angle * Math.PI / 180);
  const [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
  const across = Math.hypot(x, y);
  const fit = 0.97 * state.zoom / Math.hypot(across, z);
  const ratio = canvas.width / canvas.height;
  return {
    right: [ca, sa, 0], up: [-sa * se, ca * se, ce], toward: [sa * ce, -ca * ce, se],
    scale: [fit / Math.max(1, ratio), fit * Math.min(1, ratio)],
  };
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

function edgesOf(range) {
  const points = [];
  for (let axis = 0; axis < 3; axis++) {
    if (range[axis][0] === range[axis][1]) continue;
    const [b, c] = [0, 1, 2].filter((k) => k !== axis);
    for (const u of new Set(range[b]))
      for (const v of new Set(range[c]))
        for (const end of range[axis]) {
          const point = [];
          [point[axis], point[b], point[c]] = [end, u, v];
          points.push(...point);
        }
  }
  return points;
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
