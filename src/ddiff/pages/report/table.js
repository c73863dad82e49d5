// Tables whose columns sort. A column is { title, hint, cell(row) }, a cell { sort, text, small }.

/** A function that fills the table with rows; a click on a head sorts, a second one turns round. */
function sortable(host, columnsOf) {
  const sorted = { title: null, down: false };
  let rows = [];
  function fill(next) {
    rows = next;
    const columns = columnsOf(rows);
    const cells = new Map(rows.map((row) => [row, columns.map((column) => column.cell(row))]));
    const at = columns.findIndex((column) => column.title === sorted.title);
    const order = at < 0 ? rows : [...rows].sort((a, b) =>
      compared(cells.get(a)[at].sort, cells.get(b)[at].sort, sorted.down));
    const head = make("tr", ...columns.map((column, k) => headOf(column, k === at)));
    const body = order.map((row) => rowOf(cells.get(row), columns, cells));
    host.replaceChildren(make("thead", head), make("tbody", ...body));
  }
  function headOf(column, active) {
    const arrow = make("span.arrow", active ? (sorted.down ? "▼" : "▲") : "");
    const button = make("button", column.title, arrow);
    button.title = column.hint || "sort";
    button.onclick = () => {
      sorted.down = active && !sorted.down;
      sorted.title = column.title;
      fill(rows);
    };
    const head = make(column.words ? "th.words" : "th", button);
    head.scope = "col";
    head.setAttribute("aria-sort",
      active ? (sorted.down ? "descending" : "ascending") : "none");
    return head;
  }
  return fill;
}

/** Numbers by size, words by letters, what is missing last either way. */
function compared(a, b, down) {
  const missing = (value) => value === null || value === undefined || value === "–";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const numeric = typeof a === "number" && typeof b === "number";
  const order = numeric ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

function rowOf(cells, columns, all) {
  return make("tr", ...cells.map((cell, k) => {
    const better = columns[k].better;
    const values = better ? known([...all.values()].map((row) => row[k].sort)) : [];
    const best = better === "lower" ? Math.min(...values) : Math.max(...values);
    const text = cell.mark ? make("div.name", cell.mark, make("span", cell.text)) : cell.text;
    const node = make(columns[k].words ? "td.words" : "td", text);
    if (cell.small) node.append(make("small", cell.small));
    if (values.length > 1 && cell.sort === best) node.classList.add("best");
    if (cell.hint) node.title = cell.hint;
    return node;
  }));
}

/** A figure of several runs: mean and spread, or one value and its interval. */
function figureCell(figures) {
  const there = figures.filter((figure) => figure && figure.value !== null);
  const stats = spread(there.map((figure) => figure.value));
  if (!stats) return { sort: null, text: "–" };
  const [{ low, high, n, step, way }] = there;
  const within = known([low, high]).length === 2 ? `${number(low)} to ${number(high)}` : "";
  const small = stats.std === null ? within : `± ${+stats.std.toPrecision(2)}`;
  const facts = [step === null ? "" : `step ${step}`, way, known([n]).length ? `n = ${n}` : "",
    stats.n > 1 ? `mean of ${stats.n} seeds, standard deviation` : within && `95%: ${within}`];
  const hint = facts.filter(Boolean).join("; ");
  return { sort: stats.mean, text: number(stats.mean), small, hint };
}

const wordCell = (value) => ({ sort: value, text: String(value) });
const meanCell = (values, text) => {
  const stats = spread(values);
  return { sort: stats && stats.mean, text: stats ? text(stats.mean) : "–" };
};
const nameColumn = {
  title: "run", words: true,
  cell: (entity) => {
    const odd = entity.runs.map((i) => page.runs[i].state).filter((s) => s !== "finished");
    return { sort: entity.label, text: entity.label, mark: swatch(entity), small: odd[0],
      hint: entity.runs.map((i) => page.runs[i].path).join("\n") };
  },
};

function runsTable() {
  const table = make("table");
  table.id = "runs";
  const of = (entity, name) => entity.runs.map((i) => page.runs[i][name]);
  const measured = (title, name, text, hint) =>
    ({ title, hint, cell: (entity) => meanCell(of(entity, name), text) });
  const more = page.columns.filter((column) => !column.main).length;
  let all = false;
  const columns = () => [
    nameColumn,
    { title: "seed", cell: (e) => ({ sort: e.runs.length > 1 ? e.seeds : page.runs[e.runs[0]].seed,
      text: e.seeds }) },
    measured("steps", "step", number),
    ...page.columns.filter((column) => column.main || all).map((column) => ({
      title: column.title, better: column.better, hint: column.protocol,
      cell: (entity) => figureCell(entity.runs.map((i) => column.cells[i])),
    })),
    measured("training", "seconds", duration, page.clock),
    measured("images", "images", brief, "images seen"),
    measured("samples/s", "speed", number, "while training, pauses left out"),
    measured("peak MB", "memory", (mb) => mb.toFixed(0), "of a GPU's allocator, or of the process"),
    ...page.options.filter((option) => option.main).slice(0, 8).map((option) => ({
      title: option.title, words: true, hint: option.names.join(" = "),
      cell: (entity) => wordCell(option.values[entity.group]),
    })),
    { title: "device", words: true,
      cell: (entity) => wordCell([...new Set(of(entity, "device"))].join(", ")) },
  ];
  const fill = sortable(table, columns);
  const draw = () => fill(entities());
  parts.push(draw);
  const names = { main: "Most shared figures", all: `All ${page.columns.length} figures` };
  const chosen = more ? [choice("figures", names, "main", (name) => {
    all = name === "all";
    draw();
  })] : [];
  return section("Runs", "click a head to sort; the best of each figure is bold",
    ...chosen, make("div.scroll", table));
}

/** One row for each way of sampling, where some run was sampled in several. */
function samplingTable() {
  const points = page.points.filter((point) => point.way);
  const ways = new Set(points.map((point) => `${point.run} ${point.way}`));
  if (ways.size <= new Set(points.map((point) => point.run)).size) return null;
  const table = make("table");
  table.id = "ways";
  const used = page.columns.flatMap((_, k) => (points.some((p) => p.column === k) ? [k] : []));
  const columns = [
    nameColumn, { title: "sampled by", words: true, cell: (row) => wordCell(row.way) },
    { title: "evaluations", cell: (row) => meanCell(row.points.map((p) => p.evaluations), number) },
    { title: "s/sample", cell: (row) => meanCell(row.points.map((p) => p.per_sample), number) },
    ...used.map((k) => ({
      title: page.columns[k].title, better: page.columns[k].better, hint: page.columns[k].protocol,
      cell: (row) => figureCell(row.points.filter((point) => point.column === k)),
    })),
  ];
  const fill = sortable(table, () => columns);
  parts.push(() => fill(entities().flatMap((entity) => {
    const own = points.filter((point) => entity.runs.includes(point.run));
    return [...new Set(own.map((point) => point.way))].map((way) => {
      const all = own.filter((point) => point.way === way);
      const last = Math.max(...all.map((point) => point.step ?? -1));
      return { ...entity, way, points: all.filter((point) => (point.step ?? -1) === last) };
    });
  })));
  return section("Ways of sampling", "the newest weights of each run", make("div.scroll", table));
}

function configTable() {
  const picked = { all: false };
  const table = make("table");
  table.id = "configs";
  function filled() {
    const groups = [...new Set(entities().map((entity) => entity.group))];
    const heads = groups.map((g) => make("th.words",
      make("div.name", swatch(page.groups[g]), make("span", page.groups[g].label))));
    const rows = page.options.filter((option) => option.main || picked.all).map((option) =>
      make("tr", make("td.words", option.names.join(" = ")),
        ...groups.map((g) => make("td.words", String(option.values[g])))));
    table.replaceChildren(make("thead", make("tr", make("th.words", "option"), ...heads)),
      make("tbody", ...rows));
  }
  parts.push(filled);
  const names = { main: "Choices", all: "With what follows from them" };
  const switched = choice("options", names, "main", (which) => {
    picked.all = which === "all";
    filled();
  });
  const needed = page.options.some((option) => !option.main);
  return section("What differs in the configs", "options that are the same everywhere are left out",
    ...(needed ? [make("div.controls", switched)] : []), make("div.scroll", table));
}
