"""A headless Chromium driven over its DevTools pipe: real clicks, real drags, pictures."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
)
COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class Browser:
    """One page. `complaints` are its console errors and warnings, and what it threw."""

    def __init__(self, to: int, back: int, size: tuple[int, int], dark: bool) -> None:
        self.to, self.back, self.count, self.rest = to, back, 0, b""
        self.session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 20)
            assert part, "the browser has gone"
            self.rest += part
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        told = message.get("method") in COMPLAINTS
        # software rendering remarks on its own speed
        if told and message["params"].get("entry", {}).get("source") != "rendering":
            self.complaints.append(json.dumps(message["params"])[:500])
        return message

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip

    def open(self, page: Path, ready: str) -> None:
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait(ready)

    def js(self, expression: str) -> Any:
        """The plain value of an expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"never came: {condition}"
            time.sleep(0.05)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width, height of an element, after scrolling to it."""
        return tuple(
            self.js(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{ block: "center", inline: "center" }});
            const {{ x, y, width, height }} = node.getBoundingClientRect();
            return [x, y, width, height];
        }})()""")
        )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        x, y, width, height = self.box(selector)
        self.drag((x + width / 2, y + height / 2))

    def drag(self, *spots: tuple[float, float]) -> None:
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.mouse("mousePressed", *spots[0], **held)
        for spot in spots[1:]:
            self.mouse("mouseMoved", *spot, **held)
        self.mouse("mouseReleased", *spots[-1], **held)

    def shot(self, whole: bool = False) -> np.ndarray:
        """uint8 [H, W, 3]: what is seen, or the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@contextmanager
def browser(
    profile: Path, size: tuple[int, int] = (1240, 1000), dark: bool = False
) -> Iterator[Browser]:
    (their_in, to), (back, their_out) = os.pipe(), os.pipe()

    def pipes() -> None:  # Chromium reads from 3 and writes to 4
        ends = os.dup(their_in), os.dup(their_out)
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, preexec_fn=pipes, close_fds=False,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    os.close(their_in)
    os.close(their_out)
    try:
        one = Browser(to, back, size, dark)
        yield one
        one.session = None
        one.call("Browser.close")
    finally:
        os.close(to)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(back)
