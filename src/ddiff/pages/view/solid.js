// A solid as a page carries it: unpacked, with its shadow, a box and a camera that sees it all.

/** What an item's blob holds, ready for a stage. */
async function inflated(item) {
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
  return { voxels, places, bent, corners, extent, shadow, half, shape: item.shown };
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
function cameraOf({ extent: [x, y, z] }, canvas, view) {
  const [a, e] = [view.azimuth, view.elevation].map((angle) => angle * Math.PI / 180);
  const [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
  const across = Math.hypot(x, y);
  const fit = 0.97 * view.zoom / Math.hypot(across, z);
  const ratio = canvas.width / canvas.height;
  return {
    right: [ca, sa, 0], up: [-sa * se, ca * se, ce], toward: [sa * ce, -ca * ce, se],
    scale: [fit / Math.max(1, ratio), fit * Math.min(1, ratio)],
  };
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
