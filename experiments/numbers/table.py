"""Rows of the table, from what the studies have measured, and the page."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).parent.parent
BACKWARD = 3  # a training step is an evaluation, and twice its products to go back
UPDATE_BYTES = 36  # a parameter: weight, gradient, two moments and average are read, four written
FULL_RUN, BARE = "ddiff", "bare loop"


@dataclass(frozen=True)
class Row:
    what: str
    reach: str
    found: str
    reached: bool
    floor: str
    study: str  # a folder of experiments/


@dataclass(frozen=True)
class Machine:
    """The machine's best rates: products [1/s] by number format, bytes copied [1/s]."""

    flops: dict[str, float]
    copy: float

    def seconds(self, flops: float, dtype: str = "bfloat16", parameters: int = 0) -> float:
        """Least seconds that arithmetic and the optimiser's update can take."""
        return flops / self.flops[dtype] + parameters * UPDATE_BYTES / self.copy


class Studies:
    """Results of the studies, from the folder of `machine` where a study was run there."""

    def __init__(self, machine: str | None = None) -> None:
        self.machine = machine

    def read(self, study: str, *path: str) -> dict[str, Any]:
        file = STUDIES.joinpath(self.folder(study, *path), *path)
        if not file.is_file():
            raise SystemExit(f"numbers: {file} is not there; run the script of that folder first")
        return json.loads(file.read_text())

    def folder(self, study: str, *path: str) -> str:
        """The folder of experiments/ that has this file."""
        own = STUDIES.joinpath(study, self.machine or "", *path)
        return f"{study}/{self.machine}" if self.machine and own.is_file() else study


def rows(machine: Machine, spheres: float, demo: dict[str, float], studies: Studies) -> list[Row]:
    return [
        *training(machine, studies),
        *sampling(machine, studies),
        solver_step(studies),
        top_k(studies),
        *trainer(studies),
        *memory(studies),
        Row("1,000 spheres at 64^3", "under 1 s", f"{spheres:.2f} s", spheres < 1,
            f"{1000 * 64**3 * 4 / machine.copy:.2f} s to write them", "numbers"),
        Row("`experiment=voxel_adaptive` from nothing", "under 10 minutes, 95% valid",
            f"{demo['minutes']:.1f} minutes, {demo['validity']:.0%} valid "
            f"[{demo['low']:.1%}, 100%]",
            demo["minutes"] < 10 and demo["validity"] >= 0.95, "", "numbers"),
    ]  # fmt: skip


def training(machine: Machine, studies: Studies) -> list[Row]:
    found = studies.read("peers", "results.json")
    wanted = (
        ("voxel_training", "ddiff, the same task", "default", 20),
        ("cifar_training", "ddiff, the same net", "default", 3),
        ("cifar_training", "ddiff, the same net", "best", 2),
    )
    made = []
    for name, group, which, factor in wanted:
        contest = found["contests"][name]
        peer, own = chosen(contest, "peer", which), chosen(contest, group, "best")
        ratio = rate(own) / rate(peer)
        net = found["nets"][own["net"]]
        seconds = statistics.median(own["seconds"])
        floor = machine.seconds(
            BACKWARD * net["flops"] * own["batch"], parameters=net["parameters"]
        )
        made.append(
            Row(f"{contest['title']}: {own['name']} against {peer['name']}", f"{factor}x",
                f"{ratio:.3g}x, {1e3 * seconds:.0f} ms a step of {own['batch']}", ratio >= factor,
                against(floor, seconds), studies.folder("peers", "results.json"))
        )  # fmt: skip
    return made


def rate(row: dict[str, Any]) -> float:
    return row["batch"] / statistics.median(row["seconds"])


def chosen(contest: dict[str, Any], group: str, which: str) -> dict[str, Any]:
    """The default row of a group, or its fastest."""
    able = [row for row in contest["rows"] if row["group"] == group and row["seconds"]]
    return max((r for r in able if which == "best" or r["default"]), key=rate)


def sampling(machine: Machine, studies: Studies) -> list[Row]:
    nets = studies.read("peers", "results.json")["nets"]
    made = []
    for folder, net in (("voxel", "ddiff voxel_adaptive"), ("cifar10", "ddiff UNet, CIFAR-10")):
        (contest,) = studies.read("backends", folder, "benchmark.json")["contests"]
        best = max(contest["rows"], key=lambda row: row["speed_up"]["median"])
        ratio = best["speed_up"]["median"]
        seconds = best["seconds"]["median"]
        floor = machine.seconds(nets[net]["flops"] * contest["batch_size"] * contest["num_steps"])
        made.append(
            Row(f"sampling, {contest['num_steps']} steps of {contest['batch_size']}, {net}: "
                f"{best['backend']} {best['precision']} against plain eager fp32", "3x",
                f"{ratio:.2f}x, {seconds:.1f} s", ratio >= 3, against(floor, seconds),
                studies.folder("backends", folder, "benchmark.json"))
        )  # fmt: skip
    return made


def against(floor: float, seconds: float) -> str:
    return f"{1e3 * floor:.0f} ms; it takes {seconds / floor:.2f} times that"


def solver_step(studies: Studies) -> Row:
    cases = studies.read("backends", "kernels.json")["cases"]
    (case,) = (c for c in cases if (c["operation"], c["case"]) == ("solver_step", "64 x 1 x 64^3"))
    share = case["share_of_copy"]
    return Row("fused solver step, 64 x 1 x 64^3", "80% of the copy bandwidth", f"{share:.0%}",
               share >= 0.8, f"{case['copy_gb_per_second']:.0f} GB/s",
               studies.folder("backends", "kernels.json"))  # fmt: skip


def top_k(studies: Studies) -> Row:
    """Differences of neighbouring steps: median, and half its 95% interval by order statistics."""
    worst, words = 0.0, []
    for name, times in studies.read("timesteps_overhead", "results.json")["seconds"].items():
        pairs = zip(times["online_topk"], times["uniform"], strict=True)
        apart = statistics.median([a / b - 1 for a, b in pairs])
        worst = max(worst, apart)
        words.append(f"{apart:+.2%} ({name.split(',')[0]})")
    where = studies.folder("timesteps_overhead", "results.json")
    return Row("online top-K (proxy) against uniform", "within 1%", ", ".join(words),
               worst <= 0.01, "0", where)  # fmt: skip


def trainer(studies: Studies) -> list[Row]:
    made = []
    for name, found in studies.read("training_step", "results.json").items():
        if name in ("environment", "levers"):
            continue
        times = {key: statistics.median(values) for key, values in found["times"].items()}
        over = times[FULL_RUN] / times[BARE] - 1
        made.append(
            Row(f"the trainer against a bare loop, {name}", "within 3%", f"{over:+.1%}",
                over <= 0.03, f"{1e3 * times[BARE]:.0f} ms a step, the bare loop",
                studies.folder("training_step", "results.json"))
        )  # fmt: skip
    return made


def memory(studies: Studies) -> list[Row]:
    made = []
    for size, cap in ((64, 1.0), (128, 4.0)):
        rows = [
            row for row in studies.read("memory_levers", "results.json")["rows"]
            if row["size"] == size and row.get("counted")
        ]  # fmt: skip
        for kind, words in (("patches of 4, batch 4, bf16", "patch"), ("", "full resolution")):
            fitting = [r for r in rows if r["name"] == kind] or [
                r for r in rows if not r["name"].startswith("patches")
            ]
            least = min(fitting, key=lambda row: row["counted"])
            made.append(
                Row(f"training memory at {size}^3, {words}: {least['name']}",
                    f"under {cap:g} GB", f"{least['counted'] / 1e9:.2f} GB counted",
                    least["counted"] < cap * 1e9, "", "memory_levers")
            )  # fmt: skip
    return made


def page(found: dict[str, Any], made: list[Row], verdict: Path) -> str:
    where, best = found["environment"], found["machine"]
    peaks = ", ".join(f"{name} {v / 1e9:.0f} GFLOP/s" for name, v in best["flops"].items())
    lines = [
        "# The numbers to reach",
        "",
        "*How far is ddiff from what it means to reach, and from what the machine could do?*",
        "",
        f"`{found['command']}` on {where['device_name']}, {where['threads']} "
        f"threads, torch {where['packages']['torch']}. The machine at its best: products "
        f"{peaks} (of matrices or a convolution, the faster); copies {best['copy'] / 1e9:.0f} GB/s "
        "(read and written bytes). A floor is what",
        "the direct algorithm's products (three evaluations for a training step) and the",
        f"optimiser's {UPDATE_BYTES} bytes a parameter take at these rates, and no more than that:",
        "Winograd's algorithm needs fewer products, everything else needs time too.",
        "",
        verdict.read_text() if verdict.is_file() else "",
        "| what | to reach | reached | | floor | measured by |",
        "|---|---|---|---|---|---|",
    ]
    for row in made:
        mark = "yes" if row.reached else "**no**"
        lines.append(
            f"| {row.what} | {row.reach} | {row.found} | {mark} | {row.floor} "
            f"| [{row.study}]({found['up']}/{row.study}) |"
        )
    return "\n".join([*lines, ""])
