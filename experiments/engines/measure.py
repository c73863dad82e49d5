"""Builds a TensorRT engine of every recipe's net in every precision, and says what came of it.

    python experiments/engines/measure.py                                   # a quarter of an hour
    python experiments/engines/measure.py --recipes digits_cfg --precisions fp16 --out /tmp/quick

No GPU is needed, and none runs the engines: what is compared with the net is the ONNX file that
each engine is built from. The nets are untrained, with random numbers in the layers that begin at
zero, and 8-bit ranges are those of noise: sizes, layers and types do not depend on the numbers,
errors do. Writes results.json and README.md, with verdict.md in it.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ddiff.artifacts.trained import Trained
from ddiff.artifacts.writing import example, export
from ddiff.build import build_net, is_generative
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.nets.conditions import Layout
from ddiff.system.environment import environment
from ddiff.system.errors import DdiffError
from ddiff.training.building import fill_in_data_facts

HERE = Path(__file__).parent
VERDICT = HERE / "verdict.md"
IN_LATENTS = {"digits_latent", "latents"}  # format=tensorrt has no place for their decoder
EXPERIMENTS = {path.stem for path in (HERE.parents[1] / "conf/experiment").glob("*.yaml")}
RECIPES = sorted(EXPERIMENTS - IN_LATENTS)
BATCH = 4
CASES = {  # name -> precision, whether the batch is dynamic
    "fp32": ("fp32", True),
    "fp16": ("fp16", True),
    "fp16 fixed": ("fp16", False),
    "bf16": ("bf16", True),
    "int8": ("int8", True),
    "fp8": ("fp8", True),
}
CPU = torch.device("cpu")


def untrained(recipe: str, *words: str) -> Trained | None:
    """The net of a recipe, no layer of which is zero; None for one that draws nothing."""
    options = train_options(f"experiment={recipe}", "trainer=cpu", *words)
    if not is_generative(options.module):
        return None
    fill_in_data_facts(options, build(options.data))
    torch.manual_seed(0)
    net = build_net(options.net).requires_grad_(False).eval()
    for parameter in net.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    schedule, objective = build(options.schedule), build(options.objective)
    return Trained(net, schedule, objective, options, Path("none"), 0, "", {})


def meet_noise(trained: Trained, samples: int) -> None:
    """Call the net with noise at several times, which is what 8-bit ranges are taken from."""
    net = trained.options.net
    layout = Layout.of_net(net)
    for first in range(4):
        trained.net(*example(layout, trained.schedule.T, CPU, samples, first))


def measured(trained: Trained, precision: str, dynamic: bool, batch: int = BATCH) -> dict[str, Any]:
    """Export the engine of a net, and return its size and facts, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/model.engine"
        options: Any = DictConfig(
            {
                "format": {"_target_": "ddiff.artifacts.TensorRT"},
                "solver": trained.options.solver, "guidance": trained.options.guidance,
                "dynamic_batch": dynamic, "batch_size": batch, "weights": "ema", "out": out,
                "overwrite": False,
            }
        )  # fmt: skip
        try:
            done = export(trained, options, precision, meet_noise)
        except DdiffError as error:
            return {"refused": str(error)}
        facts = {name: done.facts[name] for name in ("batch", "largest", "engine", "verified")}
        return {"megabytes": done.path.stat().st_size / 1e6, **facts}


def report(found: dict[str, dict[str, Any]], where: dict[str, Any]) -> list[str]:
    versions = {row["engine"]["tensorrt"] for row in _rows(found) if "engine" in row}
    lines = [
        "# TensorRT engines of every recipe",
        "",
        "*Which nets and precisions become engines, built without a GPU, and what are they?*",
        f"Written by `python experiments/engines/measure.py` on {where['device_name']},",
        f"{where['threads']} thread(s), torch {where['packages']['torch']}, TensorRT for RTX "
        f"{', '.join(sorted(versions))}.",
        "",
        *(VERDICT.read_text().splitlines() if VERDICT.exists() else ()),
        "",
        "**No engine was run: there was no GPU.** *PSNR* and *largest error* compare the ONNX file",
        "that the engine was built from, run by ONNX Runtime on the CPU, with the net in float32",
        "(of bf16 the file's numbers, computed in float32). The nets are untrained.",
        "",
        "*Layers* are the engine's, each a fusion of several nodes of the ONNX file. *Products*",
        "are its convolutions and matrix products, by the type of their input; *lost* are those of",
        "the file that no layer of the engine names. A batch is dynamic (1 to *rows*) or *fixed*.",
        "*Seconds* are those of TensorRT's parser and builder, without the export to ONNX.",
        "",
        "| recipe | parameters | precision | rows | nodes | layers | products | lost | MB "
        "| seconds | PSNR, dB | largest error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe, cases in found.items():
        for name, row in cases["cases"].items():
            about = f"| {recipe} | {cases['parameters'] / 1e6:.2f} M | {name} "
            if "refused" in row:
                lines.append(f"{about}| refused: {row['refused']} |")
                continue
            engine, verified = row["engine"], row["verified"]
            error = f"{verified['psnr']:.0f} | {verified['max_error']:.2g}"
            types = ", ".join(f"{n} {kind}" for kind, n in sorted(engine["types"].items()))
            lines.append(
                f"{about}| {row['batch'] or row['largest']} | {engine['nodes']} "
                f"| {engine['layers']} | {types} | {len(engine['lost'])} | {row['megabytes']:.1f} "
                f"| {engine['seconds']:.1f} | {error} |"
            )
    return [*lines, ""]


def _rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for cases in found.values() for row in cases["cases"].values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--precisions", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    where = environment(CPU, "float32")
    for recipe in args.recipes:
        trained = untrained(recipe)
        if trained is None:
            continue
        count = sum(parameter.numel() for parameter in trained.net.parameters())
        found[recipe] = {"parameters": count, "cases": {}}
        for name in args.precisions:
            row = found[recipe]["cases"][name] = measured(trained, *CASES[name])
            print(recipe, name, row.get("refused") or f"{row['megabytes']:.1f} MB", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"environment": where, "batch": BATCH, "recipes": found}, indent=1)
    (args.out / "results.json").write_text(text + "\n")
    (args.out / "README.md").write_text("\n".join(report(found, where)))


if __name__ == "__main__":
    main()
