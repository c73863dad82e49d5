// Tables whose columns sort. A column is { title, hint, cell(row) }, a cell { sort, text, small }.

/** A table of columnsOf() and rowsOf(); a click on a head sorts, a second one turns round. */
function sortable(id, columnsOf, rowsOf) {
  const table = make(`table#${id}`);
  const sorted = { title: null, down: false };
  function fill() {
    const [rows, columns] = [rowsOf(), columnsOf()];
    const cells = rows.map((row) => columns.map((column) => column.cell(row)));
    const best = columns.map(({ better }, k) => bestOf(better, cells.map((row) => row[k].sort)));
    const at = columns.findIndex((column) => column.title === sorted.title);
    if (at >= 0) cells.sort((a, b) => compared(a[at].sort, b[at].sort, sorted.down));
    const head = make("tr", ...columns.map((column, k) => headOf(column, k === at)));
    const body = cells.map((row) => make("tr", ...row.map((cell, k) =>
      cellOf(cell, columns[k], cell.sort === best[k]))));
    table.replaceChildren(make("thead", head), make("tbody", ...body));
  }
  function headOf({ title, hint, words, mark }, active) {
    const button = press(title, hint || "sort", () => {
      sorted.down = active && !sorted.down;
      sorted.title = title;
      fill();
    });
    if (mark) button.prepend(mark);
    button.append(make("span.arrow", active ? (sorted.down ? "▼" : "▲") : ""));
    const head = make(words ? "th.words" : "th", button);
    head.scope = "col";
    head.setAttribute("aria-sort", active ? (sorted.down ? "descending" : "ascending") : "none");
    return head;
  }
  parts.push(fill);
  return make("div.scroll", table);
}

/** Numbers by size, words by letters, what is missing last either way. */
function compared(a, b, down) {
  const missing = (value) => value === null || value === undefined || value === "–";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const numeric = typeof a === "number" && typeof b === "number";
  const order = numeric ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

/** The best of several values; undefined where there is none. */
function bestOf(better, values) {
  const there = better ? known(values) : [];
  if (there.length < 2) return undefined;
  return better === "lower" ? Math.min(...there) : Math.max(...there);
}

function cellOf({ text, mark, small, hint }, { words }, best) {
  const node = make(words ? "td.words" : "td",
    mark ? make("div.name", mark, make("span", text)) : text);
  if (small) node.append(make("small", small));
  if (best) node.classList.add("best");
  if (hint) node.title = hint;
  return node;
}

/** A figure of several runs: mean and spread, or one value and its interval. */
function figureCell(figures) {
  const there = figures.filter((figure) => figure && figure.value !== null);
  const stats = spread(there.map((figure) => figure.value));
  if (!stats) return { sort: null, text: "–" };
  const [{ low, high, n, step, way }] = there;
  const within = range(low, high);
  const small = stats.std === null ? within : `± ${+stats.std.toPrecision(2)}`;
  const facts = [step === null ? "" : `step ${step}`, way, known([n]).length ? `n = ${n}` : "",
    stats.n > 1 ? `mean of ${stats.n} seeds, standard deviation` : within && `95%: ${within}`];
  return { sort: stats.mean, text: number(stats.mean), small,
    hint: facts.filter(Boolean).join("; ") };
}

const wordCell = (value) => ({ sort: value, text: String(value) });
const meanCell = (values, text) => {
  const stats = spread(values);
  return { sort: stats && stats.mean, text: stats ? text(stats.mean) : "–" };
};
const nameColumn = {
  title: "run", words: true,
  cell: (entity) => {
    const runs = entity.runs.map((i) => page.runs[i]);
    const small = runs.map(({ state }) => state).filter((said) => said !== "finished")[0];
    const hint = runs.map(({ path }) => path).join("\n");
    return { sort: entity.label, text: entity.label, mark: swatch(entity), small, hint };
  },
};

function runsTable() {
  const picked = { figures: "main" };
  const of = (entity, name) => entity.runs.map((i) => page.runs[i][name]);
  const measured = (title, name, text, hint) =>
    ({ title, hint, cell: (entity) => meanCell(of(entity, name), text) });
  const columns = () => [
    nameColumn,
    { title: "seed", cell: (entity) =>
      ({ sort: entity.runs.length > 1 ? entity.seeds : of(entity, "seed")[0], text: entity.seeds }) },
    measured("steps", "step", number),
    ...page.columns.filter(({ main }) => main || picked.figures === "all").map((column) => ({
      title: column.title, better: column.better, hint: column.protocol,
      cell: (entity) => figureCell(entity.runs.map((i) => column.cells[i])),
    })),
    measured("training", "seconds", duration, page.clock),
    measured("images", "images", brief, "images seen"),
    measured("samples/s", "speed", number, "while training, pauses left out"),
    measured("peak MB", "memory", (mb) => mb.toFixed(0), "of a GPU's allocator, or of the process"),
    ...page.options.filter(({ main }) => main).slice(0, 8).map(({ title, names, values }) => ({
      title, words: true, hint: names.join(" = "), cell: ({ group }) => wordCell(values[group]),
    })),
    { title: "device", words: true,
      cell: (entity) => wordCell([...new Set(of(entity, "device"))].join(", ")) },
  ];
  const names = { main: "Most shared figures", all: `All ${page.columns.length} figures` };
  const more = page.columns.some(({ main }) => !main);
  return section("Runs", "click a head to sort; the best of each figure is bold",
    ...(more ? [choice("figures", names, picked, "figures")] : []),
    sortable("runs", columns, entities));
}

/** One row for each way of sampling, where some run was sampled in several. */
function samplingTable() {
  const points = page.points.filter((point) => point.way);
  const ways = new Set(points.map((point) => `${point.run} ${point.way}`));
  if (ways.size <= new Set(points.map((point) => point.run)).size) return null;
  const measured = (title, name) =>
    ({ title, cell: (row) => meanCell(row.points.map((point) => point[name]), number) });
  const columns = [
    nameColumn, { title: "sampled by", words: true, cell: (row) => wordCell(row.way) },
    measured("evaluations", "evaluations"), measured("s/sample", "per_sample"),
  ];
  page.columns.forEach(({ title, better, protocol }, k) => {
    if (!points.some((point) => point.column === k)) return;
    columns.push({ title, better, hint: protocol,
      cell: (row) => figureCell(row.points.filter((point) => point.column === k)) });
  });
  const rows = () => entities().flatMap((entity) => {
    const own = points.filter((point) => entity.runs.includes(point.run));
    return [...new Set(own.map((point) => point.way))].map((way) => {
      const all = own.filter((point) => point.way === way);
      const last = Math.max(...all.map((point) => point.step ?? -1));
      return { ...entity, way, points: all.filter((point) => (point.step ?? -1) === last) };
    });
  });
  return section("Ways of sampling", "the newest weights of each run",
    sortable("ways", () => columns, rows));
}

function configTable() {
  if (!page.options.length) return null;
  const picked = { options: "main" };
  const columns = () => [
    { title: "option", words: true, cell: ({ names }) => wordCell(names.join(" = ")) },
    ...[...new Set(entities().map(({ group }) => group))].map((g) => ({
      title: page.groups[g].label, words: true, mark: swatch(page.groups[g]),
      cell: ({ values }) => wordCell(values[g]),
    })),
  ];
  const rows = () => page.options.filter(({ main }) => main || picked.options === "all");
  const names = { main: "Choices", all: "With what follows from them" };
  const switched = make("div.controls", choice("options", names, picked, "options"));
  return section("What differs in the configs", "options that are the same everywhere are left out",
    ...(page.options.some(({ main }) => !main) ? [switched] : []),
    sortable("configs", columns, rows));
}

/** What changed between two profiles: in phases, operators or memory. */
function profileTable({ title, rows }) {
  const gap = ([, before, after]) => (after ?? 0) - (before ?? 0);
  const signed = (value) => (value > 0 ? "+" : "") + number(+value.toPrecision(3));
  const value = (k) => (row) => ({ sort: row[k], text: number(row[k]) });
  const columns = [
    { title, words: true, cell: ([name]) => wordCell(name) },
    { title: "before", cell: value(1) }, { title: "after", cell: value(2) },
    { title: "difference", cell: (row) => ({ sort: gap(row), text: signed(gap(row)),
      small: row[1] && row[2] ? `${signed(100 * gap(row) / row[1])}%` : "" }) },
  ];
  return sortable("", () => columns, () => rows);
}

function profilesSection() {
  if (!page.profiles.length) return null;
  const changes = page.profiles.flatMap(({ title, tables }) =>
    [make("h3", title), make("div.side", ...tables.map(profileTable))]);
  return section("What changed in the profiles",
    "phases are timed in steps that no operator was recorded in",
    make("div#profiles", ...changes));
}
