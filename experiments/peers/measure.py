"""Compares ddiff with diffusers and MONAI: training step, sampling step, memory, cold start.

    python experiments/peers/measure.py            # an hour and a half on two cores
    python experiments/peers/measure.py --quick    # minutes: small volumes, nothing is written

The peers live in .venv-peers, which this makes. Every contestant is a process of its own; one works
at a time, and rounds go over all of them. Writes results.json and README.md beside this file.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lineup
import peers_report
import quality
import surroundings
import torch
from lanes import Lane, race

from ddiff.config.shell import fail
from ddiff.system.environment import environment
from ddiff.system.errors import DdiffError

HERE = Path(__file__).parent


def measured(contest: lineup.Contest, rounds: int, python: Path, device: str) -> dict[str, Any]:
    """The contest's rows with what was found."""
    with tempfile.TemporaryDirectory() as folder:
        lanes = [
            Lane(row.name, command(contest, row, python, device), path / "log", variables(path))
            for number, row in enumerate(contest.rows)
            if (path := Path(folder, str(number))).mkdir() is None
        ]
        try:
            steps = 20 if contest.mode == "sampling" else 0
            race(lanes, rounds, steps, lambda text: print(text, flush=True))
        finally:
            for lane in lanes:
                lane.close()
    rows = [
        {**asdict(row), "options": row.options, **lane.found}
        for row, lane in zip(contest.rows, lanes, strict=True)
    ]
    return {"title": contest.title, "mode": contest.mode, "shape": contest.shape, "rows": rows}


def command(contest: lineup.Contest, row: lineup.Row, python: Path, device: str) -> list[str]:
    task = {"row": asdict(row), "shape": contest.shape, "mode": contest.mode, "device": device}
    return [str(python), str(HERE / "peer_worker.py"), json.dumps(task)]


def variables(caches: Path) -> dict[str, str]:
    """Empty caches of compiled code for each contestant: a cold start is a cold start."""
    own = {"DDIFF_CACHE": "ddiff", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "t"}
    return {
        **os.environ,
        "DDIFF_TRUST": "peer_nets",
        **{name: str(caches / folder) for name, folder in own.items()},
    }


def counted(contests: Sequence[lineup.Contest], python: Path) -> dict[str, dict[str, Any]]:
    """Parameters and FLOPs by net, and the shape they hold for."""
    shapes = {row.net: contest.shape for contest in contests for row in contest.rows}
    done = subprocess.run(
        [python, HERE / "count_nets.py", json.dumps(shapes)], env=variables(HERE), check=True,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return {net: {"shape": shape, **found[net]} for net, shape in shapes.items()}


def compared(args: argparse.Namespace, python: Path) -> dict[str, Any]:
    """Every contest asked for, those of an earlier run kept."""
    chosen = [
        contest
        for contest in lineup.contests(args.quick, args.device == "cuda")
        if not args.only or contest.name in args.only
    ]
    nets = counted(chosen, python)
    where = environment(torch.device(args.device), "as each row says")
    where["packages"] |= surroundings.versions(python)
    return {
        "nets": nets,
        "contests": {
            contest.name: {
                **measured(contest, args.rounds, python, args.device),
                "rounds": args.rounds,
                "environment": where,
            }
            for contest in chosen
        },
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge new results into old ones; what was not measured again stays.

    A contest carries its own environment.
    """
    return {**old, **{part: {**old.get(part, {}), **found} for part, found in new.items()}}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contest.name for contest in lineup.contests(quick=True, cuda=False)]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=names, help="these contests alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--python", type=Path, help="an environment that has the peers already")
    parser.add_argument("--quick", action="store_true", help="small; written only with --out")
    parser.add_argument("--quality", type=float, metavar="MINUTES", help=quality.__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or (None if args.quick else HERE)
    return args


def main() -> None:
    args = arguments()
    try:
        python = args.python or surroundings.prepared()
        path = args.out / "results.json" if args.out else None
        results = json.loads(path.read_text()) if path and path.is_file() else {}
        if args.quality:
            results["quality"] = quality.judged(results, args.quality, python, variables(HERE))
        else:
            results = merged(results, compared(args, python))
    except DdiffError as error:
        fail(str(error), error.exit_status)
    text = peers_report.written(results, (args.out or HERE) / "verdict.md")
    print(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        path.with_name("README.md").write_text(text)


if __name__ == "__main__":
    main()
