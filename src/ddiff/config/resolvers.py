"""Functions that configs call: `${fitted:...}`, `${snr_factor:...}` and others.

They work from what is known of data before anything is built: its name and its size.
"""

import re
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ddiff.system.devices import by_device
from ddiff.system.errors import ConfigError
from ddiff.system.files import read_plan

MOST = {2: 8192, 3: 1024}  # a side that the options of data allow
LARGEST = 16  # a side of the smallest feature maps; attention there sees up to 16^3 places
PIXELS = 1024  # those of 32 x 32, which the cosine schedule was made for


@dataclass(frozen=True)
class Facts:
    """Facts about a data set that its name tells."""

    dims: int
    labelled: bool = False
    size: int = 32  # where that is no option


KNOWN = {
    "spheres": Facts(3),
    "shapes": Facts(3, labelled=True),
    "voxels": Facts(3),
    "images": Facts(2),
    "digits": Facts(2, labelled=True),
    "mnist": Facts(2, labelled=True),
    "fashion_mnist": Facts(2, labelled=True),
    "cifar10": Facts(2, labelled=True),
}


@dataclass(frozen=True)
class Fit:
    """The options of a U-Net that suit a size."""

    patch_size: int
    channels: list[int]
    num_blocks: int

    @property
    def input_skip(self) -> bool:
        return self.patch_size > 1


def fit(size: int, dims: int) -> Fit | None:
    """A U-Net for size^dims; None where the size has too few factors of 2."""
    patch_size, wanted = 1, 1 if dims == 2 or size < 32 else 2 if size < 64 else 4
    while patch_size < max(wanted, size / 64) and size % (2 * patch_size) == 0:
        patch_size *= 2
    side, level = size // patch_size, 1
    channels = [32, 48, 64] if dims == 3 else [32, 64, 96] if patch_size == 1 else [64, 96, 128]
    if dims == 2 and side <= 16:
        channels = channels[:2]
    while level < len(channels) and side % 2 == 0:
        side, level = side // 2, level + 1
    if dims == 3 and level < 3:
        channels = [32, 64]  # heads of attention have 32 channels
    return None if side > LARGEST else Fit(patch_size, channels[:level], 4 - dims)


def fitted(option: str, data: DictConfig) -> Any:
    """${fitted:patch_size,${data}} in a config: an option of the U-Net that suits the data."""
    size, dims = size_of(data)
    found = fit(size, dims)
    if found is None:
        below, above = range(size, max(0, size - 99), -1), range(size, size + 99)
        near = [next((s for s in sizes if fit(s, dims)), None) for sizes in (below, above)]
        would = " or ".join(str(s) for s in near if s)
        raise ConfigError(
            f"data.size={size} has too few factors of 2 for net=unet_by_size; "
            f"{f'{would} would do' if would else 'say another net='}"
        )
    value = getattr(found, option)
    return ListConfig(value) if isinstance(value, list) else value  # else Hydra cannot resolve it


def snr_factor(data: DictConfig) -> float:
    """${snr_factor:${data}} in a config: 1,024 over the number of pixels or voxels, at most 1."""
    size, dims = size_of(data)
    return min(1.0, PIXELS / size**dims)


def data_name(target: str) -> str:
    """${data_name:${data._target_}} in a config: ddiff.data.FashionMNIST -> fashion_mnist."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(target).rpartition(".")[2]).lower()


def size_of(data: DictConfig) -> tuple[int, int]:
    """Side and number of dimensions."""
    facts = KNOWN.get(data_name(data["_target_"]))
    if facts is None:
        raise ConfigError(
            f"data: the size of {data['_target_']} is not known before it is built; "
            "say net= and schedule= that are not by_size"
        )
    size = data.get("size", facts.size)
    if not isinstance(size, int) or not 1 <= size <= MOST[facts.dims]:
        size = facts.size  # the check of options says what is wrong
    return size, facts.dims


def learns_shortcuts(module: DictConfig | None) -> bool:
    """${learns_shortcuts:${module}} in a config: whether a net learns long steps."""
    return bool((module or {}).get("shortcuts"))


def plan_in(path: str) -> DictConfig:
    """${plan_in:${.path}} in a config: the table in a file of ddiff.plan.

    So a config holds the table itself, and a run or an exported file needs the file no more.
    """
    return DictConfig(read_plan(path))


for resolver in (fitted, snr_factor, data_name, by_device, learns_shortcuts, plan_in):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
