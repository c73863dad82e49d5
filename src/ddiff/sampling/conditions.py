"""The option `y`, which says what samples shall be, as labels or as rows of numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.build import build
from ddiff.config.options import Train
from ddiff.data.folders import PICTURES
from ddiff.data.images import read_image
from ddiff.data.opening import opened
from ddiff.data.source import to_unit
from ddiff.nets.conditions import CLASS, TEXT, VECTOR, Layout, decode_text, encode_text
from ddiff.system.console import say_once
from ddiff.system.errors import ConfigError, DdiffError, nearest
from ddiff.system.readers import read_array

Examples = Callable[[int], Tensor | None]  # number -> what the data tell of so many samples


def examples_of(trained: Trained) -> Examples:
    """Return a function that reads what the data of a run tell of their validation set."""
    return partial(_examples, trained.options)


def _examples(options: Train, number: int) -> Tensor | None:
    data = build(options.data)
    data.prepare_data()
    return data.examples(number)


def conditions_for(
    wanted: Any,
    num_samples: int,
    layout: Layout,
    examples: Examples,
    first: int = 0,
    period: int | None = None,
) -> Tensor | None:
    """Return what the option `y` asks of samples: labels [N], rows [N, K], or None for nothing.

    `y` is, with a class alone, what `labels_for` takes. Else it is `none`, `auto`, or a mapping
    from the names of what the net is told to a value, a list of values to repeat, or `auto`; what
    is left out is not given. `auto` is: numbers that are spread evenly over the training data's
    range, equal shares of all classes, captions of the data, vectors and pictures of the validation
    set. If the net is told several things, `y=auto` takes what belongs together in the data.
    """
    if isinstance(wanted, Mapping) and not layout.by_rows and set(wanted) <= {CLASS}:
        wanted = wanted.get(CLASS)
    if not layout.by_rows:
        if isinstance(wanted, Mapping):
            told = "the class alone" if layout.num_classes else "nothing"
            raise ConfigError(f"y: this net is told {told}, not {', '.join(map(str, wanted))}")
        return labels_for(wanted, num_samples, layout.num_classes, first, period)
    if wanted is None or wanted == "none":
        return None
    numbers, period = torch.arange(first, first + num_samples), period or num_samples
    if wanted == "auto":
        if len(layout.parts) > 1 or layout.large:
            some = _together(layout, examples, period)
            return some[numbers % len(some)]
        wanted = dict.fromkeys(layout.parts, "auto")
    elif not isinstance(wanted, Mapping):
        if layout.num_classes is None:
            names = ", ".join(layout.parts)
            raise ConfigError(
                f"y: {_shown(wanted)} is a class, and this net is told {names}; say "
                f"y='{{{next(iter(layout.parts))}: ...}}', auto or none"
            )
        wanted = {CLASS: wanted}
    parts: dict[str, Tensor] = {}
    for name, values in wanted.items():
        if name not in layout.parts:
            raise ConfigError(
                f"y: this net is told no {name}{nearest(str(name), list(layout.parts))}"
            )
        if values is None or (isinstance(values, str) and values == "none"):
            continue
        if name == CLASS:
            found = labels_for(values, num_samples, layout.num_classes, first, period)
            assert found is not None
        elif name == TEXT:
            some = _texts(values, layout)
            found = some[numbers % len(some)]
        elif name in layout.numbers:
            found = _numbers(name, values, layout, numbers % period, period)
        elif isinstance(values, str) and values == "auto":
            some = _together(layout, examples, period)
            found = layout.part(some[numbers % len(some)], name)
        else:
            some = (_vectors if name == VECTOR else _pictures)(name, values, layout)
            found = some[numbers % len(some)]
        parts[name] = found
    return layout.packed(parts, num_samples)


def labels_for(
    wanted: Any,
    num_samples: int,
    num_classes: int | None,
    first: int = 0,
    period: int | None = None,
) -> Tensor | None:
    """Return the labels [num_samples] that the option `y` asks for, or None for no labels.

    `y` is one label, a list to repeat, `each` (equal shares in order, so that a square grid has a
    class a row), `none`, or `auto` (`each` if there are classes). The label of a sample depends on
    its number, of which the first is `first`; `each` begins again after `period` samples, or else
    after `num_samples`.
    """
    if wanted == "auto":
        wanted = None if num_classes is None else "each"
    if wanted is None or wanted == "none":
        return None
    if num_classes is None:
        raise ConfigError("y: this run was trained without labels; leave y out")
    numbers = torch.arange(first, first + num_samples)
    if wanted == "each":
        period = period or num_samples
        return numbers % period * num_classes // period
    labels = list(wanted) if isinstance(wanted, Sequence) else [wanted]
    wrong = [y for y in labels if type(y) is not int or not 0 <= y < num_classes]
    if wrong or not labels:
        raise ConfigError(
            f"y: {wanted!r} is not a label; choose from 0..{num_classes - 1}, a list, "
            "each, none or auto"
        )
    return torch.tensor(labels)[numbers % len(labels)]


def row_length(y: Tensor | None) -> int | None:
    """Return the samples per class if all classes have equal shares in order, else None.

    A picture then has a class a row.
    """
    if y is None or y.ndim > 1:
        return None
    shares = y.unique_consecutive(return_counts=True)[1].tolist()
    return shares[0] if len(shares) > 1 and shares[0] > 1 and len(set(shares)) == 1 else None


def described(y: Tensor, layout: Layout) -> dict[str, list[Any]]:
    """Return what rows y [N, K] ask for by the name of a part, None where it is not given.

    Vectors and pictures are left out.
    """
    found: dict[str, list[Any]] = {}
    for name in layout.parts:
        if name == TEXT:
            found[name] = [decode_text(codes) for codes in layout.part(y, name)]
        elif name not in layout.large:
            values = layout.part(y, name)[:, 0].tolist()
            kind = int if name == CLASS else float
            found[name] = [None if math.isnan(value) else kind(value) for value in values]
    return found


def _together(layout: Layout, examples: Examples, number: int) -> Tensor:
    """Return rows of what belongs together in the data, [<= number, K]."""
    if layout.large:
        try:
            rows = examples(number)
        except (ConfigError, DdiffError) as error:
            name = layout.large[0]
            raise ConfigError(
                f"y: auto takes what the run's data tell, and {error}; say y='{{{name}: FILE.npy}}'"
            ) from None
        if rows is None or rows.ndim != 2 or rows.shape[1] != layout.width:
            raise ConfigError("y: the run's data tell something else today than in its training")
        return rows
    size = min(number, *(len(some) for some in layout.examples.values()))
    parts: dict[str, Tensor] = {}
    for name, some in layout.examples.items():
        if name == TEXT:
            parts[name] = encode_text(list(some[:size]), layout.length)
        else:
            kept = [math.nan if value is None else value for value in some[:size]]
            parts[name] = torch.tensor(kept, dtype=torch.float32)
    return layout.packed(parts, size)


def _numbers(name: str, values: Any, layout: Layout, rows: Tensor, period: int) -> Tensor:
    """Return the numbers of samples with these places `rows` in the period."""
    law = layout.numbers[name]
    if isinstance(values, str) and values == "auto":
        return torch.linspace(law.low, law.high, period)[rows]
    some: list[Any] = list(values) if _is_list(values) else [values]
    wrong = [v for v in some if isinstance(v, bool) or not isinstance(v, int | float)]
    if wrong or not some or not all(map(math.isfinite, some)):
        raise ConfigError(
            f"y: {name} is {_shown(values)}, but must be a number, a list of numbers, auto or none"
        )
    outside = [value for value in some if not law.low <= value <= law.high]
    if outside:
        say_once(
            f"note        y: {name} {outside[0]:g} lies outside the training data's "
            f"{law.low:g}..{law.high:g}: the net extrapolates"
        )
    return torch.tensor(some, dtype=torch.float32)[rows % len(some)]


def _texts(values: Any, layout: Layout) -> Tensor:
    """Return the bytes of texts, [n, L]."""
    if isinstance(values, str) and values == "auto":
        some = list(dict.fromkeys(layout.examples.get(TEXT, ())))
    else:
        some = list(values) if _is_list(values) else [values]
        some = [str(v) if type(v) in (int, float) else v for v in some]  # "5" on a command line
    if not some or not all(isinstance(text, str) for text in some):
        raise ConfigError(f"y: text is {_shown(values)}, but must be a text or a list of texts")
    return encode_text(some, layout.length)


def _vectors(name: str, values: Any, layout: Layout) -> Tensor:
    """Return vectors [n, D] of an array, or of a .npy file."""
    assert layout.vector
    width = layout.vector.width
    if isinstance(values, str | Path):
        values = read_array(Path(values), "the vectors")
    if not isinstance(values, np.ndarray | Tensor):
        raise ConfigError(f"y: {name} is {_shown(values)}, but must be a .npy file or an array")
    found = torch.as_tensor(np.array(values, dtype=np.float32))
    if found.shape[-1:] != (width,) or found.ndim > 2 or not len(found):
        raise ConfigError(
            f"y: {name} is an array of {list(found.shape)}, but must be [N, {width}] or [{width}]"
        )
    if not bool(found.isfinite().all()):
        raise ConfigError(f"y: {name} has values that are not finite")
    return found.view(-1, width)


def _pictures(name: str, values: Any, layout: Layout) -> Tensor:
    """Return pictures [n, C, *S] of an array, or of a file or a folder."""
    shape = (layout.pictures[name], *layout.shape[1:])
    if isinstance(values, np.ndarray | Tensor):
        found = torch.as_tensor(np.asarray(values, dtype=np.float32))
        found = found[None] if found.shape == shape else found
        if found.shape[1:] != shape or not len(found) or not bool((found.abs() <= 1).all()):
            raise ConfigError(
                f"y: {name} is an array of {list(found.shape)}, but must be [N, *{list(shape)}] "
                "with values in [-1, 1]"
            )
        return found
    if not isinstance(values, str | Path):
        raise ConfigError(f"y: {name} is {_shown(values)}, but must be a file or a folder")
    path = Path(values)
    if path.suffix.lower() in PICTURES and len(shape) == 3 and path.is_file():
        return to_unit(read_image(path, shape))[None]
    return opened(path, shape, single=True).first(10**9)


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _shown(value: Any) -> str:
    return str(value)[:60] if not isinstance(value, str) else repr(value[:60])
