// Solids: unpacked, drawn and turned. WebGL where there is one, else a z-buffer on a 2D canvas.
// A scene is { places, bent, corners, extent, shadow, lines }, its positions are (x, y, z) within
// [-1, 1], z up; a view is { azimuth, elevation, zoom }. Light as in the stills.
const DISTANCE = 7; // of the eye, for a mild perspective
const LAMP = [-0.45, 0.66, 0.6]; // right, up, toward the viewer
const HALF = ((v) => v.map((c) => c / Math.hypot(...v)))([LAMP[0], LAMP[1], LAMP[2] + 1]);
const vec = (v) => `vec3(${v.map((c) => c.toFixed(6))})`;

const VERTEX = `
  attribute vec3 place; attribute vec4 bent; varying vec4 side; varying float height;
  varying vec2 spot; uniform mat3 frame; uniform vec2 scale; uniform vec3 extent;
  void main() {
    vec3 c = place * frame;
    float w = 1.0 - c.z / ${DISTANCE.toFixed(1)};
    float a = ${(DISTANCE / 2).toFixed(4)}; // depth a w + b: -w at z = 2, w at z = -2
    float b = ${((1 + DISTANCE / 2) * (2 / DISTANCE - 1)).toFixed(6)};
    gl_Position = vec4(c.xy * scale, a * w + b, w);
    side = vec4(bent.xyz * frame, bent.w); height = bent.z;
    spot = 0.5 + 0.5 * place.xy / extent.xy;
  }`;
const FRAGMENT = `
  precision mediump float; varying vec4 side; varying float height; varying vec2 spot;
  uniform sampler2D shadow; uniform float depth; uniform vec4 tint;
  void main() {
    if (tint.a > 0.0) { // floor and lines
      float dark = depth * texture2D(shadow, spot).r;
      gl_FragColor = vec4(tint.rgb * tint.a * (1.0 - dark), tint.a + dark - tint.a * dark);
      return;
    }
    vec3 n = normalize(side.xyz);
    float open = side.w;
    float lambert = clamp(0.88 * dot(n, ${vec(LAMP)}) + 0.12, 0.0, 1.0) * (0.35 + 0.65 * open);
    float sky = (0.30 + 0.16 * height) * open;
    float rim = 0.16 * pow(1.0 - clamp(n.z, 0.0, 1.0), 3.0) * open;
    float gloss = 0.13 * pow(clamp(dot(n, ${vec(HALF)}), 0.0, 1.0), 32.0);
    vec3 light = vec3(0.115, 0.270, 0.680) * (sky + 1.05 * lambert) + rim + gloss;
    gl_FragColor = vec4(pow(clamp(light, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
  }`;

/** What an item's blob holds, ready to be drawn. */
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
  const shadow = take(Uint8Array, height * width, 1);
  const half = (Math.max(...item.shown) + 2) / 2;
  const extent = [width, height, depth].map((side) => side / 2 / half);
  return { voxels, places, bent, corners, shadow, extent, half, shape: item.shown, lines: [] };
}

/** Right, up and toward the viewer, and the scale at which the box fits at every azimuth. */
function cameraOf({ extent: [x, y, z] }, canvas, view) {
  const [a, e] = [view.azimuth, view.elevation].map((angle) => angle * Math.PI / 180);
  const [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
  const fit = 0.97 * view.zoom / Math.hypot(x, y, z);
  const ratio = canvas.width / canvas.height;
  return {
    right: [ca, sa, 0], up: [-sa * se, ca * se, ce], toward: [sa * ce, -ca * ce, se],
    scale: [fit / Math.max(1, ratio), fit * Math.min(1, ratio)],
  };
}

let painter = null;

/** Draws a scene on a canvas of the page. One painter draws on all of them, because a browser keeps
 * few WebGL contexts; where it loses one, the page's `repaint()` begins with another. */
function paint(canvas, scene, view) {
  painter ||= glPainter() || flatPainter();
  const source = painter.canvas;
  const dense = painter.name === "2d" ? 1 : Math.min(2, devicePixelRatio || 1);
  const pixels = (side) => Math.max(1, Math.round(side * dense));
  [canvas.width, canvas.height] = [pixels(canvas.clientWidth), pixels(canvas.clientHeight)];
  if (canvas.width !== source.width || canvas.height !== source.height)
    [source.width, source.height] = [canvas.width, canvas.height];
  painter.draw(scene, cameraOf(scene, source, view));
  canvas.getContext("2d").drawImage(source, 0, 0);
}

const floorOf = ([x, y, z]) => [-x, -y, -z, x, -y, -z, x, y, -z, -x, y, -z];

/** WebGL, or null where the browser has none. */
function glPainter() {
  const canvas = make("canvas");
  const gl = canvas.getContext("webgl", { antialias: true, alpha: true });
  if (!gl || !gl.getExtension("OES_element_index_uint")) return null;
  canvas.addEventListener("webglcontextlost", () => { painter = null; repaint(); });
  const program = compiled(gl);
  const [places, bent, corners, rim] = [0, 1, 2, 3].map(() => gl.createBuffer());
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T])
    gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  let loaded = null;

  function load(scene) {
    loaded = scene;
    const fill = (target, buffer, data) => {
      gl.bindBuffer(target, buffer);
      gl.bufferData(target, data, gl.STATIC_DRAW);
    };
    fill(gl.ARRAY_BUFFER, places, scene.places);
    fill(gl.ARRAY_BUFFER, bent, scene.bent);
    fill(gl.ELEMENT_ARRAY_BUFFER, corners, scene.corners);
    const [, height, width] = scene.shape;
    const [format, type] = [gl.LUMINANCE, gl.UNSIGNED_BYTE];
    gl.texImage2D(gl.TEXTURE_2D, 0, format, width, height, 0, format, type, scene.shadow);
  }

  const at = (name) => gl.getUniformLocation(program, name);
  function attribute(name, buffer, size, type) {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, type !== gl.FLOAT, 0, 0);
    return place;
  }

  function flat(points, mode, tint, depth) {
    attribute("place", rim, 3, gl.FLOAT);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(points), gl.DYNAMIC_DRAW);
    gl.uniform4fv(at("tint"), tint);
    gl.uniform1f(at("depth"), depth);
    gl.drawArrays(mode, 0, points.length / 3);
  }

  function draw(scene, view) {
    if (loaded !== scene) load(scene);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(program);
    gl.uniformMatrix3fv(at("frame"), false, [...view.right, ...view.up, ...view.toward]);
    gl.uniform2fv(at("scale"), view.scale);
    gl.uniform3fv(at("extent"), scene.extent);
    gl.disable(gl.DEPTH_TEST);
    if (view.toward[2] > 0.02)
      flat(floorOf(scene.extent), gl.TRIANGLE_FAN, [0.36, 0.42, 0.52, 0.16], 0.42);
    gl.enable(gl.DEPTH_TEST);
    gl.uniform4f(at("tint"), 0, 0, 0, 0);
    attribute("place", places, 3, gl.SHORT);
    const normals = attribute("bent", bent, 4, gl.BYTE);
    const type = scene.corners instanceof Uint16Array ? gl.UNSIGNED_SHORT : gl.UNSIGNED_INT;
    gl.drawElements(gl.TRIANGLES, scene.corners.length, type, 0);
    gl.disableVertexAttribArray(normals);
    for (const { points, tint } of scene.lines) flat(points, gl.LINES, tint, 0);
  }
  return { name: "webgl", canvas, draw };
}

function compiled(gl) {
  const program = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
    const log = gl.getShaderInfoLog(shader);
    if (log && !gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(log);
  }
  gl.linkProgram(program);
  return program;
}

/** The same on a 2D canvas: every triangle into a z-buffer. */
function flatPainter() {
  const canvas = make("canvas");
  const context = canvas.getContext("2d");

  function draw({ places, bent, corners, extent, lines }, view) {
    const along = ([x, y, z], axis) => x * axis[0] + y * axis[1] + z * axis[2];
    const seen = (point) => {
      const depth = along(point, view.toward);
      const near = 0.5 / (1 - depth / DISTANCE);
      return [
        canvas.width * (0.5 + near * view.scale[0] * along(point, view.right)),
        canvas.height * (0.5 - near * view.scale[1] * along(point, view.up)), depth,
      ];
    };
    const vertices = new Float32Array(places.length / 3 * 4); // x, y, depth, light
    for (let i = 0; 4 * i < vertices.length; i++) {
      const [x, y, z, open] = [0, 1, 2, 3].map((k) => bent[4 * i + k] / 127);
      const side = [view.right, view.up, view.toward].map((axis) => along([x, y, z], axis));
      const lamp = Math.max(0, 0.12 + 0.88 * along(side, LAMP));
      const light = (0.3 + 0.16 * z) * open + lamp * (0.35 + 0.65 * open);
      const point = [0, 1, 2].map((k) => places[3 * i + k] / 32767);
      vertices.set([...seen(point), light], 4 * i);
    }
    const image = new ImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const nearest = new Float32Array(pixels.length).fill(-Infinity);
    const corner = (k) => vertices.subarray(4 * corners[k], 4 * corners[k] + 4);
    for (let f = 0; f < corners.length; f += 3)
      fill(canvas, pixels, nearest, corner(f), corner(f + 1), corner(f + 2));
    context.putImageData(image, 0, 0);
    context.globalCompositeOperation = "destination-over"; // what follows lies behind the solid
    const path = (points, long) => {
      context.beginPath();
      for (let i = 0; i < points.length; i += 3) {
        const [x, y] = seen(points.slice(i, i + 3));
        if (i % (3 * long)) context.lineTo(x, y);
        else context.moveTo(x, y);
      }
    };
    for (const { points, tint } of lines) {
      path(points, 2);
      context.strokeStyle = `rgb(${tint.slice(0, 3).map((c) => 255 * c).join(" ")} / ${tint[3]})`;
      context.stroke();
    }
    if (view.toward[2] <= 0.02) return;
    path(floorOf(extent), 4);
    context.fillStyle = "rgb(92 107 133 / .18)";
    context.fill();
  }
  return { name: "2d", canvas, draw };
}

const BLUES = Uint32Array.from({ length: 512 }, (_, light) => {
  const lit = (share) => 255 * Math.min(1, share * light / 170) ** 0.4545;
  const [red, green, blue] = [0.115, 0.27, 0.68].map(lit);
  return (255 << 24) | (blue << 16) | (green << 8) | red;
});

/** A triangle of corners [x, y, depth, light], where it faces the viewer and nothing is nearer. */
function fill({ width, height }, pixels, nearest, a, b, c) {
  const [ax, ay, bx, by, cx, cy] = [a[0], a[1], b[0], b[1], c[0], c[1]];
  const area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
  if (area >= 0) return;
  const range = (p, q, r, last) =>
    [Math.max(0, Math.min(p, q, r)), Math.min(last, Math.max(p, q, r))];
  const [top, low] = range(ay, by, cy, height - 1);
  const [left, end] = range(ax, bx, cx, width - 1);
  for (let y = Math.ceil(top - 0.5); y <= low; y++)
    for (let x = Math.ceil(left - 0.5); x <= end; x++) {
      const u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area;
      const v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area;
      if (u < -0.02 || v < -0.02 || u + v > 1.02) continue;
      const depth = u * a[2] + v * b[2] + (1 - u - v) * c[2];
      if (depth <= nearest[y * width + x]) continue;
      nearest[y * width + x] = depth;
      const light = u * a[3] + v * b[3] + (1 - u - v) * c[3];
      pixels[y * width + x] = BLUES[Math.max(0, 170 * light) | 0];
    }
}

const clamped = (value, least, most) => Math.min(most, Math.max(least, value));
/** Views turned by so many pixels, and zoomed by a factor. */
const turned = (view, dx, dy) =>
  ({ azimuth: view.azimuth - 0.5 * dx, elevation: clamped(view.elevation + 0.5 * dy, -90, 90) });
const zoomed = (view, factor) => ({ zoom: clamped(view.zoom * factor, 0.4, 12) });

/** One finger or the mouse turns the view, two fingers zoom: `set` takes what changes of it. */
function turnable(canvas, view, set) {
  const fingers = new Map();
  const apart = () => {
    const [p, q] = fingers.values();
    return q ? Math.hypot(p[0] - q[0], p[1] - q[1]) : 0;
  };
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  };
  canvas.onpointermove = (event) => {
    const old = fingers.get(event.pointerId);
    if (!old) return;
    const before = apart();
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (before) set(zoomed(view, apart() / before));
    else set(turned(view, event.clientX - old[0], event.clientY - old[1]));
  };
  canvas.onpointerup = canvas.onpointercancel = (event) => fingers.delete(event.pointerId);
}
