// What every page starts with: its data, where trouble is told, and how elements are made.
const page = JSON.parse(document.getElementById("data").textContent);
const trouble = (text) => { document.getElementById("trouble").textContent = text; };
addEventListener("error", (event) => trouble(event.message));
addEventListener("unhandledrejection", (event) => trouble(String(event.reason)));

/** An element: `make("p.quiet", "text", child, ...)`. */
function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  node.className = classes.join(" ");
  node.append(...children);
  return node;
}
