"""Functions that configs call: `${fitted:...}`, `${snr_factor:...}` and others.

They work from what is known of data before anything is built: its name and its size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ddiff.config.trees import stored
from ddiff.system.devices import by_device
from ddiff.system.errors import ConfigError
from ddiff.system.files import read_plan

MOST = {2: 8192, 3: 1024}  # a side that the options of data allow
LARGEST = 16  # mean side of the smallest feature maps; attention there sees up to 16^3 places
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
LATENT = "latent"  # data whose facts are those of an autoencoder and of other data


@dataclass(frozen=True)
class NetFit:
    """The options of a U-Net that suit a size."""

    patch_size: int
    channels: list[int]
    num_blocks: int

    @property
    def input_skip(self) -> bool:
        return self.patch_size > 1


def fit(sides: Sequence[int]) -> NetFit | None:
    """A U-Net for these sides; None where one of them has too few factors of 2.

    The number of pixels or voxels decides, as that of equal sides would.
    """
    dims, number = len(sides), math.prod(sides)
    wanted = 1 if dims == 2 or number < 32**dims else 2 if number < 64**dims else 4
    patch_size = 1
    while patch_size < wanted or (64 * patch_size) ** dims < number:
        if any(side % (2 * patch_size) for side in sides):
            break
        patch_size *= 2
    grid, level = [side // patch_size for side in sides], 1
    channels = [32, 48, 64] if dims == 3 else [32, 64, 96] if patch_size == 1 else [64, 96, 128]
    if dims == 2 and math.prod(grid) <= LARGEST**2:
        channels = channels[:2]
    while level < len(channels) and not any(side % 2 for side in grid):
        grid, level = [side // 2 for side in grid], level + 1
    if dims == 3 and level < 3:
        channels = [32, 64]  # heads of attention have 32 channels
    return (
        None if math.prod(grid) > LARGEST**dims else NetFit(patch_size, channels[:level], 4 - dims)
    )


def nearest_sides(sides: Sequence[int]) -> list[list[int]]:
    """Sides at most as long, and at least as long, that a U-Net fits, nearest to these."""
    dividers = [2**k for k in range(8)]
    below = [[side // n * n for side in sides] for n in dividers]
    above = [[-(-side // n) * n for side in sides] for n in dividers]
    found = (next((s for s in some if all(s) and fit(s)), None) for some in (below, above))
    return [s for s in found if s]


def fitted(option: str, data: DictConfig) -> Any:
    """${fitted:patch_size,${data}} in a config: an option of the U-Net that suits the data."""
    sides = data_sides(data)
    found = fit(sides)
    if found is None:
        would = " or ".join(_written(near) for near in nearest_sides(sides))
        raise ConfigError(
            f"data.size={_written(sides)} has too few factors of 2 for net=unet_by_size; "
            f"{f'{would} would do' if would else 'say another net='}"
        )
    value = getattr(found, option)
    return ListConfig(value) if isinstance(value, list) else value  # else Hydra cannot resolve it


def snr_factor(data: DictConfig) -> float:
    """${snr_factor:${data}} in a config: 1,024 over the number of pixels or voxels, at most 1."""
    return min(1.0, PIXELS / math.prod(data_sides(data)))


def data_name(target: str) -> str:
    """${data_name:${data._target_}} in a config: ddiff.data.FashionMNIST -> fashion_mnist."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(target).rpartition(".")[2]).lower()


def judged(data: DictConfig) -> DictConfig:
    """Return the options of the data that samples are measured against: of latents, those of the
    data that were encoded."""
    return data.of if data_name(data["_target_"]) == LATENT else data


def data_sides(data: DictConfig) -> tuple[int, ...]:
    """Sides of a sample: as many as it has dimensions."""
    name = data_name(data["_target_"])
    if name == LATENT:
        return latent_sides(data["run"])
    facts = KNOWN.get(name)
    if facts is None:
        raise ConfigError(
            f"data: the size of {data['_target_']} is not known before it is built; "
            "say net= and schedule= that are not by_size"
        )
    size = data.get("size", facts.size)
    sides = tuple(size) if isinstance(size, list | ListConfig) else (size,) * facts.dims
    right = [isinstance(side, int) and 1 <= side <= MOST[facts.dims] for side in sides]
    if len(sides) != facts.dims or not all(right):
        return (facts.size,) * facts.dims  # the check of options says what is wrong
    return sides


def _written(sides: Sequence[int]) -> str:
    """Sides as an option: 64, or [48,56,40]."""
    return str(sides[0]) if len(set(sides)) == 1 else f"[{','.join(map(str, sides))}]"


def learns_shortcuts(module: DictConfig | None) -> bool:
    """${learns_shortcuts:${module}} in a config: whether a net learns long steps."""
    return bool((module or {}).get("shortcuts"))


def plan_in(path: str) -> DictConfig:
    """${plan_in:${.path}} in a config: the table in a file of ddiff.plan.

    So a config holds the table itself, and a run or an exported file needs the file no more.
    """
    return DictConfig(read_plan(path))


def data_of(run: str) -> DictConfig:
    """${data_of:${.run}} in a config: the options of the data that a run was trained on."""
    return encoder(run).data


def encoder(run: str) -> DictConfig:
    """The config of the run of an autoencoder, or of one of its checkpoints."""
    path = Path(run)
    folder = path.parent.parent if path.suffix == ".ckpt" else path
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            f"data.run: there is no run {run}; python -m ddiff.train experiment=autoencoder makes "
            "one"
        )
    return stored(file)


def latent_sides(run: str) -> tuple[int, ...]:
    """Sides of the latents of an autoencoder."""
    net = encoder(run).net
    try:
        factor = net.patch_size * 2 ** (len(net.channels) - 1)
        return tuple(side // factor for side in net.shape[1:])
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"data.run: the latents of {run} have a size that is not known before they are made; "
            "say net= and schedule= that are not by_size"
        ) from error


for resolver in (fitted, snr_factor, data_name, by_device, learns_shortcuts, plan_in, data_of):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
