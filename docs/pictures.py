"""Makes the pictures of the docs that come from no study. From the root of the repository:

    python -m docs.pictures schedules                # the SNR of each schedule
    python -m docs.pictures dashboard RUN            # a run's TensorBoard, custom scalars
    python -m docs.pictures page PAGE.html OUT.png   # the top of a page

The last two photograph a headless Chromium.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

from tests.support.browser import browser

from ddiff.pages.view import save_png

HERE = Path(__file__).parent
PORT = 6011
PAGE = f"http://localhost:{PORT}/?darkMode=false#custom_scalars&_smoothingWeight=0"
HEIGHT = 2720  # of all categories


def schedules() -> None:
    """Draws log SNR over t, a line for each schedule."""
    import matplotlib.pyplot as plt

    from ddiff.diffusion.schedules import cosine, linear, shifted, sigmoid, zero_terminal_snr

    shown = {
        "cosine": cosine(),
        "linear": linear(),
        "sigmoid": sigmoid(),
        "shifted (64 x 64 x 64)": shifted(cosine(), 1 / 256),
        "zero_terminal_snr of linear": zero_terminal_snr(linear()),
    }
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, schedule in shown.items():
        axes.plot(range(1, schedule.T + 1), schedule.log_snr[1:], label=name)
    axes.set(xlabel="timestep t", ylabel="log SNR", ylim=(-16, 10))
    axes.axhline(0, color="gray", linewidth=0.5)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "schedules.png", dpi=120)


def page(source: str, out: str) -> None:
    """Photographs the top of a page on the disk, served so that its scripts may read files."""
    path = Path(source)
    handler = partial(Quiet, directory=path.parent)
    with (
        ThreadingHTTPServer(("localhost", 0), handler) as server,
        tempfile.TemporaryDirectory() as profile,
        browser(Path(profile), (1280, 860)) as window,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://localhost:{server.server_port}/{path.name}"
        window.call("Page.navigate", url=url)
        window.wait("document.readyState === 'complete'")
        time.sleep(2)  # scripts that draw
        save_png(window.shot(), Path(out))
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def dashboard(run: str) -> None:
    """Photographs the custom scalars of a run's TensorBoard."""
    folder = Path(run).resolve()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", f"{folder.name}/tensorboard",
               "--port", str(PORT)]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=folder.parent, **quiet)
    try:
        wait_for_server()
        with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as window:
            window.call("Emulation.setDeviceMetricsOverride", width=1810, height=HEIGHT,
                        deviceScaleFactor=0.8, mobile=False)  # fmt: skip
            window.call("Page.navigate", url=PAGE)
            window.wait(f"{elements('TF-CUSTOM-SCALAR-MULTI-LINE-CHART-CARD')}.length > 8", 120)
            window.js(f"{elements('TF-CUSTOM-SCALAR-DASHBOARD')}[0]._ignoreYOutliers = false")
            time.sleep(10)  # the curves come one by one
            save_png(window.shot(), HERE / "dashboard.png")
    finally:
        server.terminate()
        server.wait()


def elements(tag: str) -> str:
    """JavaScript for the page's elements of this name, also those in the shadows."""
    return f"""(() => {{
        const found = [];
        const walk = (node) => {{
            if (node.tagName === "{tag}") found.push(node);
            [...node.children, ...(node.shadowRoot?.children ?? [])].forEach(walk);
        }};
        if (document.body) walk(document.body);
        return found;
    }})()"""


def wait_for_server(seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), urlopen(f"http://localhost:{PORT}/") as answer:
            return answer.read()
        time.sleep(0.5)
    raise TimeoutError("TensorBoard does not answer")


if __name__ == "__main__":
    kinds: dict[str, Callable[..., None]] = {
        "schedules": schedules,
        "dashboard": dashboard,
        "page": page,
    }
    kinds[sys.argv[1]](*sys.argv[2:])
