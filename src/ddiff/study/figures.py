"""Figures that a study can measure: which metric gives them, and what is better of them."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from ddiff.system.errors import ConfigError, nearest

Better = Literal["lower", "higher"]
# figures of ddiff.evaluate -> the choice of `metrics=` that gives them, and what is better
OF_SAMPLES: dict[str, tuple[tuple[str, ...], Better]] = {
    "fid": (("fid",), "lower"),
    "kid": (("kid",), "lower"),
    "precision": (("precision_recall",), "higher"),
    "recall": (("precision_recall",), "higher"),
    "density": (("precision_recall",), "higher"),
    "coverage": (("precision_recall",), "higher"),
    "accuracy": (("labels",), "higher"),
    "classifier_score": (("labels",), "higher"),
    "class_variation": (("labels",), "lower"),
    "closer_to_train": (("memorisation",), "lower"),
    "validity": (("sphere_law", "solid_fit"), "higher"),
    "sphere_iou": (("sphere_law",), "higher"),
    "radius_d": (("sphere_law",), "lower"),
    "centre_d": (("sphere_law",), "lower"),
    "solid_iou": (("solid_fit",), "higher"),
    "one_piece": (("pieces",), "higher"),
    "coverage_iou": (("sets",), "higher"),
    "psnr": (("pairs",), "higher"),  # of samples from from_image=held_out
    "ssim": (("pairs",), "higher"),
    "crps": (("ensembles",), "lower"),  # with versions=5 beside it
}
# figures of metrics.json
OF_TRAINING: dict[str, Better] = {
    "val/loss": "lower",
    "val/iou": "higher",
    "val/accuracy": "higher",
    "val/reconstruction": "lower",
    "val/psnr": "higher",
    "val/rate": "lower",
    "peak_memory_mb": "lower",
    "samples_per_second": "higher",
    **{f"val_loss/{i / 10:.1f}-{(i + 1) / 10:.1f}": "lower" for i in range(10)},
}
# losses of the training: averaged over the noise levels that schedule and objective set
LOSSES = tuple(name for name in OF_TRAINING if name.startswith(("val/loss", "val_loss/")))
BY_FEATURES = ("fid", "kid", "precision_recall", "labels")  # metrics that need an extractor


def check_figures(names: Iterable[str]) -> None:
    """Raise ConfigError for a figure that nothing measures. `metric:figure` names one's own."""
    for name in names:
        if (
            name not in OF_SAMPLES
            and name not in OF_TRAINING
            and not re.fullmatch(r"\w+:\w+", name)
        ):
            known = [*OF_TRAINING, *OF_SAMPLES]
            raise ConfigError(
                f"measure: there is no figure {name!r}{nearest(name, known)}; "
                "a metric of your own is written metric:figure"
            )


def metrics_for(names: Sequence[str]) -> list[str]:
    """The choices of `metrics=` that give these figures."""
    found = [
        metric
        for name in names
        if name not in OF_TRAINING
        for metric in (OF_SAMPLES[name][0] if name in OF_SAMPLES else [name.partition(":")[0]])
    ]
    return list(dict.fromkeys(found))


def key_of(name: str) -> str:
    """The name of a figure in the file of an evaluation: without the metric of one's own."""
    return name.partition(":")[2] or name


def known_better(name: str) -> Better | None:
    """Return what is better of a figure of ddiff; None for one's own."""
    if name in OF_SAMPLES:
        return OF_SAMPLES[name][1]
    return OF_TRAINING.get(name)


def better_of(name: str, said: Better | Literal["auto"]) -> Better:
    """Return what is better of a figure: as said, or as known."""
    better = known_better(name) if said == "auto" else said
    if better is None:
        raise ConfigError(f"better: it is not known for {name}; say better=lower or better=higher")
    return better
