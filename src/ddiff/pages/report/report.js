// The page, part by part.
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
$("about").textContent = count(page.runs.length, "run")
  + (several ? ` in ${count(page.groups.length, "group")} that differ in more than the seed` : "");

function protocols() {
  if (!page.columns.length) return null;
  const terms = page.columns.flatMap(({ title, protocol }) =>
    [make("dt", title), make("dd", protocol)]);
  return section("How it was measured", "figures of different protocols never share a column",
    make("dl.protocols#protocols", ...terms, make("dt", "wall-clock"), make("dd", page.clock)));
}

function troubles() {
  if (!page.troubles.length) return null;
  const items = page.troubles.map((text) => make("li", text));
  return section("Broken or missing", "", make("ul.troubles", ...items));
}

/** The verdicts of a study. */
function verdicts({ title, lines, table: [header, rows] }) {
  const cell = (text) => make("td.words", ...text.split("**").map((part, i) =>
    i % 2 ? make("strong", part) : part));
  const table = make("table.verdicts",
    make("thead", make("tr", ...header.map((name) => make("th.words", name)))),
    make("tbody", ...rows.map((row) => make("tr", ...row.map(cell)))));
  return section(title, "", ...lines.map((line) => make("p", line)), make("div.scroll", table));
}

$("main").append(...[
  ...page.prefaces.map(verdicts), page.runs.length > 1 ? chooser() : null, runsTable(), curvesChart(), lengthsChart(), paretoChart(), gallery(),
  samplingTable(), configTable(), profilesSection(), protocols(), troubles(),
  make("footer.quiet", page.footer),
].filter(Boolean));
redraw();
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== wide) redraw();
  wide = innerWidth;
});
document.documentElement.dataset.state = "ready";
