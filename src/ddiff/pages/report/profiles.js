// What changed between profiles: a table each for phases, operators and memory.

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
  const table = make("table");
  sortable(table, () => columns)(rows);
  return make("div.scroll", table);
}

function profilesSection() {
  if (!page.profiles.length) return null;
  const parts = page.profiles.flatMap(({ title, tables }) =>
    [make("h3", title), make("div.side", ...tables.map(profileTable))]);
  const node = section("What changed in the profiles",
    "phases are timed in steps that no operator was recorded in", ...parts);
  node.id = "profiles";
  return node;
}
