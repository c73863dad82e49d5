// Samples side by side: images enlarge, volumes turn together under the mouse.
const view = { ...page.view, zoom: 1.1 };
const solids = []; // { item, canvas, near, scene }

const repaint = perFrame(async () => {
  for (const solid of solids.filter(({ near, canvas }) => near && canvas.isConnected)) {
    solid.scene ||= await inflated(solid.item);
    paint(solid.canvas, solid.scene, view);
  }
  document.documentElement.dataset.solids = solids.filter(({ scene }) => scene).length;
});

const nearby = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen)
    solids.find(({ canvas }) => canvas === target).near = isIntersecting;
  repaint();
}, { rootMargin: "200px" });

function solidOf(item, label) {
  const canvas = make("canvas.solid");
  canvas.setAttribute("aria-label", `${label}: drag to turn`);
  canvas.tabIndex = 0;
  const set = (changes) => { Object.assign(view, changes); repaint(); };
  turnable(canvas, view, set);
  canvas.onkeydown = (event) => {
    const by = { ArrowLeft: [-18, 0], ArrowRight: [18, 0], ArrowUp: [0, -18], ArrowDown: [0, 18] };
    if (!by[event.key]) return;
    event.preventDefault();
    set(turned(view, ...by[event.key]));
  };
  solids.push({ item, canvas, near: false, scene: null });
  nearby.observe(canvas);
  return canvas;
}

function gallery() {
  if (!page.runs.some((run) => run.samples)) return null;
  const cards = new Map(); // run -> its card
  let listed = []; // pictures of the runs that are shown
  const enlarge = lightbox(() => listed, () => {});
  page.runs.forEach(({ samples, label }, i) => {
    if (!samples) return;
    const picture = { ...samples, caption: label };
    const shown = samples.kind === "images"
      ? press(imageOf(picture), "enlarge", () => enlarge(listed.findIndex(({ run }) => run === i)))
      : make("div.solids", ...samples.solids.map((item) => solidOf(item, label)));
    if (samples.kind === "images") shown.className = "images";
    const facts = make("small.quiet", `${samples.file}, ${samples.shown}`);
    cards.set(i, make("figure", make("figcaption", make("span"), facts), shown));
  });
  parts.push(() => {
    listed = [];
    cards.forEach((card) => { card.hidden = true; });
    for (const entity of entities()) {
      const run = entity.runs.find((i) => cards.has(i));
      if (run === undefined) continue;
      const { samples, seed } = page.runs[run];
      const caption = entity.runs.length > 1 ? `${entity.label}, seed ${seed}` : entity.label;
      cards.get(run).hidden = false;
      cards.get(run).querySelector("span").replaceChildren(swatch(entity), caption);
      if (samples.kind === "images") listed.push({ ...samples, caption, run });
    }
    repaint();
  });
  const grid = make("div.gallery", ...cards.values());
  new ResizeObserver(repaint).observe(grid);
  const turning = `drag to turn all; drawn at up to ${page.limits}`;
  return section("Samples", solids.length ? turning : "click to enlarge",
    make("div#samples", grid));
}
