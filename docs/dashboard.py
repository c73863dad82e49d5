"""Photographs the custom-scalars page of a run's TensorBoard, in a headless Chromium.

python -m docs.dashboard RUN [OUT]      # from the root of the repository; OUT: docs/dashboard.png
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from tests.support.browser import browser

from ddiff.pages.view import save_png

PORT = 6011
PAGE = f"http://localhost:{PORT}/?darkMode=false#custom_scalars&_smoothingWeight=0"
HEIGHT = 2720  # of all categories


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


def main() -> None:
    run = Path(sys.argv[1]).resolve()
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/dashboard.png")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", f"{run.name}/tensorboard",
               "--port", str(PORT)]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=run.parent, **quiet)
    try:
        wait_for_server()
        with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
            page.call("Emulation.setDeviceMetricsOverride", width=1810, height=HEIGHT,
                      deviceScaleFactor=0.8, mobile=False)  # fmt: skip
            page.call("Page.navigate", url=PAGE)
            page.wait(f"{elements('TF-CUSTOM-SCALAR-MULTI-LINE-CHART-CARD')}.length > 8", 120)
            page.js(f"{elements('TF-CUSTOM-SCALAR-DASHBOARD')}[0]._ignoreYOutliers = false")
            time.sleep(10)  # the curves come one by one
            save_png(page.shot(), out)
    finally:
        server.terminate()
        server.wait()


def wait_for_server(seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), urlopen(f"http://localhost:{PORT}/") as answer:
            return answer.read()
        time.sleep(0.5)
    raise TimeoutError("TensorBoard does not answer")


if __name__ == "__main__":
    main()
