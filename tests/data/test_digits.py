import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddiff.data import Digits


def made(size=8):
    data = Digits(batch_size=16, seed=0, size=size)
    data.setup("fit")
    return data


def test_the_images_are_scikit_learns():
    data = made()
    x, y = data.train.batch(torch.arange(len(data.train)))
    z, w = data.val.batch(torch.arange(len(data.val)))
    assert len(x) + len(z) == 1797
    assert x.min() == -1
    assert x.max() == 1
    images, labels = load_digits(return_X_y=True)
    ours = np.concatenate([torch.cat([x, z]).view(-1, 64), torch.cat([y, w])[:, None]], 1)
    theirs = np.concatenate([images / 8 - 1, labels[:, None]], 1)
    assert np.array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))


def test_validation_is_a_tenth_of_each_class():
    data = made()
    every = torch.bincount(torch.cat([data.train.labels, data.val.labels]))
    assert torch.equal(torch.bincount(data.val.labels), every // 10)


@pytest.mark.parametrize("size", [4, 11, 16, 32])
def test_any_size_keeps_range_and_brightness(size):
    small, x = (made(s).train.batch(torch.arange(200))[0] for s in (8, size))
    assert x.shape == (200, 1, size, size)
    assert x.abs().max() <= 1
    assert (x.mean((1, 2, 3)) - small.mean((1, 2, 3))).abs().max() < 0.03
    if size == 4:
        assert torch.allclose(x, torch.nn.functional.avg_pool2d(small, 2), atol=1e-6)
