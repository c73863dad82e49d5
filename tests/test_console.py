"""Tables for people: aligned, and whole in a log as on a narrow terminal."""

import pytest
from rich.console import Console

from ddiff.system import console
from ddiff.system.console import progress, show_table

LONG = "a name " * 40 + "[0.5, 0.9]"


def test_words_stand_left_and_numbers_right(capsys: pytest.CaptureFixture) -> None:
    show_table(
        ["net", "kind", "ms"], [["unet", "2D", "1.5"], ["a", "3D", "120.25"]], "nets", (0, 1)
    )
    assert capsys.readouterr().out.splitlines() == [
        "nets",
        "net   kind      ms",
        "──────────────────",
        "unet  2D       1.5",
        "a     3D    120.25",
    ]


def test_a_table_without_a_header(capsys: pytest.CaptureFixture) -> None:
    show_table([], [["step", "10"], ["loss", "0.125"]])
    assert capsys.readouterr().out.splitlines() == ["step     10", "loss  0.125"]


def test_a_log_has_each_row_whole_on_one_line(capsys: pytest.CaptureFixture) -> None:
    show_table(["run", *["figure"] * 30], [[LONG, *["-1.25e-05 ± 0.5"] * 30]], LONG)
    title, _, rule, row = capsys.readouterr().out.splitlines()
    assert title == LONG
    assert row == "  ".join([LONG, *["-1.25e-05 ± 0.5"] * 30])
    assert len(rule) == len(row)


def test_a_narrow_terminal_folds_cells_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    narrow = Console(width=30, force_terminal=True, no_color=True, soft_wrap=True, highlight=False)
    monkeypatch.setattr("ddiff.system.console.console", narrow)
    show_table(["run", "figure"], [[LONG, "0.25"]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[2:])) <= 30
    words = " ".join(lines[2:]).replace("0.25", "").split()
    assert words == LONG.split()


def test_a_log_says_how_much_time_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The log of a training resumed at step 400 of 1,000, which takes half a second a step."""
    clock = [0.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: clock[0])
    with progress("training", 1000) as meter:
        for step in range(400, 500, 10):
            meter(step, f"loss {step / 1000}")
            clock[0] += 5
    assert capsys.readouterr().out.splitlines() == [
        "training 430/1000  15 s, 4.8 min left  loss 0.43",
        "training 460/1000  30 s, 4.5 min left  loss 0.46",
        "training 490/1000  45 s, 4.2 min left  loss 0.49",
    ]
