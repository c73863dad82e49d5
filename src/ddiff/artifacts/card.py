"""The model card of an exported folder: how to sample, and every number with its protocol."""

from pathlib import Path
from typing import Any

from ddiff.artifacts.trained import Trained
from ddiff.config.options import Export
from ddiff.system.files import natural, read_json

HEAD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [diffusion, unconditional-image-generation, ddiff]
---

# {name}

```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("{folder}")
images = pipeline({call}).images
```
"""
CLIPPED = """
The samples of `python -m ddiff.sample` compute each step from the clipped estimate of the image;
diffusers does so with `use_clipped_model_output=True`, as above.
"""


def card(trained: Trained, options: Export, pipeline: str, about: str, folder: str) -> str:
    """README.md of a folder: its use, the net, the training, and the run's figures."""
    node, solver = trained.options.net, options.solver
    steps = solver.get("num_steps") or trained.schedule.T
    call = f"batch_size=16, num_inference_steps={steps}"
    if pipeline == "DDIMPipeline":
        call += f", eta={solver.get('eta', 0.0)}, use_clipped_model_output=True"
    text = HEAD.format(name=trained.options.name, pipeline=pipeline, folder=folder, call=call)
    text += CLIPPED if pipeline == "DDIMPipeline" else ""
    size = "x".join(map(str, node.shape))
    parameters = sum(p.numel() for p in trained.net.parameters())
    spent = trained.spent
    rows = {
        "net": f"UNet2DModel, {parameters:,} parameters, {size}",
        "weights": f"{options.weights}, float32, at step {trained.step:,}",
        "prediction": type(trained.objective).__name__,
        "training data": _of(trained.options.data),
        "training": ", ".join(f"{name} {_number(value)}" for name, value in spent.items()) or "-",
        "this folder against the net": about,
        "made by": "ddiff, `python -m ddiff.export format=diffusers`",
    }
    lines = ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return text + "\n".join([*lines, *_loss(trained), *_figures(trained.run_dir), ""])


def _of(node: Any) -> str:
    """The data by the name of its class."""
    return "-" if not node else str(node["_target_"]).rpartition(".")[2]


def _loss(trained: Trained) -> list[str]:
    """The validation loss of the run, with its protocol."""
    metrics = read_json(trained.run_dir / "metrics.json")
    loss = metrics.get("val/loss")
    if not isinstance(loss, float) or metrics.get("step") != trained.step:
        return []
    protocol = str(metrics.get("protocol", "")).partition(";")[0]
    return ["", f"Validation loss {loss:.4g} ({protocol})."]


def _figures(run_dir: Path) -> list[str]:
    """Figures of `python -m ddiff.evaluate`, each with its protocol."""
    rows = []
    folder = run_dir / "evaluations"
    paths = sorted(folder.glob("*.json"), key=lambda path: natural(path.name))
    for path in paths:
        for figure in read_json(path).get("figures", []):
            low, high = figure.get("low"), figure.get("high")
            interval = "" if low is None else f"{low:.4g} to {high:.4g}"
            protocol = ", ".join(f"{k} {v}" for k, v in figure.get("protocol", {}).items())
            cells = [path.stem, figure["name"], f"{figure['value']:.4g}", interval, figure["n"]]
            rows.append("| " + " | ".join(map(str, [*cells, protocol])) + " |")
    if not rows:
        return []
    head = ["", "| samples | figure | value | 95% | n | protocol |", "|---|---|---|---|---|---|"]
    return [*head, *rows]


def _number(value: Any) -> str:
    return f"{value:,.5g}" if isinstance(value, float) else f"{value:,}"
