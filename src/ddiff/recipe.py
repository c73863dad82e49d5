"""The recipe that suits the data: what `data=X` trains where no `experiment=` is named.

Only what is known before anything is built decides: pictures or volumes, labels, size.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddiff.data.folders import PICTURES, VOLUMES, listing
from ddiff.errors import ConfigError, DdiffError

QUIET = ("-c", "--cfg", "-i", "--info", "-p", "--package", "-sc", "--shell-completion")
OTHERS = ("ckpt_path", "from")  # name a run, which has its own recipe
MOST = {2: 8192, 3: 1024}  # a side that the options of data allow
LARGEST = 16  # a side of the smallest feature maps; attention there sees up to 16^3 places
PIXELS = 1024  # those of 32 x 32, which the cosine schedule was made for


@dataclass(frozen=True)
class Facts:
    """Facts about a data set that its name tells."""

    dims: int
    labelled: bool = False
    endings: tuple[str, ...] = ()  # of a folder of files, whose class folders are the labels
    size: int = 32  # where that is no option


KNOWN = {
    "spheres": Facts(3),
    "shapes": Facts(3, labelled=True),
    "voxels": Facts(3, endings=VOLUMES),
    "images": Facts(2, endings=PICTURES),
    "digits": Facts(2, labelled=True),
    "mnist": Facts(2, labelled=True),
    "fashion_mnist": Facts(2, labelled=True),
    "cifar10": Facts(2, labelled=True),
}


def choose_recipe(argv: list[str]) -> None:
    """Adds the recipe that suits `data=X` to the command line, where that names none.

    There it is part of what a run keeps of its command, and resumes with.
    """
    said = dict(_said(argv))
    if "data" not in said or any(said.get(name, [None]) != [None] for name in OTHERS):
        return
    names = said["data"]
    described = {str(name): _described(str(name), argv) for name in names}
    if "experiment" in said or None in described.values():
        return  # Hydra knows better what is wrong with a name
    options = [said.get(f"data.{option}", [None]) for option in ("root", "labels")]
    recipes: dict[tuple[str, ...], str] = {}  # and the first data that each is for
    for name, root, labels in product(names, *options):
        facts, own = described[name] or (Facts(2), {})
        root = own.get("root") if root is None else root
        labels = own.get("labels") if labels is None else labels
        recipes.setdefault(tuple(_recipe(facts, root, labels, "module" not in said)), name)
    if len(recipes) > 1:
        each = ", ".join(f"{' '.join(words)} for {name}" for words, name in recipes.items())
        raise ConfigError(
            f"data: no recipe suits all of this sweep ({each}); say experiment= and module=, or "
            "sweep them apart"
        )
    (words,) = recipes
    place = next(i for i, word in enumerate(sys.argv) if re.match(r"\+*data=", word))
    sys.argv[place + 1 : place + 1] = words
    if not any(word.split("=")[0] in QUIET for word in argv):
        print(f"data={','.join(names)} without experiment=: {' '.join(words)}")


def _described(name: str, argv: list[str]) -> tuple[Facts, dict[str, Any]] | None:
    """What is known of `data=name`, and its own options where it is a file of --config-dir; None
    where there is no such data."""
    for flag, word in pairwise([*argv, ""]):
        folder = flag.partition("=")[2] if flag.startswith("--config-dir=") else word
        file = Path(folder) / "data" / f"{name}.yaml"
        if flag.startswith(("--config-dir", "-cd")) and file.is_file():
            try:
                own = {str(option): value for option, value in OmegaConf.load(file).items()}
                facts = KNOWN.get(data_name(own["_target_"]))
            except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException):
                return None
            if facts is None:
                raise ConfigError(
                    f"data={name}: what suits a class of your own is yours to say; add "
                    "experiment=pictures or experiment=volumes, with net= and schedule="
                )
            return facts, own
    return (KNOWN[name], {}) if name in KNOWN else None


def _recipe(facts: Facts, root: Any, labels: Any, module_is_free: bool) -> list[str]:
    words = ["experiment=pictures" if facts.dims == 2 else "experiment=volumes"]
    if module_is_free and (facts.labelled or _class_folders(facts, root, labels)):
        words.append("module=conditional_ddpm")
    return words


def _class_folders(facts: Facts, root: Any, labels: Any) -> bool:
    """Whether the data will have labels; what is wrong with a folder is said when it is read."""
    if not facts.endings or isinstance(labels, bool):
        return bool(facts.endings and labels)
    try:
        root = OmegaConf.create({"root": root}).root  # ${oc.env:HOME}/photos
        return listing(Path(root), facts.endings, None).class_names is not None
    except (DdiffError, OSError, TypeError, ValueError, OmegaConfBaseException):
        return False


def _said(argv: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """The options of a command line, each with its values: several in a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for word in argv:
        if word.startswith("-") or "=" not in word:
            continue
        try:
            override = parser.parse_override(word)
            swept = override.is_sweep_override()
            values = list(override.sweep_iterator()) if swept else [override.value()]
        except (HydraException, ValueError, TypeError):
            continue  # Hydra will say what is wrong with it
        yield override.key_or_group, values


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
    size, dims = _size(data)
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
    size, dims = _size(data)
    return min(1.0, PIXELS / size**dims)


def data_name(target: str) -> str:
    """${data_name:${data._target_}} in a config: ddiff.data.FashionMNIST -> fashion_mnist."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(target).rpartition(".")[2]).lower()


def _size(data: DictConfig) -> tuple[int, int]:
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


for resolver in (fitted, snr_factor, data_name):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
