// A grid of all samples.
const items = page.items;

/** A button-like picture per sample; `pick(i)` when it is chosen. */
function thumbnails(pick) {
  const grid = make("div.grid");
  items.forEach((item, i) => {
    const image = make("img");
    image.src = item.picture;
    image.alt = item.caption;
    const thumb = make("button.thumb", image, make("span", item.caption));
    thumb.title = item.caption;
    thumb.onclick = () => pick(i);
    grid.append(thumb);
  });
  return grid;
}
