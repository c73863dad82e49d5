"""Anyone's samples: what is understood, and one clear line for what is not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddiff.data.opening import Stack, opened
from ddiff.system.errors import DdiffError

random = np.random.default_rng(0)


def saved(array: np.ndarray, folder: Path, name: str = "a.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


def everything(stack: Stack) -> np.ndarray:
    return torch.cat([x for x, _ in stack.chunks()]).numpy()


@pytest.mark.parametrize(
    ("values", "as_meant"),
    [
        (np.linspace(-1, 1, 32).reshape(2, 1, 4, 4), lambda a: a),
        (np.linspace(0, 1, 32).reshape(2, 1, 4, 4), lambda a: 2 * a - 1),
        (np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4) * 8, lambda a: a / 127.5 - 1),
        (np.linspace(-1.2, 1.2, 32).reshape(2, 1, 4, 4), lambda a: a.clip(-1, 1)),
        (np.arange(32).reshape(2, 1, 4, 4) % 2 == 0, lambda a: 2.0 * a - 1),
    ],
    ids=["signed", "unit", "bytes", "a little too far", "bool"],
)
def test_what_the_numbers_mean(values: np.ndarray, as_meant, tmp_path: Path) -> None:
    found = everything(opened(saved(values, tmp_path)))
    assert np.abs(found - as_meant(values.astype(float))).max() < 1e-6


def unit_samples(strays: int, depth: float) -> np.ndarray:
    """1,000 values from 0 to 1, of which some are replaced by `depth`."""
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    values[:strays] = depth
    return values.reshape(10, 1, 10, 10)


@pytest.mark.parametrize(
    ("strays", "depth", "meaning"),
    [
        (1, -0.01, "unit"),
        (10, -0.2, "unit"),  # 1%: overshoot
        (1000, -0.04, "unit"),  # many, but all of them next to 0
        (11, -0.2, None),
        (9, -0.3, None),  # deeper than overshoot, and too few for -1..1
        (10, -0.3, "signed"),
        (500, -1.0, "signed"),
        (1, 1.2, "unit"),
        (9, 1.3, None),
        (900, 200.0, "bytes"),
    ],
)
def test_the_bulk_of_the_values_decides(
    strays: int, depth: float, meaning: str | None, tmp_path: Path
) -> None:
    array = unit_samples(strays, depth)
    path = saved(array, tmp_path)
    if meaning is None:
        with pytest.raises(DdiffError, match=r"that may be .* say value_range=\w+ or value_range="):
            opened(path)
        return
    stack = opened(path)
    as_meant = {"unit": 2 * array - 1, "signed": array, "bytes": array / 127.5 - 1}[meaning]
    assert np.abs(everything(stack) - as_meant.clip(-1, 1)).max() < 1e-6
    assert f"({meaning}); value_range= says otherwise" in stack.read_as


def test_overshoot_is_cut_and_said(tmp_path: Path) -> None:
    for values, array in (
        ("unit", unit_samples(3, -0.25)),
        ("signed", unit_samples(3, -1.5)),
        ("bytes", unit_samples(3, -60.0)),
    ):
        stack = opened(saved(array, tmp_path), values=values)
        assert everything(stack).min() == -1
        assert stack.read_as.startswith("3 of 1000 values lie outside and are cut (values from -")
    for values, array in (("unit", unit_samples(3, -0.26)), ("signed", unit_samples(3, -1.51))):
        with pytest.raises(DdiffError, match=rf"but value_range={values} means .* which is cut"):
            opened(saved(array, tmp_path), values=values)
    assert opened(saved(unit_samples(0, 0), tmp_path), values="unit").read_as == ""


def test_volumes_without_a_channel_are_no_pictures_of_many(tmp_path: Path) -> None:
    stack = opened(saved(random.uniform(-1, 1, (5, 6, 6, 6)), tmp_path))
    assert stack.shape == (1, 6, 6, 6)
    assert "volumes [N, D, H, W] without a channel axis" in stack.read_as
    stack = opened(saved(random.uniform(-1, 1, (5, 6, 7, 3)), tmp_path))
    assert stack.shape == (3, 6, 7)
    assert "pictures with channels last" in stack.read_as
    assert opened(saved(random.uniform(-1, 1, (5, 3, 6, 7)), tmp_path)).shape == (3, 6, 7)


def test_a_folder_of_volumes_means_what_its_bulk_says(tmp_path: Path) -> None:
    for i in range(4):
        values = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
        values[0, 0, 0] = -0.1 if i == 2 else 0
        saved(values, tmp_path, f"vox_{i}.npy")
    stack = opened(tmp_path)
    as_meant = 2 * np.linspace(0, 1, 1000).reshape(10, 10, 10) - 1
    assert np.abs(everything(stack) - as_meant).max() < 1e-6
    assert "0..1 (unit)" in stack.read_as
    assert "1 of 4000 values lie outside" in stack.read_as
    saved(np.full((10, 10, 10), np.nan, np.float32), tmp_path, "vox_3.npy")
    with pytest.raises(DdiffError, match=r"vox_3.npy has values that are not finite"):
        everything(opened(tmp_path, values="unit"))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((5, 4, 4), (1, 4, 4)), ((5, 4, 4, 3), (3, 4, 4)), ((5, 4, 4, 4), (1, 4, 4, 4))],
    ids=["grey without channel", "channels last", "volumes without channel"],
)
def test_other_layouts_are_taken_where_the_reference_tells(
    shape: tuple[int, ...], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    array = random.uniform(-1, 1, shape).astype(np.float32)
    stack = opened(saved(array, tmp_path), wanted)
    assert stack.shape == wanted
    expected = array.transpose(0, 3, 1, 2) if shape[-1] == 3 else array[:, None]
    assert np.array_equal(everything(stack), expected)


def nan_at(row: int) -> np.ndarray:
    array = np.zeros((9, 1, 4, 4))
    array[row, 0, 1, 2] = np.nan
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 1, 5, 4)), r"samples of shape \[1, 5, 4\], not \[1, 4, 4\]"),
        (np.linspace(-3, 1000, 16).reshape(1, 1, 4, 4), "values from -3 to 1000, which is none of"),
        (nan_at(7), "sample 7 has values that are not finite"),
        (np.zeros((0, 1, 4, 4)), r"is empty: its shape is \[0, 1, 4, 4\]"),
        (np.array([["a"]]), "holds <U1, not numbers|samples of shape"),
    ],
    ids=["shape", "range", "nan", "empty", "words"],
)
def test_a_strangers_mistakes(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(DdiffError, match=message) as raised:
        opened(saved(array, tmp_path), (1, 4, 4))
    assert "\n" not in str(raised.value)


def test_pickles_and_broken_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(saved(np.zeros((9, 1, 4, 4)), tmp_path).read_bytes()[:200])
    for name in ("evil.npy", "cut.npy"):
        with pytest.raises(DdiffError, match=f"cannot read the samples .*{name}"):
            opened(tmp_path / name, (1, 4, 4))
    with pytest.raises(DdiffError, match="no such file"):
        opened(tmp_path / "absent.npy")


def test_a_folder_of_volumes_is_in_order_of_its_numbers(tmp_path: Path) -> None:
    for i in range(12):  # as early tools named them
        saved(np.full((4, 4, 4), i / 11), tmp_path, f"vox_{i}.npy")
    stack = opened(tmp_path)
    assert stack.shape == (1, 4, 4, 4)
    assert np.allclose(everything(stack)[:, 0, 0, 0, 0], np.arange(12) / 5.5 - 1)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((6, 6), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    found = everything(opened(tmp_path, (1, 6, 6)))
    assert np.allclose(found[:, 0, 0, 0], np.array([0, 50, 100]) / 127.5 - 1)
    with pytest.raises(DdiffError, match="samples of what size"):
        opened(tmp_path)


def test_labels_lie_beside(tmp_path: Path) -> None:
    path = saved(np.zeros((3, 1, 4, 4)), tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"y": [2, 0, 1]}))
    (_, y), *_ = opened(path).chunks()
    assert y is not None
    assert y.tolist() == [2, 0, 1]
    (tmp_path / "a.json").write_text(json.dumps({"y": [2, 0]}))
    with pytest.raises(DdiffError, match="2 labels for 3 samples"):
        opened(path)


def test_the_digest_is_of_the_numbers(tmp_path: Path) -> None:
    array = random.uniform(-1, 1, (50, 1, 4, 4)).astype(np.float32)
    a = opened(saved(array, tmp_path, "a.npy")).digest()
    b = opened(saved(array, tmp_path, "b.npy")).digest()
    array[49, 0, 3, 3] += 0.01
    assert a == b != opened(saved(array, tmp_path, "c.npy")).digest()
