// Images: a grid; a click enlarges, arrows walk, Escape closes.
const main = document.getElementById("main");
const [high, wide] = items[0].size;
const plural = items.length === 1 ? "" : "s";
document.getElementById("about").textContent = `${items.length} image${plural}, ${high} × ${wide}`;

const picture = make("img");
const words = make("span");
const before = make("button", "←");
const after = make("button", "→");
before.setAttribute("aria-label", "previous");
after.setAttribute("aria-label", "next");
const dialog = make("dialog", picture, make("div.row", before, words, after));
let current = 0;

function show(i) {
  current = (i + items.length) % items.length;
  const item = items[current];
  const room = Math.min(innerWidth - 90, innerHeight - 140);
  const scale = Math.max(1, Math.floor(room / Math.max(...item.size))); // whole pixels stay square
  picture.src = item.picture;
  picture.alt = item.caption;
  picture.style.width = Math.min(item.size[1] * scale, innerWidth - 60) + "px";
  words.textContent = `${item.caption} · ${current + 1} of ${items.length} · ${scale}×`;
  if (!dialog.open) dialog.showModal();
  location.replace("#" + current);
}

before.onclick = () => show(current - 1);
after.onclick = () => show(current + 1);
dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
addEventListener("keydown", (event) => {
  if (!dialog.open) return;
  if (event.key === "ArrowRight") show(current + 1);
  if (event.key === "ArrowLeft") show(current - 1);
});

main.append(thumbnails(show), dialog);
const asked = parseInt(location.hash.slice(1), 10);
if (asked >= 0 && asked < items.length) show(asked);
document.documentElement.dataset.state = "ready";
