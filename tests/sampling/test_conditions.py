"""The option y: numbers, texts and pictures that samples are asked to be."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddiff.nets.conditions import Layout, Number, Vector, decode_text
from ddiff.sampling.conditions import conditions_for, described
from ddiff.system.errors import ConfigError
from tests.support.runs import TINY, ddiff_many, job

NUMBERS = {"radius": Number(0.3, 0.05, 0.2, 0.4)}
RADIUS = Layout((1, 4, 4), numbers=NUMBERS)
MANY = Layout((1, 2, 2), 3, NUMBERS, 8, {"mask": 1}, {})
TWO = Layout((1, 2, 2), vector=Vector(2, 1.0))
TOLD = Layout(
    (1, 2, 2), 3, NUMBERS, 8,
    examples={"radius": [0.25, None, 0.35], "text": ["a", "b", "c"], "class": [2, 0, 1]},
)  # fmt: skip


def nothing(number):
    raise ConfigError("there are no data")


def asked(wanted, layout=RADIUS, number=4, **options):
    return conditions_for(wanted, number, layout, nothing, **options)


def test_numbers_are_repeated_or_spread_over_the_training_range():
    assert asked({"radius": 0.3})[:, 0].tolist() == pytest.approx([0.3] * 4)
    assert asked({"radius": [0.2, 0.3]})[:, 0].tolist() == pytest.approx([0.2, 0.3] * 2)
    assert asked("auto", number=5)[:, 0].tolist() == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4])
    whole, part = asked("auto", number=5), asked("auto", number=2, first=3, period=5)
    assert torch.equal(whole[3:], part)  # a shard asks for the same
    assert asked("none") is None


def test_a_number_outside_the_training_range_is_said(capsys):
    asked({"radius": [0.3, 0.7]})
    assert "y: radius 0.7 lies outside the training data's 0.2..0.4" in capsys.readouterr().out


def test_what_is_left_out_is_not_given():
    y = asked({"text": ["one", "two"], "class": "each"}, MANY, number=3)
    assert MANY.part(y, "radius").isnan().all()
    assert MANY.part(y, "mask").isnan().all()
    assert [decode_text(codes) for codes in MANY.part(y, "text")] == ["one", "two", "one"]
    assert MANY.classes(y).tolist() == [0, 1, 2]
    told = described(y, MANY)
    assert told == {"class": [0, 1, 2], "radius": [None] * 3, "text": ["one", "two", "one"]}
    assert decode_text(MANY.part(asked({"text": 5}, MANY), "text")[0]) == "5"
    assert torch.equal(asked(1, MANY).nan_to_num(), asked({"class": 1}, MANY).nan_to_num())


def test_auto_takes_what_belongs_together_in_the_data():
    found = described(asked("auto", TOLD, number=4), TOLD)
    assert found["class"] == [2, 0, 1, 2]
    assert found["text"] == ["a", "b", "c", "a"]
    assert found["radius"] == [pytest.approx(0.25), None, pytest.approx(0.35), pytest.approx(0.25)]


def test_pictures_come_from_arrays_and_files(tmp_path):
    masks = np.sign(np.random.default_rng(0).normal(size=(2, 1, 2, 2))).astype(np.float32)
    np.save(tmp_path / "masks.npy", masks)
    for given in (masks, str(tmp_path / "masks.npy")):
        y = asked({"mask": given}, MANY, number=3)
        assert torch.equal(MANY.part(y, "mask"), torch.from_numpy(masks[[0, 1, 0]]))


def test_vectors_come_from_arrays_and_files(tmp_path):
    vectors = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.save(tmp_path / "vectors.npy", vectors)
    for given in (vectors, str(tmp_path / "vectors.npy")):
        y = asked({"vector": given}, TWO, number=3)
        assert TWO.part(y, "vector").tolist() == [[1, 2], [3, 4], [1, 2]]
    assert TWO.part(asked({"vector": vectors[1]}, TWO, number=2), "vector")[:, 0].tolist() == [3, 3]
    assert described(y, TWO) == {}


@pytest.mark.parametrize(
    ("wanted", "layout", "message"),
    [
        ({"size": 3}, RADIUS, "this net is told no size"),
        ({"radius": "big"}, RADIUS, "radius is 'big', but must be a number"),
        ({"radius": math.nan}, RADIUS, "must be a number"),
        (3, RADIUS, "3 is a class, and this net is told radius; say y="),
        ({"text": True}, MANY, "must be a text or a list of texts"),
        ({"text": "a long caption"}, MANY, "has 14 bytes, and this net reads 8 at most"),
        ({"class": 7}, MANY, "7 is not a label"),
        ({"mask": np.zeros((2, 2))}, MANY, r"must be \[N, \*\[1, 2, 2\]\]"),
        ("auto", MANY, "auto takes what the run's data tell, and there are no data; say y='{mask:"),
        ({"vector": [1, 2]}, TWO, r"vector is \[1, 2\], but must be a .npy file or an array"),
        ({"vector": np.ones(3)}, TWO, r"an array of \[3\], but must be \[N, 2\] or \[2\]"),
        ({"vector": np.array([1, math.inf])}, TWO, "vector has values that are not finite"),
        ({"radius": 0.3}, Layout((1, 2, 2), 3), "this net is told the class alone, not radius"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(wanted, layout, message):
    with pytest.raises(ConfigError, match=message) as caught:
        asked(wanted, layout)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_verbs_know_conditions(tmp_path):
    """Train, sample by every form, export and sample again: the same numbers."""
    told = "data.conditions=[class,text,mask]"
    three = ["experiment=spheres_radius", "data.size=8", "data.num=20", "data.num_val=4"]
    y = "y={text: a three, class: each}"
    few = ("num_samples=4", "guidance=cfg", "guidance.scale=2")
    done = ddiff_many(
        [
            job("train", "experiment=digits_cfg", *TINY, told, "budget.max_steps=2", "run_dir=run",
                "precision=fp32"),
            job("sample", "run=run", *few, y, "out=a"),
            job("sample", "run=run", *few, y, "out=b", "batch_size=3"),
            job("sample", "run=run", "num_samples=4", "out=c"),
            job("export", "run=run", "format=torchscript", "out=net.ts"),
            job("sample", "run=net.ts", *few, y, "out=d"),
            job("train", *three, *TINY, "budget.max_steps=2", "run_dir=balls"),
            job("sample", "run=balls", "num_samples=3", "y={radius: [0.2, 0.9]}", "out=e"),
            job("evaluate", "run=balls", "data=spheres", "data.size=8", "data.num=20",
                "data.num_val=4", "num_samples=4", "metrics=[conditions]", "out=figures.json"),
            job("sample", "run=balls", "num_samples=3", "y={size: 1}", "out=f"),
        ],
        tmp_path,
    )  # fmt: skip
    assert [d.status for d in done] == [0] * 9 + [2], [d.err for d in done]
    assert "told no size" in done[-1].err
    a, b, c, d = (np.load(tmp_path / f"{name}.npy") for name in "abcd")
    assert np.abs(a - b).max() < 1e-5
    assert np.abs(a - d).max() < 2e-5  # by the exported file
    assert np.abs(a - c).max() > 2e-4  # of a net of two steps
    made = json.loads((tmp_path / "a.json").read_text())
    assert made["conditions"] == {"class": [0, 2, 5, 7], "text": ["a three"] * 4}
    assert (tmp_path / "c_mask.png").is_file()
    assert "radius 0.9 lies outside" in done[7].out
    names = {f["name"] for f in json.loads((tmp_path / "figures.json").read_text())["figures"]}
    assert names == {"radius_rank", "radius_error"}


@pytest.mark.slow
def test_vectors_of_an_encoder_go_through_every_verb(tmp_path):
    """Vectors that another net made are trained with, asked for, exported."""
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        pixels = random.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    np.savez(tmp_path / "vectors.npz", **{str(i): random.normal(size=5) for i in range(8)})
    np.save(tmp_path / "asked.npy", random.normal(size=(2, 5)))
    folder = ["data=images", "data.root=photos", "data.size=8", "data.channels=1",
              "data.vectors=vectors.npz", "data.val_fraction=0.5", *TINY,
              "precision=fp32"]  # fmt: skip
    y = "y={vector: asked.npy}"
    done = ddiff_many(
        [
            job("train", *folder, "budget.max_steps=4", "optimizer.lr=0.05", "run_dir=run",
                "budget.batch_size=2", "lr_schedule.warmup_steps=0"),
            job("sample", "run=run", "num_samples=4", y, "out=a"),
            job("sample", "run=run", "num_samples=4", "out=b"),
            job("export", "run=run", "format=torchscript", "out=net.ts"),
            job("sample", "run=net.ts", "num_samples=4", y, "out=c"),
            job("train", "ckpt_path=run", "budget.max_steps=5"),
            job("train", *folder, "data.vectors=null", "init=run", "budget.max_steps=1",
                "run_dir=other"),
        ],
        tmp_path,
    )  # fmt: skip
    assert [d.status for d in done] == [0] * len(done), [d.err for d in done]
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert np.abs(a - b).max() > 1e-3  # b is asked for what the validation set holds
    assert np.abs(a - c).max() < 2e-4
    assert "module=conditional_ddpm" in done[0].out
