"""A plugin of pytest: what became of each test, as JSON, in the file that `--outcomes` names.

The file is written before and after every test, so that a run that is cut has kept it, with the
name of the test that was running.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(path))


class Outcomes:
    """Tests that passed (their number), failed (with their errors) and were skipped (why)."""

    def __init__(self, path: Path):
        self.path, self.started = path, time.monotonic()
        self.passed = 0
        self.failed: list[dict[str, str]] = []
        self.skipped: dict[str, int] = {}  # tests, by reason

    def write(self, running: str | None = None) -> None:
        taken = round(time.monotonic() - self.started, 1)
        found = {"passed": self.passed, "failed": self.failed, "skipped": self.skipped,
                 "running": running, "seconds": taken}  # fmt: skip
        self.path.write_text(json.dumps(found, indent=1) + "\n")

    def keep(self, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (crash.message if crash else str(report.longrepr)).strip().splitlines() or [""]
        self.failed.append({"test": report.nodeid, "error": lines[0], "last": lines[-1]})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.keep(report)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.keep(report)
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
            self.skipped[why] = self.skipped.get(why, 0) + 1
        elif report.when == "call":
            self.passed += 1

    def pytest_sessionfinish(self) -> None:
        self.write()
