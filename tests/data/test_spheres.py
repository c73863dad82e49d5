import time

import pytest
import torch
from scipy import stats

from ddiff.data import Spheres
from ddiff.data.spheres import SphereSource
from ddiff.system.errors import ConfigError


def made(**options):
    data = Spheres(batch_size=8, seed=3, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("centre", ["fixed", "random"])
@pytest.mark.parametrize("size", [9, 64])
def test_voxels_are_the_definition(centre, size):
    source = made(size=size, centre=centre, num=20).train
    x, y = source.batch(torch.arange(20))
    assert y is None
    assert x.shape == (20, 1, size, size, size)
    axis = torch.arange(size, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))  # [3, D, H, W]
    for i in range(20):
        distance = (grid - source.centre[i].double()[:, None, None, None]).square().sum(0).sqrt()
        expected = torch.where(distance <= source.radius[i].double(), 1.0, -1.0)
        differ = x[i, 0] != expected
        assert ((distance - source.radius[i].double())[differ].abs() < 1e-4).all()
        assert differ.sum() <= 2


def test_the_surface_is_inside():
    source = SphereSource(7, torch.tensor([2.0]), torch.full((1, 3), 3.0))
    x = source.batch(torch.tensor([0]))[0][0, 0]
    assert x[3, 3, 5] == x[3, 1, 3] == x[5, 3, 3] == 1
    assert (x == 1).sum() == 33  # integer points of the ball of radius 2
    assert (x == -1).sum() == 343 - 33


def test_radius_is_uniform_and_the_default_is_8_to_16():
    radius = made().train.radius.numpy()
    assert len(radius) == 100_000
    assert 8 <= radius.min() < 8.1
    assert 15.9 < radius.max() <= 16
    assert stats.kstest(radius, stats.uniform(8, 8).cdf).pvalue > 0.01


def test_fixed_centre_is_symmetric():
    data = made(size=16, centre="fixed")
    assert (data.train.centre == 7.5).all()
    x = data.train.batch(torch.arange(5))[0]
    for axis in (2, 3, 4):
        assert torch.equal(x, x.flip(axis))


def test_random_centres_are_uniform_and_keep_the_sphere_inside():
    source = made(size=32, centre="random", num=3000).train
    room = 16 - source.radius[:, None]
    scaled = (source.centre - 15.5) / room  # should be uniform in [-1, 1]
    assert scaled.abs().max() <= 1
    for axis in range(3):
        assert stats.kstest(scaled[:, axis].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_splits_differ_and_the_seed_decides():
    one, two = made(), made()
    assert torch.equal(one.train.radius, two.train.radius)
    assert not torch.equal(one.train.radius[:100], one.val.radius)
    other = Spheres(batch_size=8, seed=4)
    other.setup("fit")
    assert not torch.equal(one.train.radius, other.train.radius)


def test_a_thousand_spheres_take_less_than_a_second_of_one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()  # not the clock on the wall: others may be using the machine
    source = made().train
    for rows in torch.arange(1000).split(8):
        source.batch(rows)
    spent = time.process_time() - start
    torch.set_num_threads(threads)
    assert spent < 1.0


def test_batches_do_not_depend_on_their_company():
    source = made(size=16, centre="random", num=600).train
    whole = source.batch(torch.arange(600))[0]  # more than one chunk
    assert torch.equal(source.batch(torch.tensor([599, 3]))[0], whole[[599, 3]])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"centre": "fixd"}, "did you mean 'fixed'"),
        ({"radius_max": 0.6}, "0.5"),
        ({"radius_min": 0.3}, "radius_min 0.3"),
        ({"num": 0}, "num is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_mistakes_are_named(options, word):
    with pytest.raises(ConfigError, match=word):
        Spheres(batch_size=8, seed=0, **options)
