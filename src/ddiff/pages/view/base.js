// What every page starts with: its data, where trouble is told, and how elements are made.
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
const trouble = (text) => { $("trouble").textContent = text; };
addEventListener("error", (event) => trouble(event.message));
addEventListener("unhandledrejection", (event) => trouble(String(event.reason)));

/** An element: `make("p.quiet#about", "text", child, ...)`. */
function make(kind, ...children) {
  const [[tag, ...classes], id] = [kind.split("#")[0].split("."), kind.split("#")[1]];
  const node = document.createElement(tag);
  node.className = classes.join(" ");
  if (id) node.id = id;
  node.append(...children);
  return node;
}

/** A button that does `act`. */
function press(content, title, act) {
  const button = make("button", content);
  button.title = title;
  button.onclick = act;
  return button;
}

/** A function that runs `draw` in the next frame, once, however often it is called until then. */
function perFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
}

function imageOf({ picture, caption }) {
  const image = make("img");
  [image.src, image.alt] = [picture, caption];
  return image;
}

/** A grid of samples { picture, caption }; `pick(i)` when one is chosen. */
function thumbnails(items, pick) {
  return make("div.grid", ...items.map((item, i) => {
    const thumb = press(imageOf(item), item.caption, () => pick(i));
    thumb.className = "thumb";
    thumb.append(make("span", item.caption));
    return thumb;
  }));
}

/**
 * A function that enlarges one of the pictures { picture, caption, size: [high, wide] } that
 * `listed()` holds, and then calls `told(i)`. Arrows walk; Escape and a click beside it close.
 */
function lightbox(listed, told) {
  const [host, words] = [make("div"), make("span")];
  let current = 0;
  const show = (i) => {
    const items = listed();
    current = (i + items.length) % items.length;
    const item = items[current];
    const [image, room] = [imageOf(item), Math.min(innerWidth - 90, innerHeight - 140)];
    const scale = Math.max(1, Math.floor(room / Math.max(...item.size))); // pixels stay square
    image.style.width = `${Math.min(item.size[1] * scale, innerWidth - 60)}px`;
    words.textContent = `${item.caption} · ${current + 1} of ${items.length} · ${scale}×`;
    host.replaceChildren(image);
    if (!dialog.open) dialog.showModal();
    told(current);
  };
  const dialog = make("dialog", host, make("div.row",
    press("←", "previous", () => show(current - 1)),
    press("→", "next", () => show(current + 1)), words,
    press("Close", "close (Escape)", () => dialog.close())));
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onkeydown = (event) => {
    if (event.key === "ArrowRight") show(current + 1);
    if (event.key === "ArrowLeft") show(current - 1);
  };
  $("main").append(dialog);
  return show;
}
