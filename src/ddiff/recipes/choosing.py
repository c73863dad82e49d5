"""The recipe of `data=X` where no `experiment=` is named.

Only what is known before anything is built decides: pictures or volumes, labels, size. With
`recipe=30min` a training has `ddiff.recipe` look at the data and time the device first.
"""

import re
import sys
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddiff.config.resolvers import KNOWN, LATENT, data_name, data_of
from ddiff.config.shell import config_dir, run_verb
from ddiff.config.sweeps import values_said
from ddiff.config.trees import TELLING
from ddiff.data.folders import PICTURES, VOLUMES, listing
from ddiff.system.errors import ConfigError, DdiffError

FOLDERS = {"images": PICTURES, "voxels": VOLUMES}  # data of files, whose class folders are labels
QUIET = ("-c", "--cfg", "-i", "--info", "-p", "--package", "-sc", "--shell-completion")
OTHERS = ("ckpt_path", "run")  # name a run, which has its own recipe
ALIKE = {
    "trainer.accelerator": "accelerator",
    "threads": "threads",
    "seed": "seed",
}  # of both verbs


def recipe_of_training(argv: list[str]) -> None:
    """Adds to the command line what a training of `data=X` takes where no `experiment=` is named.

    With `recipe=30min` that is the experiment of `ddiff.recipe`, which is written first unless it
    lies there; else `choose_recipe`.
    """
    said = dict(values_said(argv))
    if "recipe" not in said:
        choose_recipe(argv)
        if len(sys.argv) - 1 > len(argv) and not _is_quiet(argv):
            print("to look at the data and time a few steps first: recipe=30min, docs/recipes.md")
        return
    budget, data = said["recipe"][0], said.get("data", [])
    if len(data) != 1 or len(said["recipe"]) != 1 or "-m" in argv or "--multirun" in argv:
        raise ConfigError(
            "recipe: is for one data=X; write one for each with python -m ddiff.recipe"
        )
    for name in ("experiment", *OTHERS):
        if said.get(name, [None]) != [None]:
            raise ConfigError(f"recipe: does not go with {name}=, which says what to train")
    own = config_dir(argv)
    name = str(
        said.get("name", [None])[0] or name_for(data[0], {"root": said.get("data.root", [""])[0]})
    )
    folder = own or Path("recipes")
    file = folder / f"experiment/{name}.yaml"
    rest = [word for word in argv if not re.match(r"\+*recipe=", word)]
    if file.is_file():
        print(f"recipe      {file}, written before; remove it to look at the data again")
    else:
        words = [word for word in rest if re.match(r"\+*data[=.]", word)]
        words += [
            f"{ALIKE[option]}={values[0]}" for option, values in said.items() if option in ALIKE
        ]
        if said.get("memory_budget_gb", [None])[0]:
            words.append(f"memory={said['memory_budget_gb'][0]}GB")
        words += [f"budget={budget}", f"name={name}", f"out={folder}"]
        program = sys.argv[0]
        status, _ = run_verb("recipe", [*(("--config-dir", str(own)) if own else ()), *words])
        sys.argv[0] = program
        if status:
            raise SystemExit(status)
    flags = [] if own else ["--config-dir", str(folder)]
    sys.argv[1:] = [*flags, *rest, f"experiment={name}"]


def name_for(choice: str, given: dict[str, Any]) -> str:
    """Return a name for the recipe: `images_photos`."""
    folder = re.sub(r"[^\w-]+", "_", Path(str(given.get("root", ""))).name)
    return f"{choice}_{folder}" if folder else choice


def _is_quiet(argv: list[str]) -> bool:
    """Return True if the command only prints a config, to which nothing may be added."""
    return any(word.split("=")[0] in QUIET for word in argv)


def choose_recipe(argv: list[str]) -> None:
    """Adds the recipe that suits `data=X` to the command line, where that names none.

    There it is part of what a run keeps of its command, and resumes with.
    """
    said = dict(values_said(argv))
    if "data" not in said or any(said.get(name, [None]) != [None] for name in OTHERS):
        return
    names = said["data"]
    described = {str(name): _described(str(name), argv) for name in names}
    if "experiment" in said or None in described.values():
        return  # Hydra knows better what is wrong with a name
    options = [said.get(f"data.{option}", [None]) for option in ("root", "labels")]
    recipes: dict[tuple[str, ...], str] = {}  # and the first data that each is for
    for name, root, labels in product(names, *options):
        known, own = described[name] or ("images", {})
        if known == LATENT:
            recipes.setdefault(tuple(_latent_recipe(said)), name)
            continue
        root = own.get("root") if root is None else root
        labels = own.get("labels") if labels is None else labels
        words = _recipe(known, root, labels, "module" not in said, _tells(said))
        recipes.setdefault(tuple(words), name)
    if len(recipes) > 1:
        each = ", ".join(f"{' '.join(words)} for {name}" for words, name in recipes.items())
        raise ConfigError(
            f"data: no recipe suits all of this sweep ({each}); say experiment= and module=, or "
            "sweep them apart"
        )
    (words,) = recipes
    place = next(i for i, word in enumerate(sys.argv) if re.match(r"\+*data=", word))
    sys.argv[place + 1 : place + 1] = words
    if not _is_quiet(argv):
        print(f"data={','.join(names)} without experiment=: {' '.join(words)}")


def recipe_words(words: list[str]) -> list[str]:
    """The recipe that suits the `data=` among these options, as options; [] where there is none
    to choose."""
    said = dict(values_said(words))
    names = said.get("data", [])
    described = _described(str(names[0]), list(words)) if len(names) == 1 else None
    if described is None:
        return []
    (known, own), options = (
        described,
        (said.get(f"data.{o}", [None])[0] for o in ("root", "labels")),
    )
    if known == LATENT:
        return _latent_recipe(said)
    root, labels = options
    root = own.get("root") if root is None else root
    labels = own.get("labels") if labels is None else labels
    return _recipe(known, root, labels, "module" not in said, _tells(said))


def _described(name: str, argv: list[str]) -> tuple[str, dict[str, Any]] | None:
    """The data of ddiff that `data=name` is, and its options where it is a file of --config-dir;
    None where there is no such data."""
    for flag, word in pairwise([*argv, ""]):
        folder = flag.partition("=")[2] if flag.startswith("--config-dir=") else word
        file = Path(folder) / "data" / f"{name}.yaml"
        if flag.startswith(("--config-dir", "-cd")) and file.is_file():
            try:
                own = {str(option): value for option, value in OmegaConf.load(file).items()}
                known = data_name(own["_target_"])
            except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException):
                return None
            if known not in KNOWN:
                raise ConfigError(
                    f"data={name}: what suits a class of your own is yours to say; add "
                    "experiment=pictures or experiment=volumes, with net= and schedule=, or let "
                    "ddiff.recipe look at the data and write an experiment"
                )
            return known, own
    return (name, {}) if name in KNOWN or name == LATENT else None


def _latent_recipe(said: Mapping[str, list[Any]]) -> list[str]:
    """The recipe of data=latent: labels are those of the data that are encoded."""
    run, other = (said.get(name, [None])[0] for name in ("data.run", "data.of"))
    root, labels = (said.get(f"data.of.{name}", [None])[0] for name in ("root", "labels"))
    known, told = str(other), any(said.get(f"data.of.{name}") for name in TELLING)
    if other is None:
        try:
            own = data_of(str(run or ""))
        except ConfigError:
            return ["experiment=latents"]  # what is missing is said later
        known, root, labels = data_name(own["_target_"]), own.get("root"), own.get("labels")
        told = any(own.get(name) for name in TELLING)
    if known not in KNOWN:
        return ["experiment=latents"]
    return ["experiment=latents", *_recipe(known, root, labels, "module" not in said, told)[1:]]


def _tells(said: Mapping[str, list[Any]]) -> bool:
    """Return True if options say that the data tell more of a sample than its class."""
    return any(value for name in TELLING for value in said.get(f"data.{name}", ()))


def _recipe(known: str, root: Any, labels: Any, module_is_free: bool, told: bool) -> list[str]:
    facts, endings = KNOWN[known], FOLDERS.get(known, ())
    words = ["experiment=pictures" if facts.dims == 2 else "experiment=volumes"]
    if module_is_free and (told or facts.labelled or _class_folders(endings, root, labels)):
        words.append("module=conditional_ddpm")
    return words


def _class_folders(endings: tuple[str, ...], root: Any, labels: Any) -> bool:
    """Return True if the data will have labels.

    Anything wrong with a folder is reported later, when it is read.
    """
    if not endings or isinstance(labels, bool | str):
        return bool(endings and labels)
    try:
        root = OmegaConf.create({"root": root}).root  # ${oc.env:HOME}/photos
        return listing(Path(root), endings, None).class_names is not None
    except (DdiffError, OSError, TypeError, ValueError, OmegaConfBaseException):
        return False
