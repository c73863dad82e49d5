// Samples side by side: images enlarge, volumes turn together under the mouse.
const view = { ...page.view, zoom: 1.1 };
const solids = []; // { item, canvas, near, scene }
let painter = null;
let waiting = false;

/** One stage draws every solid in turn, for a browser keeps few WebGL contexts. */
function stage() {
  if (painter) return painter;
  const canvas = new OffscreenCanvas(1, 1);
  const gl = glStage(canvas);
  const flat = gl ? null : new OffscreenCanvas(1, 1);
  painter = gl ? { ...gl, canvas } : { ...flatStage(flat), canvas: flat };
  return painter;
}

function turned() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(async () => {
    waiting = false;
    for (const solid of solids.filter(({ near, canvas }) => near && canvas.isConnected)) {
      solid.scene ||= { ...await inflated(solid.item), lines: [] };
      drawSolid(solid);
    }
    document.documentElement.dataset.solids = solids.filter(({ scene }) => scene).length;
  });
}

function drawSolid({ scene, canvas }) {
  const { load, draw, canvas: source } = stage();
  const side = Math.max(1, Math.round(canvas.clientWidth * Math.min(2, devicePixelRatio || 1)));
  if (source.width !== side) [source.width, source.height] = [side, side];
  load(scene);
  draw(cameraOf(scene, source, view));
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(source.transferToImageBitmap());
}

const nearby = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen)
    solids.find(({ canvas }) => canvas === target).near = isIntersecting;
  turned();
}, { rootMargin: "200px" });

function turn(dx, dy) {
  view.azimuth -= 0.6 * dx;
  view.elevation = Math.min(90, Math.max(-90, view.elevation + 0.6 * dy));
  turned();
}

function solidOf(item, label) {
  const canvas = make("canvas.solid");
  canvas.setAttribute("aria-label", `${label}: drag to turn`);
  canvas.tabIndex = 0;
  let from = null;
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = [event.clientX, event.clientY];
  };
  canvas.onpointermove = (event) => {
    if (!from) return;
    turn(event.clientX - from[0], event.clientY - from[1]);
    from = [event.clientX, event.clientY];
  };
  canvas.onpointerup = canvas.onpointercancel = () => { from = null; };
  canvas.onkeydown = (event) => {
    const by = { ArrowLeft: [-15, 0], ArrowRight: [15, 0], ArrowUp: [0, -15], ArrowDown: [0, 15] };
    if (!by[event.key]) return;
    event.preventDefault();
    turn(...by[event.key]);
  };
  solids.push({ item, canvas, near: false, scene: null });
  nearby.observe(canvas);
  return canvas;
}

function imagesOf({ picture, width }, label, enlarge) {
  const image = make("img");
  [image.src, image.alt] = [picture, label];
  const button = make("button.images", image);
  button.title = "enlarge";
  button.onclick = () => enlarge(picture, label, width);
  return button;
}

function gallery() {
  if (!page.runs.some((run) => run.samples)) return null;
  const [large, words, close] = [make("img"), make("span"), make("button", "Close")];
  const dialog = make("dialog", large, make("div.row", words, close));
  close.onclick = () => dialog.close();
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  const enlarge = (picture, label, width) => {
    const room = Math.min(innerWidth - 60, innerHeight - 120);
    [large.src, large.alt, words.textContent] = [picture, label, label];
    large.style.width = `${width * Math.max(1, Math.floor(room / width))}px`;
    dialog.showModal();
  };
  const cards = page.runs.map(({ samples, label }) => {
    if (!samples) return null;
    const shown = samples.kind === "images"
      ? [imagesOf(samples, label, enlarge)]
      : [make("div.solids", ...samples.solids.map((item) => solidOf(item, label)))];
    const facts = `${samples.file}, ${samples.shown}`;
    return make("figure", make("figcaption", make("span"), make("small.quiet", facts)), ...shown);
  });
  const grid = make("div.gallery", ...cards.filter(Boolean));
  parts.push(() => {
    const names = new Map();
    for (const entity of entities()) {
      const first = entity.runs.find((i) => page.runs[i].samples);
      if (first !== undefined) names.set(first, entity);
    }
    cards.forEach((card, i) => {
      if (!card) return;
      card.hidden = !names.has(i);
      if (card.hidden) return;
      const { label, runs } = names.get(i);
      const seed = runs.length > 1 ? `${label}, seed ${page.runs[i].seed}` : label;
      card.firstChild.firstChild.replaceChildren(swatch(names.get(i)), seed);
    });
    turned();
  });
  new ResizeObserver(turned).observe(grid);
  const turning = `drag to turn all; drawn at up to ${page.limits}`;
  const how = solids.length ? turning : "click to enlarge";
  const card = section("Samples", how, grid, dialog);
  card.id = "samples";
  return card;
}
