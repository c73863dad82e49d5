// What is shown, and of whom: runs that are not hidden, each alone or the seeds of a group as one.
const state = { hidden: new Set(), together: true };
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
    if (state.together) return [entity(group, runs, page.groups[group].label)];
    return runs.map((i) => entity(group, [i], page.runs[i].label));
  });
}

const known = (values) => values.filter((value) => value !== null && value !== undefined);

/** Mean, standard deviation (null of one) and count of what is known; null of nothing. */
function spread(values) {
  const numbers = known(values);
  if (!numbers.length) return null;
  const mean = numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
  const squares = numbers.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const std = numbers.length > 1 ? Math.sqrt(squares / (numbers.length - 1)) : null;
  return { mean, std, n: numbers.length };
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

function swatch({ colour, dashes }) {
  const node = make(dashes.length ? "i.swatch.dashed" : "i.swatch");
  node.style.setProperty("--colour", colour);
  return node;
}

function section(title, note, ...children) {
  const head = make("div.head", make("h2", title), make("span.quiet", note));
  return make("section.card", head, ...children);
}

/** Buttons of which one is pressed; `pick(name)` when it is. */
function choice(label, options, chosen, pick) {
  const node = make("div.choice");
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", label);
  for (const [name, text] of Object.entries(options)) {
    const button = make("button", text);
    button.dataset.name = name;
    button.setAttribute("aria-pressed", name === chosen);
    button.onclick = () => {
      for (const other of node.children) other.setAttribute("aria-pressed", other === button);
      pick(name);
    };
    node.append(button);
  }
  return node;
}

function menu(label, options, pick) {
  const node = make("select");
  node.setAttribute("aria-label", label);
  for (const [value, text] of options) node.append(new Option(text, value));
  node.onchange = () => pick(node.value);
  return node;
}

function chooser() {
  const boxes = new Map(); // run -> its box
  const whole = new Map(); // group -> its box
  const tick = (on) => {
    const box = make("input");
    [box.type, box.checked] = ["checkbox", on];
    return box;
  };
  const show = (runs, on) => {
    runs.forEach((i) => (on ? state.hidden.delete(i) : state.hidden.add(i)));
    redraw();
  };
  const chips = members.map((runs, g) => {
    const box = tick(true);
    box.dataset.group = g;
    box.onchange = () => show(runs, box.checked);
    whole.set(g, box);
    const chip = make("div.chip", make("label", box, swatch(page.groups[g]), page.groups[g].label));
    if (runs.length > 1) runs.forEach((i) => chip.append(seedOf(i)));
    return chip;
  });
  function seedOf(i) {
    const box = tick(true);
    box.dataset.run = i;
    box.onchange = () => show([i], box.checked);
    boxes.set(i, box);
    const label = make("label.seed", box, String(page.runs[i].seed));
    label.title = `seed ${page.runs[i].seed}: ${page.runs[i].path}`;
    return label;
  }
  parts.push(() => {
    boxes.forEach((box, i) => { box.checked = !state.hidden.has(i); });
    whole.forEach((box, g) => {
      const shown = members[g].filter((i) => !state.hidden.has(i)).length;
      [box.checked, box.indeterminate] = [shown > 0, shown > 0 && shown < members[g].length];
    });
  });
  const button = (text, act) => Object.assign(make("button", text), { onclick: act });
  const everyone = page.runs.map((_, i) => i);
  const tools = make("div.tools-row",
    button("All", () => show(everyone, true)), button("None", () => show(everyone, false)));
  if (several) {
    const names = { together: "Mean of seeds", apart: "Each seed" };
    tools.append(choice("seeds", names, "together", (name) => {
      state.together = name === "together";
      redraw();
    }));
  }
  const card = section("Shown", "untick to hide everywhere below",
    make("div.chips", ...chips), tools);
  card.id = "chooser";
  return card;
}
