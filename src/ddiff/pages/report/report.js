// The page, part by part.
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
document.getElementById("about").textContent = count(page.runs.length, "run")
  + (several ? ` in ${count(page.groups.length, "group")} that differ in more than the seed` : "");

function protocols() {
  if (!page.columns.length) return null;
  const terms = page.columns.flatMap(({ title, protocol }) =>
    [make("dt", title), make("dd", protocol)]);
  const list = make("dl.protocols", ...terms, make("dt", "wall-clock"), make("dd", page.clock));
  list.id = "protocols";
  const note = "figures of different protocols never share a column";
  return section("How it was measured", note, list);
}

function troubles() {
  if (!page.troubles.length) return null;
  const items = page.troubles.map((text) => make("li", text));
  return section("Broken or missing", "", make("ul.troubles", ...items));
}

document.getElementById("main").append(...[
  page.runs.length > 1 ? chooser() : null, runsTable(), curvesChart(), paretoChart(), gallery(),
  samplingTable(), page.options.length ? configTable() : null, profilesSection(), protocols(),
  troubles(),
  make("footer.quiet", page.footer),
].filter(Boolean));
redraw();
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== wide) redraw();
  wide = innerWidth;
});
document.documentElement.dataset.state = "ready";
