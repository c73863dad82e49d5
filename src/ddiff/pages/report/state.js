// What is shown, and of whom: runs that are not hidden, each alone or the seeds of a group as one.
const state = { hidden: new Set(), seeds: "together" };
const parts = []; // functions that draw a part of the page anew
const redraw = () => parts.forEach((part) => part());

const members = page.groups.map((_, g) =>
  page.runs.flatMap((run, i) => (run.group === g ? [i] : [])));
const several = members.some((runs) => runs.length > 1);

/** Rows, lines and dots belong to these: { label, colour, dashes, group, runs, seeds }. */
function entities() {
  const entity = (group, runs, label) => ({
    ...page.groups[group], group, runs, label, seeds: runs.map((i) => page.runs[i].seed).join(", "),
  });
  return members.flatMap((all, group) => {
    const runs = all.filter((i) => !state.hidden.has(i));
    if (!runs.length) return [];
    if (state.seeds === "together") return [entity(group, runs, page.groups[group].label)];
    return runs.map((i) => entity(group, [i], page.runs[i].label));
  });
}

const known = (values) => values.filter((value) => value !== null && value !== undefined);

/** Mean, standard deviation (null of one) and count of what is known; null of nothing. */
function spread(values) {
  const numbers = known(values);
  const sum = (terms) => terms.reduce((total, term) => total + term, 0);
  const n = numbers.length;
  if (!n) return null;
  const mean = sum(numbers) / n;
  const squares = sum(numbers.map((value) => (value - mean) ** 2));
  return { mean, std: n > 1 ? Math.sqrt(squares / (n - 1)) : null, n };
}

/** Four digits that count. */
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(+value.toPrecision(size >= 1000 ? 6 : 4));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  for (const [unit, size] of [["h", 3600], ["min", 60]])
    if (seconds >= 2 * size) return `${(seconds / size).toFixed(1)} ${unit}`;
  return `${seconds.toFixed(0)} s`;
}

/** `3 to 4`, or nothing where an end is unknown. */
const range = (low, high) =>
  (known([low, high]).length === 2 ? `${number(low)} to ${number(high)}` : "");

function swatch({ colour, dashes }) {
  const node = make(dashes.length ? "i.swatch.dashed" : "i.swatch");
  node.style.setProperty("--colour", colour);
  return node;
}

function section(title, note, ...children) {
  const head = make("div.head", make("h2", title), make("span.quiet", note));
  return make("section.card", head, ...children);
}

/** Buttons of which one is pressed: `picked[key]` is its name. */
function choice(label, options, picked, key) {
  const node = make("div.choice");
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", label);
  for (const [name, text] of Object.entries(options)) {
    const button = press(text, "", () => { picked[key] = name; redraw(); });
    button.dataset.name = name;
    parts.push(() => button.setAttribute("aria-pressed", picked[key] === name));
    node.append(button);
  }
  return node;
}

/** A list of [value, text] to choose `picked[key]` from. */
function menu(label, options, picked, key) {
  const node = make("select", ...options.map(([value, text]) => new Option(text, value)));
  node.setAttribute("aria-label", label);
  node.onchange = () => { picked[key] = node.value; redraw(); };
  return node;
}

function chooser() {
  const show = (runs, on) => {
    runs.forEach((i) => (on ? state.hidden.delete(i) : state.hidden.add(i)));
    redraw();
  };
  const boxOf = (runs, name, id) => {
    const box = make("input");
    [box.type, box.dataset[name]] = ["checkbox", id];
    box.onchange = () => show(runs, box.checked);
    parts.push(() => {
      const shown = runs.filter((i) => !state.hidden.has(i)).length;
      [box.checked, box.indeterminate] = [shown > 0, shown > 0 && shown < runs.length];
    });
    return box;
  };
  const seedOf = (i) => {
    const { seed, path } = page.runs[i];
    const label = make("label.seed", boxOf([i], "run", i), String(seed));
    label.title = `seed ${seed}: ${path}`;
    return label;
  };
  const chips = page.groups.map((group, g) => make("div.chip",
    make("label", boxOf(members[g], "group", g), swatch(group), group.label),
    ...(members[g].length > 1 ? members[g].map(seedOf) : [])));
  const everyone = [...page.runs.keys()];
  const names = { together: "Mean of seeds", apart: "Each seed" };
  const tools = make("div.tools-row",
    press("All", "", () => show(everyone, true)), press("None", "", () => show(everyone, false)),
    ...(several ? [choice("seeds", names, state, "seeds")] : []));
  return section("Shown", "untick to hide everywhere below",
    make("div#chooser", make("div.chips", ...chips), tools));
}
