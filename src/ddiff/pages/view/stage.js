// The solid, drawn: WebGL where there is one, else a z-buffer on a 2D canvas. Light as in shade().
// A stage takes a scene {places, bent, corners, extent, shadow, lines} and a view {right, up,
// toward, scale}; positions are (x, y, z), z up, within [-1, 1].
const DISTANCE = 7; // of the eye, for a mild perspective
const LAMP = [-0.45, 0.66, 0.6]; // right, up, toward the viewer
const HALF = ((v) => v.map((c) => c / Math.hypot(...v)))([LAMP[0], LAMP[1], LAMP[2] + 1]);
const vec = (v) => `vec3(${v.map((c) => c.toFixed(6))})`;

const PROJECT = `
  uniform mat3 frame; uniform vec2 scale;
  vec4 project(vec3 p) {
    vec3 c = p * frame;
    float w = 1.0 - c.z / ${DISTANCE.toFixed(1)};
    float a = ${(DISTANCE / 2).toFixed(4)}; // depth a w + b: -w at z = 2, w at z = -2
    float b = ${((1 + DISTANCE / 2) * (2 / DISTANCE - 1)).toFixed(6)};
    return vec4(c.xy * scale, a * w + b, w);
  }`;
const SOLID_VERTEX = `
  attribute vec3 place; attribute vec4 bent; varying vec4 side; varying float height;
  ${PROJECT}
  void main() {
    gl_Position = project(place);
    side = vec4(bent.xyz * frame, bent.w); height = bent.z;
  }`;
const SOLID_FRAGMENT = `
  precision mediump float; varying vec4 side; varying float height;
  void main() {
    vec3 n = normalize(side.xyz);
    float open = side.w;
    float lambert = clamp(0.88 * dot(n, ${vec(LAMP)}) + 0.12, 0.0, 1.0) * (0.35 + 0.65 * open);
    float sky = (0.30 + 0.16 * height) * open;
    float rim = 0.16 * pow(1.0 - clamp(n.z, 0.0, 1.0), 3.0) * open;
    float gloss = 0.13 * pow(clamp(dot(n, ${vec(HALF)}), 0.0, 1.0), 32.0);
    vec3 light = vec3(0.115, 0.270, 0.680) * (sky + 1.05 * lambert) + rim + gloss;
    gl_FragColor = vec4(pow(clamp(light, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
  }`;
const FLAT_VERTEX = `
  attribute vec3 place; varying vec2 spot; uniform vec3 extent;
  ${PROJECT}
  void main() { gl_Position = project(place); spot = 0.5 + 0.5 * place.xy / extent.xy; }`;
const FLAT_FRAGMENT = `
  precision mediump float; varying vec2 spot; uniform sampler2D shadow; uniform vec4 tint;
  uniform float depth;
  void main() {
    float dark = depth * texture2D(shadow, spot).r;
    gl_FragColor = vec4(tint.rgb * tint.a * (1.0 - dark), tint.a + dark - tint.a * dark);
  }`;

/** WebGL on `canvas`, or null where the browser has none. */
function glStage(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true, alpha: true });
  if (!gl || !gl.getExtension("OES_element_index_uint")) return null;
  const solid = program(gl, SOLID_VERTEX, SOLID_FRAGMENT);
  const flat = program(gl, FLAT_VERTEX, FLAT_FRAGMENT);
  const [places, bent, corners, rim] = [0, 1, 2, 3].map(() => gl.createBuffer());
  const texture = gl.createTexture();
  let scene = null;

  function load(next) {
    scene = next;
    gl.bindBuffer(gl.ARRAY_BUFFER, places);
    gl.bufferData(gl.ARRAY_BUFFER, scene.places, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, bent);
    gl.bufferData(gl.ARRAY_BUFFER, scene.bent, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, corners);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, scene.corners, gl.STATIC_DRAW);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const { width, height, data } = scene.shadow;
    const [format, type] = [gl.LUMINANCE, gl.UNSIGNED_BYTE];
    gl.texImage2D(gl.TEXTURE_2D, 0, format, width, height, 0, format, type, data);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T])
      gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  }

  function attribute(use, name, buffer, size, type) {
    const at = gl.getAttribLocation(use.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, type, type !== gl.FLOAT, 0, 0);
    return at;
  }

  function drawSolid(view) {
    gl.enable(gl.DEPTH_TEST);
    start(gl, solid, view);
    const used = [
      attribute(solid, "place", places, 3, gl.SHORT), attribute(solid, "bent", bent, 4, gl.BYTE),
    ];
    const type = scene.corners instanceof Uint16Array ? gl.UNSIGNED_SHORT : gl.UNSIGNED_INT;
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, corners);
    gl.drawElements(gl.TRIANGLES, scene.corners.length, type, 0);
    used.forEach((at) => gl.disableVertexAttribArray(at));
  }

  function drawFlat(view, points, mode, tint, depth) {
    start(gl, flat, view);
    gl.bindBuffer(gl.ARRAY_BUFFER, rim);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(points), gl.DYNAMIC_DRAW);
    attribute(flat, "place", rim, 3, gl.FLOAT);
    gl.uniform3fv(flat.at("extent"), scene.extent);
    gl.uniform4fv(flat.at("tint"), tint);
    gl.uniform1f(flat.at("depth"), depth);
    gl.drawArrays(mode, 0, points.length / 3);
  }

  function draw(view) {
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.disable(gl.DEPTH_TEST);
    if (view.toward[2] > 0.02)
      drawFlat(view, floorOf(scene.extent), gl.TRIANGLE_FAN, [0.36, 0.42, 0.52, 0.16], 0.42);
    drawSolid(view);
    for (const { points, tint } of scene.lines) drawFlat(view, points, gl.LINES, tint, 0);
  }
  return { name: "webgl", load, draw };
}

function program(gl, ...sources) {
  const made = gl.createProgram();
  [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((type, i) => {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, sources[i]);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
    const log = gl.getShaderInfoLog(shader);
    if (log && !gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(log);
  });
  gl.linkProgram(made);
  return { program: made, at: (name) => gl.getUniformLocation(made, name) };
}

function start(gl, use, view) {
  gl.useProgram(use.program);
  gl.uniformMatrix3fv(use.at("frame"), false, [...view.right, ...view.up, ...view.toward]);
  gl.uniform2fv(use.at("scale"), view.scale);
}

const floorOf = ([x, y, z]) => [-x, -y, -z, x, -y, -z, x, y, -z, -x, y, -z];

/** The same on a 2D canvas: every triangle into a z-buffer. */
function flatStage(canvas) {
  const context = canvas.getContext("2d");
  let scene = null;
  const seen = (view, x, y, z) => {
    const along = (axis) => x * axis[0] + y * axis[1] + z * axis[2];
    const depth = along(view.toward);
    const near = 0.5 / (1 - depth / DISTANCE);
    return [
      canvas.width * (0.5 + near * view.scale[0] * along(view.right)),
      canvas.height * (0.5 - near * view.scale[1] * along(view.up)), depth,
    ];
  };

  function path(view, points, mode) {
    context.beginPath();
    for (let i = 0; i < points.length; i += 3) {
      const [x, y] = seen(view, points[i], points[i + 1], points[i + 2]);
      if (i === 0 || (mode === "lines" && i % 6 === 0)) context.moveTo(x, y);
      else context.lineTo(x, y);
    }
  }

  function draw(view) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (view.toward[2] > 0.02) {
      path(view, floorOf(scene.extent));
      context.fillStyle = "rgb(92 107 133 / .18)";
      context.fill();
    }
    for (const { points, tint } of scene.lines) {
      path(view, points, "lines");
      context.strokeStyle = `rgb(${tint.slice(0, 3).map((c) => 255 * c).join(" ")} / ${tint[3]})`;
      context.stroke();
    }
    const layer = new OffscreenCanvas(canvas.width, canvas.height);
    layer.getContext("2d").putImageData(rasterised(view), 0, 0);
    context.drawImage(layer, 0, 0);
  }

  function rasterised(view) {
    const { places, bent, corners } = scene;
    const image = new ImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const nearest = new Float32Array(pixels.length).fill(-Infinity);
    const count = places.length / 3;
    const [spots, tones] = [new Float32Array(3 * count), new Float32Array(count)];
    for (let i = 0; i < count; i++) {
      const [x, y, z] = [0, 1, 2].map((k) => places[3 * i + k] / 32767);
      spots.set(seen(view, x, y, z), 3 * i);
      tones[i] = tone(view, bent.subarray(4 * i, 4 * i + 4));
    }
    for (let f = 0; f < corners.length; f += 3)
      fill(pixels, nearest, canvas.width, canvas.height, spots, tones, corners.subarray(f, f + 3));
    return image;
  }
  return { name: "2d", load: (next) => { scene = next; }, draw };
}

function tone(view, bent) {
  const along = (axis) => (bent[0] * axis[0] + bent[1] * axis[1] + bent[2] * axis[2]) / 127;
  const n = [along(view.right), along(view.up), along(view.toward)];
  const open = bent[3] / 127;
  const lamp = 0.12 + 0.88 * (n[0] * LAMP[0] + n[1] * LAMP[1] + n[2] * LAMP[2]);
  return (0.3 + 0.16 * bent[2] / 127) * open + Math.max(0, lamp) * (0.35 + 0.65 * open);
}

const PALETTE = Uint32Array.from({ length: 512 }, (_, tone) => {
  const lit = (share) => 255 * Math.min(1, share * tone / 170) ** 0.4545;
  const [red, green, blue] = [0.115, 0.27, 0.68].map(lit);
  return (255 << 24) | (blue << 16) | (green << 8) | red;
});

function fill(pixels, nearest, width, height, spots, tones, [a, b, c]) {
  const [ax, ay, bx, by, cx, cy] = [a, b, c].flatMap((i) => [spots[3 * i], spots[3 * i + 1]]);
  const area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
  if (area >= 0) return; // seen from inside
  const range = (p, q, r, last) =>
    [Math.max(0, Math.min(p, q, r)), Math.min(last, Math.max(p, q, r))];
  const [top, low] = range(ay, by, cy, height - 1);
  const [left, end] = range(ax, bx, cx, width - 1);
  for (let y = Math.ceil(top - 0.5); y <= low; y++)
    for (let x = Math.ceil(left - 0.5); x <= end; x++) {
      const u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area;
      const v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area;
      if (u < -0.02 || v < -0.02 || u + v > 1.02) continue;
      const depth = u * spots[3 * a + 2] + v * spots[3 * b + 2] + (1 - u - v) * spots[3 * c + 2];
      if (depth <= nearest[y * width + x]) continue;
      nearest[y * width + x] = depth;
      const light = u * tones[a] + v * tones[b] + (1 - u - v) * tones[c];
      pixels[y * width + x] = PALETTE[Math.max(0, 170 * light) | 0];
    }
}
