// Images: a grid; a click enlarges.
const { items } = page;
const [high, wide] = items[0].size;
$("about").textContent = `${items.length} image${items.length === 1 ? "" : "s"}, ${high} × ${wide}`;
const show = lightbox(() => items, (i) => location.replace("#" + i));
$("main").append(thumbnails(items, show));
const asked = parseInt(location.hash.slice(1), 10);
if (items[asked]) show(asked);
document.documentElement.dataset.state = "ready";
