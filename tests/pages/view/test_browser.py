"""The page in a real browser: what is drawn, and that nothing complains."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ddiff.pages.view.page import write_page
from tests.pages.view.solids import ball

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=30000",
    "--window-size=1240,1000",
]
STAGE = np.s_[110:640, 60:740]  # within the large view
SLICE = np.s_[100:440, 820:1180]
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")


def browse(page, tmp_path, wanted, *flags):
    """What `wanted` finds in the settled document, after checking that nothing complained.

    A loaded machine's browser may give up before a volume is inflated: then it gets another turn.
    """
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", *flags]
    for _ in range(4):
        done = subprocess.run(
            [*command, page], capture_output=True, text=True, timeout=90, check=True
        )
        complaints = re.findall(r".*(?:ERROR:CONSOLE|WARNING:CONSOLE|Uncaught).*", done.stderr)
        assert complaints == []
        assert re.search(r'<p id="trouble" role="alert"></p>', done.stdout)
        if found := re.search(wanted, done.stdout):
            return found[1]
    pytest.fail(f"the page never came to {wanted}")


def shot(page, tmp_path, *flags):
    """The picture [H, W, 3], and the state that the page says it is in."""
    picture = tmp_path / "shot.png"
    state = browse(page, tmp_path, r'data-state="(.*?)"', f"--screenshot={picture}", *flags)
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int), state


def blue(pixels):
    """[H, W]: where the solid is, much more blue than red, unlike paper and floor."""
    return pixels[..., 2] - pixels[..., 0] > 30


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        (["--enable-unsafe-swiftshader"], "ready webgl"),
        (["--enable-unsafe-swiftshader", "--disable-gpu"], "ready webgl"),
        (["--disable-3d-apis"], "ready 2d"),
    ],
    ids=["webgl", "no-gpu", "no-webgl"],
)
def test_solid_and_slice_are_drawn(tmp_path, flags, state):
    samples = np.stack([np.full((32,) * 3, -1.0), ball(10.0, 32), ball(5.0, 32)])[:, None]
    page = write_page(samples, tmp_path / "a.html", "three").as_uri()
    large, said = shot(page + "#1", tmp_path, *flags)
    assert said == state
    small, _ = shot(page + "#2", tmp_path, *flags)
    empty, _ = shot(page + "#0", tmp_path, *flags)
    assert not blue(empty[STAGE]).any()
    assert blue(large[STAGE]).mean() > 0.08
    for part in (STAGE, SLICE):
        ratio = blue(large[part]).sum() / blue(small[part]).sum()
        assert ratio == pytest.approx(4, rel=0.15)


FRAMES = "<script>requestAnimationFrame = (draw) => setTimeout(draw, 16);</script><header>"
SCRIPT = """<script>
const seen = [];
const type = (key) => dispatchEvent(new KeyboardEvent("keydown", { key }));
const point = (type, x, y) => ui.stage.dispatchEvent(
  new PointerEvent(type, { pointerId: 1, clientX: x, clientY: y }));
const said = () => `${ui.quiet.textContent} ${ui.place.textContent} ${location.hash}`;
const pause = () => new Promise((done) => setTimeout(done, 50));
const later = async () => { await pause(); await decoded(state.sample); await pause(); };
ui.stage.setPointerCapture = () => {};
(async () => {
  await later(); seen.push(said());
  type("ArrowRight"); await later(); seen.push(said());
  type("ArrowUp"); type("ArrowUp"); await later(); seen.push(said());
  type("ArrowLeft"); type("ArrowLeft"); await later(); seen.push(said());
  ui.axes[0].click(); ui.slider.value = 5; ui.slider.oninput(); await later(); seen.push(said());
  ui.grid.children[1].click(); await later(); seen.push(said());
  point("pointerdown", 10, 10); point("pointermove", 30, 20); point("pointerup", 30, 20);
  point("pointermove", 90, 90);
  seen.push(`${state.azimuth} ${state.elevation}`);
  ui.stage.dispatchEvent(new WheelEvent("wheel", { deltaY: -200 }));
  seen.push(state.zoom.toFixed(3));
  type("r"); seen.push(`${state.azimuth} ${state.elevation} ${state.zoom}`);
  document.documentElement.dataset.told = seen.join("|");
})();
</script></body>"""


def test_keys_pointer_and_slider(tmp_path):
    samples = np.stack([ball(radius, 16) for radius in (5.0, 4.0, 3.0)])[:, None]
    page = write_page(samples, tmp_path / "a.html", "three")
    text = page.read_text().replace("<header>", FRAMES).replace("</body>", SCRIPT)
    page.write_text(text)  # a browser that takes no picture draws no frames
    seen = browse(page.as_uri(), tmp_path, r'data-told="(.*?)"', "--disable-3d-apis")
    assert seen.split("|") == [
        "1 of 3 z = 8 ",
        "2 of 3 z = 8 #1",
        "2 of 3 z = 10 #1",
        "3 of 3 z = 10 #2",
        "3 of 3 x = 5 #2",
        "2 of 3 x = 5 #1",
        "20 30",
        "1.350",
        "30 25 1",
    ]


def test_webgl_and_its_replacement_draw_the_same_outline(tmp_path):
    page = write_page(ball(9.0, 32, (5, 0, -4)), tmp_path / "a.html", "one").as_uri()
    first, _ = shot(page, tmp_path, "--enable-unsafe-swiftshader")
    second, _ = shot(page, tmp_path, "--disable-3d-apis")
    seen = [blue(pixels[STAGE]) for pixels in (first, second)]
    assert (seen[0] != seen[1]).sum() < 0.03 * seen[0].sum()


def test_images_are_drawn_and_enlarged(tmp_path):
    samples = np.stack([np.full((1, 8, 8), -1.0), np.full((1, 8, 8), 1.0)])
    page = write_page(samples, tmp_path / "a.html", "two").as_uri()
    grid, said = shot(page, tmp_path)
    assert said == "ready"
    assert (grid == 0).all(axis=2).sum() > 80 * 80
    large, _ = shot(page + "#0", tmp_path)
    assert (large == 0).all(axis=2).mean() > 0.2
