"""The comparison with the peers: what of it can be tested without them."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

PEERS = Path(__file__).parents[1] / "experiments" / "peers"
STAND_IN = """
import json, sys
for number, order in enumerate(sys.stdin):
    if order == "turn\\n" and number > {turns}:
        sys.exit("no more turns")
    answers = {{"start": {{"threads": 1}}, "peak": {{"memory": 7}}, "whole": {{"whole": 9.0}}}}
    print(json.dumps(answers.get(order.strip(), {{"seconds": float(number)}})), flush=True)
"""


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The experiment's modules."""
    monkeypatch.syspath_prepend(PEERS)
    names = (
        "lanes",
        "lineup",
        "count_nets",
        "peer_worker",
        "peers_report",
        "quality",
        "surroundings",
    )
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def lane(peers: SimpleNamespace, tmp_path: Path, name: str, turns: int = 99) -> Any:
    """A stand-in, whose n-th order takes n seconds, so it says."""
    source = STAND_IN.format(turns=turns)
    return peers.lanes.Lane(name, [sys.executable, "-c", source], tmp_path / f"{name}.log")


def test_rounds_go_over_all_workers(peers: SimpleNamespace, tmp_path: Path) -> None:
    lanes = [lane(peers, tmp_path, "a"), lane(peers, tmp_path, "b")]
    told: list[str] = []
    peers.lanes.race(lanes, rounds=2, samplings=21, tell=told.append)
    for one in lanes:
        one.close()
        assert one.found["seconds"] == [2.0, 3.0]  # after start and peak
        assert one.found["memory"] == 7
        assert one.found["threads"] == 1
        assert "whole" not in one.found  # 21 steps of 3 s are more than a minute
        assert one.found["cold_start"] > 0
        assert one.process.returncode == 0
    turns = [line.split(" ", 1)[1] for line in told if "turn" in line]
    assert turns == ["turn: a", "turn: b", "turn: a", "turn: b"]


def test_a_short_sampling_is_measured_whole(peers: SimpleNamespace, tmp_path: Path) -> None:
    one = lane(peers, tmp_path, "a")
    peers.lanes.race([one], rounds=2, samplings=20, tell=lambda text: None)
    one.close()
    assert one.found["whole"] == 9.0


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import sys; sys.stdin.readline(); sys.exit('No module named monai')", "No module named"),
        ("import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)", "stopped by SIGKILL"),
        ("import sys; sys.exit(3)", "it ended with status 3"),
    ],
)
def test_who_cannot_run_says_why_and_the_rest_goes_on(
    peers: SimpleNamespace, tmp_path: Path, source: str, why: str
) -> None:
    broken = peers.lanes.Lane("broken", [sys.executable, "-c", source], tmp_path / "log")
    lanes = [broken, lane(peers, tmp_path, "late", turns=2), lane(peers, tmp_path, "good")]
    peers.lanes.race(lanes, rounds=3, samplings=0, tell=lambda text: None)
    for one in lanes:
        one.close()
    assert why in broken.found["trouble"]
    assert lanes[1].found == {"seconds": [], "trouble": "no more turns"}
    assert lanes[2].found["seconds"] == [2.0, 3.0, 4.0]


def row(name: str, group: str, batch: int, seconds: list[float], **more: Any) -> dict[str, Any]:
    return {
        "name": name, "group": group, "batch": batch, "seconds": seconds, "default": False,
        "contiguous": False, "options": ["net=unet"], "memory": 2**20, "cold_start": 3.2, **more,
    }  # fmt: skip


def contest() -> dict[str, Any]:
    packages = {"torch": "2", "diffusers": "0", "monai": "1"}
    rows = [
        row("slow", "peer", 2, [9.0, 8.0, 20.0], default=True),  # 9 s: 0.222 samples/s
        row("quick", "peer", 2, [4.0, 4.0, 4.0], contiguous=True),  # 0.5
        row("absent", "peer", 2, [], trouble="no module"),
        row("own", "ddiff, the same task", 8, [0.8, 0.8, 0.8], default=True),  # 10
        row("native", "ddiff, the same task", 8, [0.4, 0.4, 0.4]),  # 20
    ]
    where = {"device_name": "a box", "threads": 2, "packages": packages}
    return {"title": "Volumes", "mode": "training", "rows": rows, "rounds": 3, "environment": where}


def test_ratios_are_of_medians_in_samples_a_second(peers: SimpleNamespace) -> None:
    targets = peers.peers_report.targets({"voxel_training": contest()})
    assert targets[-2] == "| Volumes | slow (default) | 20x | 45x, own | 90x, native |"
    lines = peers.peers_report.table(contest())
    assert "a box, 2 threads; torch 2, diffusers 0, monai 1; 3 rounds." in lines
    assert "| absent | 2 | cannot run: no module |" in lines
    assert "| quick | 2 | 2000, 2000 to 2000 | 0.5 | 2.25x | 1x | 1 | 3 |" in lines
    # quartiles of 8, 9, 20 lie halfway to the median: 8.5 and 14.5 s a step of 2
    expected = "| slow *(default)* | 2 | 4500, 4250 to 7250 | 0.222 | 1x | 0.444x | 1 | 3 |"
    assert expected in lines


def test_the_page_takes_in_the_verdict(peers: SimpleNamespace, tmp_path: Path) -> None:
    verdict = tmp_path / "verdict.md"
    nets = {"one": {"shape": [1, 64, 64, 64], "parameters": 1234567, "flops": 2_500_000_000}}
    results = {"nets": nets, "contests": {"voxel_training": contest()}}
    assert "| one | 1,234,567 | 1 x 64 x 64 x 64 | 2.500 |" in peers.peers_report.written(
        results, verdict
    )
    verdict.write_text("A person wrote this.\n")
    assert "A person wrote this." in peers.peers_report.written(results, verdict)


def test_quality_trains_the_fastest_that_train_can_run(peers: SimpleNamespace) -> None:
    rows = contest()["rows"]
    assert peers.quality.fastest(rows, "peer")["name"] == "slow"  # quick is not channels last
    assert peers.quality.fastest(rows, "ddiff, the same task")["name"] == "native"


def test_quality_is_shown_with_its_intervals(peers: SimpleNamespace) -> None:
    figures = {"validity": [0.75, 0.5, 0.9], "volume_d": [0.25, None, None]}
    one = {"name": "MONAI", "batch": 2, "steps": 225, "seconds": 1860.0, "val_loss": 0.12345}
    found = {"minutes": 30.0, "samples": 16, "rows": [{**one, "figures": figures}]}
    lines = peers.peers_report.quality(found)
    assert lines[0] == "## After 30 minutes of training each"
    assert "| MONAI | 2 | 225 | 31.0 | 0.1235 | 0.75 [0.5, 0.9] | 0.25 |" in lines


def test_another_torch_is_refused(peers: SimpleNamespace) -> None:
    good = {"torch": torch.__version__, "torchvision": None}
    peers.surroundings.checked(good)
    with pytest.raises(peers.surroundings.DdiffError, match=r"has torch 1\.0, and this is torch"):
        peers.surroundings.checked({**good, "torch": "1.0"})
    with pytest.raises(peers.surroundings.DdiffError, match=r"has torchvision 0\.1"):
        peers.surroundings.checked({**good, "torchvision": "0.1"})


# What diffusers 0.42.1 and MONAI 1.6.1 count for their nets, in count_nets.py's way.
DIFFUSERS = {"parameters": 35_746_307, "flops": 12_443_713_536}
MONAI = {"parameters": 6_997_729, "flops": 332_591_808_512}


def upsampling_saved(channels: int, sizes: list[int], dims: int) -> int:
    """FLOPs of `repeat, convolve with a kernel of 3` at 2n, less those of a transposed convolution
    with a kernel of 4 from n, over all upsamplings to sizes 2n."""
    direct = sum(2 * 3**dims * channels**2 * size**dims for size in sizes)
    transposed = sum(2 * 4**dims * channels**2 * (size // 2) ** dims for size in sizes)
    return direct - transposed


def test_the_same_net_does_the_same_work_but_for_upsampling(peers: SimpleNamespace) -> None:
    images = peers.count_nets.counted("ddiff UNet, CIFAR-10", (3, 32, 32))
    assert images["parameters"] == DIFFUSERS["parameters"]
    assert DIFFUSERS["flops"] - images["flops"] == upsampling_saved(256, [8, 16, 32], 2)
    volumes = peers.count_nets.counted("ddiff UNet, MONAI's shape", (1, 64, 64, 64))
    assert volumes["parameters"] == MONAI["parameters"]
    saved = upsampling_saved(128, [32], 3) + upsampling_saved(64, [64], 3)
    assert MONAI["flops"] - volumes["flops"] == saved


def test_the_recipe_is_the_net_of_voxel_adaptive(peers: SimpleNamespace) -> None:
    found = peers.count_nets.counted("ddiff voxel_adaptive", (1, 64, 64, 64))
    assert found == {"parameters": 2_782_705, "flops": 3_758_146_048}


@pytest.mark.parametrize("cuda", [False, True])
def test_every_contest_has_a_default_of_each_side(peers: SimpleNamespace, cuda: bool) -> None:
    for one in peers.lineup.contests(quick=False, cuda=cuda):
        groups = {row.group for row in one.rows}
        defaults = [(row.group, row.batch) for row in one.rows if row.default]
        assert {group for group, _ in defaults} == groups
        assert len(defaults) == len(groups)
        assert len({row.name for row in one.rows}) == len(one.rows)
        assert len({(row.options, row.batch, row.contiguous, row.bf16_weights)
                    for row in one.rows}) == len(one.rows)  # fmt: skip


def own_row(peers: SimpleNamespace) -> Any:
    (row,) = [row for row in peers.lineup.ours("ddiff", "peer", "ddiff voxel_adaptive", 2, False)
              if row.name == "ddiff fp32"]  # fmt: skip
    return row


@pytest.mark.slow
def test_a_worker_trains(peers: SimpleNamespace, tmp_path: Path) -> None:
    task = {"row": vars(own_row(peers)), "shape": (1, 16, 16, 16), "device": "cpu"}
    command = [sys.executable, peers.peer_worker.__file__, json.dumps({**task, "mode": "training"})]
    worker = peers.lanes.Lane("real", command, tmp_path / "log")
    assert worker.ask("start")["precision"] == "float32"
    # net, averaged net, two moments and gradients
    assert worker.ask("peak")["memory"] > 5 * 4 * 2_782_705
    assert worker.ask("turn")["seconds"] > 0
    worker.close()


@pytest.mark.slow
def test_a_worker_answers_over_its_pipe(peers: SimpleNamespace, tmp_path: Path) -> None:
    task = {"row": vars(own_row(peers)), "shape": (1, 16, 16, 16), "device": "cpu"}
    command = [
        sys.executable,
        str(PEERS / "peer_worker.py"),
        json.dumps({**task, "mode": "sampling"}),
    ]
    one = peers.lanes.Lane("own", command, tmp_path / "log")
    peers.lanes.race([one], rounds=1, samplings=20, tell=lambda text: None)
    one.close()
    assert one.found["memory"] > 4 * 2_782_705
    assert one.found["whole"] > one.found["seconds"][0] > 0
