"""Samples made from pictures: changed, completed, refined, by the verb and in Python."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import ddiff
from ddiff.artifacts.trained import Trained
from ddiff.build import build
from ddiff.data import Voxels
from ddiff.data.opening import Array, Stack
from ddiff.data.source import to_bytes
from ddiff.metrics.evaluation import beside_truths
from ddiff.metrics.figures import Case
from ddiff.pages.report.records import way_of
from ddiff.sampling.given import between_slices, given_of
from ddiff.system.errors import ConfigError
from tests.artifacts.worlds import make_run
from tests.support.runs import Done, ddiff_many, job

DRAW = ("picture=false", "num_samples=4", "solver.num_steps=6", "guidance=none")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    cwd = tmp_path_factory.mktemp("given")
    make_run(cwd / "run", "2D")
    make_run(cwd / "solid", "3D")
    shape = tuple(ddiff.load(cwd / "run").shape)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, *shape, generator=generator) * 2 - 1
    np.save(cwd / "pictures.npy", pictures.numpy())
    sides = shape[1:]
    mask = np.zeros(sides, dtype=np.uint8)
    mask[:, sides[1] // 2 :] = 1
    np.save(cwd / "mask.npy", mask)
    np.save(cwd / "nothing.npy", 0 * mask)
    Image.fromarray(mask * 255).save(cwd / "mask.png")
    pixels = to_bytes(pictures[0]).permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels).save(cwd / "one.png")
    np.save(cwd / "coarse.npy", pictures[:, :, ::2, ::2].numpy())
    solid = tuple(ddiff.load(cwd / "solid").shape)
    np.save(cwd / "scan.npy", np.where(np.arange(solid[-1]) < 3, 1.0, -1.0) * np.ones(solid[1:]))
    np.save(cwd / "every_second.npy", np.load(cwd / "scan.npy")[..., ::2])
    np.save(cwd / "gaps.npy", np.broadcast_to(np.arange(solid[-1]) % 2, solid[1:]))
    given = "from_image=pictures.npy"
    jobs = {
        "changed": job("sample", "run=run", *DRAW, given, "strength=0.5", "solver=ddim"),
        "same": job("sample", "run=run", *DRAW, given, "strength=0.2", "solver=ddim", "out=same"),
        "inpainted": job("sample", "run=run", *DRAW, given, "inpaint=mask.npy", "jumps=2",
                         "solver=ddpm", "out=inpainted"),
        "late": job("sample", "run=run", *DRAW, given, "inpaint=mask.npy", "jumps=1",
                    "strength=0.6", "solver=ddpm", "out=late"),
        "shards": job("sample", "run=run", *DRAW, given, "inpaint=mask.png", "jumps=2",
                      "solver=ddpm", "batch_size=2", "engine=local", "engine.slots=1",
                      "out=shards"),
        "native": job("sample", "run=run", *DRAW, "from_image=one.png", "inpaint=mask.png",
                      "backend=native", "solver=dpmpp_2m", "out=native"),
        "export": job("export", "run=run", "format=pt2", "out=run.pt2"),
        "exported": job("sample", "run=run.pt2", *DRAW, given, "inpaint=mask.npy", "guidance=cfg",
                        "out=exported"),
        "guided": job("sample", "run=run", *DRAW, given, "inpaint=mask.npy", "guidance=cfg",
                      "precision=fp32", "out=guided"),
        "refined": job("sample", "run=run", *DRAW, "from_image=coarse.npy", "upscale=2",
                       "clamp=null", "out=refined"),
        "posterior": job("sample", "run=run", *DRAW, "from_image=coarse.npy", "upscale=2",
                         "posterior=3", "guidance=cfg", "solver=dpmpp_2m", "backend=native",
                         "clamp=null", "out=posterior"),
        "noisy": job("sample", "run=run", *DRAW, given, "inpaint=mask.npy", "posterior=2",
                     "known_noise=0.2", "batch_size=2", "out=noisy"),
        "posterior file": job("sample", "run=run.pt2", *DRAW, given, "inpaint=mask.npy",
                              "posterior=2", "out=none"),
        "posterior of": job("sample", "run=run", *DRAW, given, "posterior=2", "out=none"),
        "noise of": job("sample", "run=run", *DRAW, given, "inpaint=mask.npy", "known_noise=0.1",
                        "out=none"),
        "thin": job("sample", "run=solid", *DRAW, "from_image=every_second.npy", "slices=2",
                    "posterior=1", "value_range=signed", "out=thin"),
        "whole": job("sample", "run=solid", *DRAW, "from_image=scan.npy", "slices=2",
                     "posterior=1", "value_range=signed", "out=whole"),
        "slices of": job("sample", "run=run", *DRAW, given, "slices=2", "out=none"),
        "slices and": job("sample", "run=solid", *DRAW, "from_image=scan.npy", "slices=2",
                          "inpaint=gaps.npy", "value_range=signed", "out=none"),
        "slices": job("sample", "run=solid", *DRAW, "from_image=scan.npy", "inpaint=gaps.npy",
                      "value_range=signed", "out=slices"),
        "held out": job("evaluate", "run=run", "num_samples=4", "solver.num_steps=6",
                        "from_image=held_out", "inpaint=half", "posterior=1", "batch_size=2",
                        "engine=local", "engine.slots=1", "solver=dpmpp_2m_sde",
                        "metrics=[pairs]"),
        "held out again": job("sample", "run=run", *DRAW, "from_image=held_out", "upscale=2",
                              "strength=0.5", "solver=ddim"),
        "versions": job("evaluate", "run=run", "num_samples=6", "solver.num_steps=2", "seed=1",
                        "from_image=held_out", "inpaint=half", "versions=2", "metrics=[ensembles]"),
        "of files": job("evaluate", "run=run", "num_samples=4", "solver.num_steps=2", given,
                        "strength=0.6", "metrics=[pairs,memorisation]", "+metrics.auto=true",
                        "out=of_files.json"),
        "of pairs": job("evaluate", "run=run", "num_samples=6", "solver.num_steps=2", given,
                        "strength=0.5", "versions=2", "reference=pictures.npy",
                        "metrics=[pairs,ensembles]", "out=of_pairs.json"),
        "held out thin": job("sample", "run=solid", *DRAW, "from_image=held_out", "slices=2",
                             "y=none", "out=held"),
        "nothing drawn": job("evaluate", "samples=pictures.npy", "reference=pictures.npy",
                             "from_image=held_out"),
        "other data": job("evaluate", "run=run", "data.size=16", "from_image=held_out"),
        "no image": job("evaluate", "run=run", "inpaint=half"),
        "held out factor": job("sample", "run=run", *DRAW, "from_image=held_out", "upscale=3",
                               "out=none"),
        "alone": job("sample", "run=run", *DRAW, "strength=0.5", "out=none"),
        "both": job("sample", "run=run", *DRAW, "from_image=coarse.npy", "inpaint=mask.npy",
                    "upscale=2"),
        "jumps": job("sample", "run=run", *DRAW, given, "jumps=2", "out=none"),
        "jumps of": job("sample", "run=run", *DRAW, given, "inpaint=mask.npy", "jumps=1",
                        "solver=dpmpp_2m", "out=none"),
        "little": job("sample", "run=run", *DRAW, given, "strength=0.01", "out=none"),
        "nothing": job("sample", "run=run", *DRAW, given, "inpaint=nothing.npy", "out=none"),
        "factor": job("sample", "run=run", *DRAW, given, "upscale=3", "out=none"),
        "shape": job("sample", "run=run", *DRAW, "from_image=scan.npy", "out=none"),
        "mask": job("sample", "run=run", *DRAW, given, "inpaint=gaps.npy", "out=none"),
        "absent": job("sample", "run=run", *DRAW, "from_image=not_there.npy", "out=none"),
        "ending": job("sample", "run=solid", *DRAW, "from_image=one.png", "out=none"),
    }  # fmt: skip
    return cwd, dict(zip(jobs, ddiff_many(list(jobs.values()), cwd), strict=True))


def drawn(world: tuple[Path, dict[str, Done]], name: str, file: str | None = None) -> np.ndarray:
    cwd, done = world
    assert done[name].status == 0, done[name].err
    return np.load(cwd / f"{file or name}.npy")


@pytest.mark.slow
def test_a_little_changed(world):
    """Strength 0.5 of 6 steps are 3 evaluations; samples keep more of the picture at 0.2."""
    cwd, _ = world
    (path,) = (cwd / "run" / "samples").glob("*_pictures_strength0.5.npy")
    changed, same = drawn(world, "changed", str(path.with_suffix(""))), drawn(world, "same")
    pictures = np.load(cwd / "pictures.npy")[[0, 1, 2, 0]]
    assert json.loads(path.with_suffix(".json").read_text())["evaluations"] == 3
    far = [np.square(x - pictures).mean() for x in (same, changed)]
    assert far[0] < far[1]
    assert not np.array_equal(changed[0], changed[3])  # of one picture, with other noise


@pytest.mark.slow
def test_what_is_kept_is_kept(world):
    cwd, _ = world
    pictures, anew = np.load(cwd / "pictures.npy")[[0, 1, 2, 0]], np.load(cwd / "mask.npy") != 0
    found = drawn(world, "inpainted")
    assert np.array_equal(found[..., ~anew], pictures[..., ~anew])
    assert np.abs(found[..., anew] - pictures[..., anew]).mean() > 0.1
    assert np.array_equal(drawn(world, "late")[..., ~anew], pictures[..., ~anew])
    record = json.loads((cwd / "inpainted.json").read_text())
    assert record["evaluations"] == 16  # 5 steps made three times, and the last one
    assert record["options"]["inpaint"] == "mask.npy"
    assert len(record["options"]["given"]) == 16


@pytest.mark.slow
def test_shards_and_a_mask_that_is_a_picture_are_the_same(world):
    np.testing.assert_allclose(drawn(world, "shards"), drawn(world, "inpainted"), atol=1e-4)


@pytest.mark.slow
def test_a_picture_by_any_backend_and_solver(world):
    cwd, _ = world
    anew = np.load(cwd / "mask.npy") != 0
    kept = np.load(cwd / "pictures.npy")[0][..., ~anew]
    found = drawn(world, "native")[..., ~anew]
    assert np.abs(found - kept).max() <= 1 / 255 + 1e-6  # of 8 bits


@pytest.mark.slow
def test_an_exported_file_and_guidance_do_the_same(world):
    """Guided samples of the file are those of the run, and twice the evaluations."""
    exported, guided = drawn(world, "exported"), drawn(world, "guided")
    np.testing.assert_allclose(exported, guided, atol=1e-3)
    kept = np.load(world[0] / "mask.npy") == 0
    pictures = np.load(world[0] / "pictures.npy")[[0, 1, 2, 0]]
    assert np.array_equal(exported[..., kept], pictures[..., kept])
    evaluations = json.loads((world[0] / "guided.json").read_text())["evaluations"]
    assert evaluations == 12


@pytest.mark.slow
def test_means_of_blocks_are_those_given(world):
    found, coarse = drawn(world, "refined"), np.load(world[0] / "coarse.npy")[[0, 1, 2, 0]]
    n, c, h, w = coarse.shape
    means = found.reshape(n, c, h, 2, w, 2).mean((3, 5))
    np.testing.assert_allclose(means, coarse, atol=1e-4)


@pytest.mark.slow
def test_missing_slices(world):
    scan = np.load(world[0] / "scan.npy")
    assert np.array_equal(drawn(world, "slices")[:, 0, :, :, ::2], np.stack([scan[..., ::2]] * 4))


@pytest.mark.slow
def test_slices_alone_or_of_whole_volumes(world):
    """Both ways to give every second slice are one, and they are kept to the bit."""
    scan, thin = np.load(world[0] / "scan.npy"), drawn(world, "thin")
    assert np.array_equal(thin[:, 0, :, :, ::2], np.stack([scan[..., ::2]] * 4))
    assert np.abs(thin[:, 0, :, :, 1::2] - scan[..., 1::2]).mean() > 0.01
    assert np.array_equal(thin, drawn(world, "whole"))


def test_slices_are_put_along_the_axis_that_is_thin():
    thin = torch.arange(2 * 3 * 4 * 5.0).view(2, 1, 3, 4, 5)
    values, anew = between_slices(thin, (1, 3, 4, 10), 2)
    assert torch.equal(values[..., ::2], thin)
    assert torch.equal(anew[0, 0], torch.arange(10) % 2 == 1)
    values, anew = between_slices(thin, (1, 7, 4, 5), 3)  # of 7: 0, 3 and 6
    assert torch.equal(values[:, :, ::3], thin)
    assert anew[:, 0, 0].tolist() == [False, True, True, False, True, True, False]


@pytest.mark.slow
def test_posterior_guidance_keeps_means_and_counts_its_passes(world):
    """3 passes back for each forward one, of both predictions of guidance."""
    found, coarse = drawn(world, "posterior"), np.load(world[0] / "coarse.npy")[[0, 1, 2, 0]]
    n, c, h, w = coarse.shape
    means = found.reshape(n, c, h, 2, w, 2).mean((3, 5))
    np.testing.assert_allclose(means, coarse, atol=1e-4)
    assert np.isfinite(found).all()
    record = json.loads((world[0] / "posterior.json").read_text())
    assert record["evaluations"] == 6 * 2 * 4
    assert record["backend"] == "eager"
    assert record["options"]["posterior"] == 3


@pytest.mark.slow
def test_what_is_known_with_noise_is_not_kept_to_the_bit(world):
    found, pictures = drawn(world, "noisy"), np.load(world[0] / "pictures.npy")[[0, 1, 2, 0]]
    kept = np.load(world[0] / "mask.npy") == 0
    off = found[..., kept] - pictures[..., kept]
    assert 0.01 < np.sqrt(np.square(off).mean()) < 1


def held_out_of(cwd: Path, run: str, number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The first validation samples of a run, and their labels."""
    data = build(Trained.load(str(cwd / run), accelerator="cpu").options.data)
    data.setup("fit")
    return data.val.batch(torch.arange(number))


@pytest.mark.slow
def test_held_out_samples_are_completed_and_compared_with_themselves(world):
    """Each is told its own label; PSNR is that of sample i and held-out sample i."""
    cwd, done = world
    assert done["held out"].status == 0, done["held out"].err
    (path,) = (cwd / "run/samples").glob("*_held_out_inpaint_half_posterior1.npy")
    made, (truths, labels) = np.load(path), held_out_of(cwd, "run", 4)
    assert np.array_equal(made[:, :, :4], truths[:, :, :4].numpy())
    assert np.abs(made[:, :, 4:] - truths[:, :, 4:].numpy()).mean() > 0.1
    assert labels is not None
    assert json.loads(path.with_suffix(".json").read_text())["y"] == labels.tolist()
    found = json.loads((cwd / f"run/evaluations/{path.stem}.json").read_text())
    (psnr,) = (f["value"] for f in found["figures"] if f["name"] == "psnr")
    error = np.square(made - truths.numpy()).mean() / 4  # of intensities 0..1
    assert psnr == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert found["sampling"]["from"] == "held_out inpaint_half posterior1"
    assert way_of(found["sampling"]).startswith("dpmpp_2m_sde 6 w=1.5 from held_out inpaint_half")


@pytest.mark.slow
def test_held_out_samples_keep_their_means_and_their_slices(world):
    cwd, done = world
    assert done["held out again"].status == 0, done["held out again"].err
    (path,) = (cwd / "run/samples").glob("*_held_out_strength0.5_x2.npy")
    made, (truths, _) = torch.from_numpy(np.load(path)), held_out_of(cwd, "run", 4)
    blocks = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(blocks(made, 2), blocks(truths, 2), atol=1e-5, rtol=0)
    assert done["versions"].status == 0, done["versions"].err
    (path,) = (cwd / "run/samples").glob("*_held_out_inpaint_half_versions2.npy")
    again = np.load(path)
    assert np.array_equal(again[:, :, :4], truths[[0, 0, 1, 1, 2, 2], :, :4].numpy())
    assert not np.array_equal(again[0], again[1])
    thin, (solids, _) = drawn(world, "held out thin", "held"), held_out_of(cwd, "solid", 4)
    assert np.array_equal(thin[..., ::2], solids[..., ::2].numpy())


@pytest.mark.slow
def test_samples_of_files_belong_to_their_reference_alone(world):
    """Without one they belong to nothing; with versions=2 two of them belong to each."""
    cwd, done = world
    for name in ("of files", "of pairs"):
        assert done[name].status == 0, done[name].err
    alone, pairs = (json.loads((cwd / f"of_{n}.json").read_text()) for n in ("files", "pairs"))
    assert alone["omitted"]["pairs"].startswith("needs a reference=")
    (psnr,) = (f["value"] for f in pairs["figures"] if f["name"] == "psnr")
    made, truths = np.load(cwd / pairs["source"]), np.load(cwd / "pictures.npy")[[0, 0, 1, 1, 2, 2]]
    error = np.square(made.clip(-1, 1) - truths).mean() / 4  # of intensities 0..1
    assert psnr == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert {"crps", "spread", "covered"} <= {f["name"] for f in pairs["figures"]}


def test_held_out_samples_without_labels_shall_be_what_they_were():
    """Five samples of three held-out ones: the fourth is made from the first again."""
    x, y = torch.arange(3.0).view(3, 1, 1, 1) / 4, torch.tensor([7, 8, 9])
    source = Array(x.numpy(), Path("x"), "signed", y)
    drawn = Stack(Array(torch.zeros(5, 1, 1, 1).numpy(), Path("s"), "signed"), "samples")
    case = Case(drawn, Stack(source, "train"), Stack(source, "held out"), make_extractor=list)
    found = beside_truths(case, 3, 1)
    assert found.paired
    assert found.y is not None
    assert found.y.tolist() == [7, 8, 9, 7, 8]
    assert found.held_out.first(5).flatten().tolist() == [0, 0.25, 0.5, 0, 0.25]
    twice = beside_truths(case, 3, 2)
    assert twice.versions == 2
    assert twice.held_out.first(5).flatten().tolist() == [0, 0, 0.25, 0.25, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    {
        "posterior file": "posterior: takes the net's derivatives, which exported files",
        "posterior of": "posterior: needs inpaint=, slices= or upscale=",
        "noise of": "known_noise: needs posterior=",
        "slices of": "slices: are those of volumes, and this run makes pictures",
        "slices and": "slices: do not go with inpaint",
        "alone": "strength: needs from_image=",
        "other data": "data: from_image=held_out takes the run's own; others are measured with",
        "no image": "inpaint: needs from_image=",
        "nothing drawn": "from_image: nothing is drawn with samples=; leave from_image out",
        "held out factor": "upscale: 3 does not divide the sides [8, 8]",
        "both": "inpaint: does not go with upscale; do one after the other",
        "jumps": "jumps: needs inpaint=, slices= or upscale=",
        "jumps of": "jumps: take a solver of single steps, solver=ddpm or solver=ddim",
        "little": "strength: so little noise lies below the last step of this solver",
        "nothing": "inpaint: marks nothing to be made anew (it is 0 everywhere)",
        "factor": "upscale: 3 does not divide the sides [8, 8]",
        "shape": "scan.npy holds samples of shape",
        "mask": "inpaint: gaps.npy has shape",
        "ending": "one.png: volumes end in .npy, ",
        "absent": "not_there.npy: no such file or folder",
    }.items(),
)
def test_one_line_says_what_is_wrong(world, name, line):
    cwd, done = world
    of_a_file = {"shape", "mask", "absent"}
    assert done[name].status == (1 if name in of_a_file else 2)
    assert done[name].err.strip().splitlines()[-1].startswith(f"ddiff: {line}")
    assert not (cwd / "none.npy").exists()


def test_a_scan_is_prepared_as_the_training_files_were(tmp_path):
    """Turned, resampled, windowed and cut; and so is a mask."""
    (tmp_path / "scans").mkdir()
    numbers = np.random.default_rng(0).uniform(-100, 300, (6, 5, 7)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(numbers, np.diag([-1, 2, 1, 1])), tmp_path / "scans/one.nii")
    hole = np.zeros((6, 5, 7), dtype=np.uint8)
    hole[:, :, 3:] = 1
    nibabel.save(nibabel.Nifti1Image(hole, np.diag([-1, 2, 1, 1])), tmp_path / "mask.nii.gz")
    options = {"fit": "pad_crop", "window": [0, 200], "spacing": [1, 1, 1]}
    data = Voxels(1, 0, str(tmp_path / "scans"), [8, 8, 8], **options)
    data.setup("fit")
    trained = SimpleNamespace(
        options=SimpleNamespace(net=SimpleNamespace(shape=(1, 8, 8, 8)), data=options),
        data=data.facts(),
        shape=(1, 8, 8, 8),
        decoder=None,
    )
    said = {"from_image": str(tmp_path / "scans/one.nii"), "inpaint": str(tmp_path / "mask.nii.gz"),
            "strength": None, "upscale": 1, "slices": 1, "jumps": 0, "posterior": 0,
            "known_noise": 0.0, "versions": 1, "value_range": "auto"}  # fmt: skip
    given = given_of(SimpleNamespace(**said), trained)
    sample, _ = data.train.batch(torch.tensor([0]))
    assert torch.equal(given.values, sample)
    assert given.anew.any()
    inside = (sample > -1)[0, 0]
    assert 0.4 < given.anew[inside].float().mean() < 0.65  # 4 of 7 slices

    nibabel.save(nibabel.Nifti1Image(numbers[::2], np.diag([-2, 2, 1, 1])), tmp_path / "thin.nii")
    said |= {"from_image": str(tmp_path / "thin.nii"), "inpaint": None, "slices": 2}
    given = given_of(SimpleNamespace(**said), trained)
    assert given.values.shape == (1, 1, 8, 8, 8)
    assert (~given.anew[:, 0, 0]).tolist() == [True, False] * 4
    assert given.values[:, :, ::2].amax() > -1  # the three slices, in the middle of four


@pytest.mark.slow
def test_python_draws_the_same(world):
    cwd, _ = world
    model = ddiff.load(cwd / "run")
    pictures, mask = np.load(cwd / "pictures.npy"), np.load(cwd / "mask.npy")
    found = model.sample(
        4, solver="ddpm", num_steps=6, guidance=0, from_image=pictures, inpaint=mask, jumps=2
    )
    np.testing.assert_allclose(found, drawn(world, "inpainted"), atol=1e-4)
    with pytest.raises(ConfigError, match="from_image"):
        model.sample(4, inpaint=mask)
    for options, words in (
        ({"from_image": pictures[:, :, :2]}, "from_image: has shape"),
        ({"from_image": pictures[:0]}, "from_image: has shape"),
        ({"from_image": 255 * pictures}, "from_image: has values outside"),
        ({"from_image": pictures, "strength": 0}, "strength: 0 is not above 0"),
        ({"from_image": pictures, "upscale": 0}, "upscale: at least 1"),
        ({"from_image": pictures, "posterior": -1}, "posterior: at least 0"),
        ({"from_image": pictures, "inpaint": mask, "known_noise": 0.1}, "known_noise: needs"),
        ({"from_image": pictures, "slices": 2}, "slices: are those of volumes"),
        ({"from_image": pictures, "inpaint": [1]}, r"inpaint: has shape \[1\]"),
    ):
        with pytest.raises(ConfigError, match=words):
            model.sample(4, **options)
