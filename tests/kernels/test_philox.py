"""Philox: the published words, the same in C++ and torch, and numbers that are normal."""

import math
from ctypes import c_int64, c_void_p

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from ddiff.kernels.building import load
from ddiff.kernels.philox import _words, native_normal, normal
from ddiff.system.errors import KernelError

KEY = 0x0123_4567_89AB_CDEF
NUM = 1 << 20

# Random123 1.14, kat_vectors: counter, key -> words
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def signed(number: int) -> int:
    """The int64 with the bits of a number below 2^64."""
    return number - (number >> 63 << 64)


def words(key: int, samples: Tensor, step: int | Tensor, blocks: int) -> Tensor:
    """The words of blocks 0 .. blocks - 1 of each sample's stream, [B, blocks, 4] int64 < 2^32."""
    index = torch.arange(blocks, device=samples.device)
    return torch.stack(_words(key, samples[:, None], step, index), dim=-1)


def native_words(key: int, samples: Tensor, step: int, blocks: int) -> Tensor:
    out = torch.full((len(samples), blocks, 4), -1, dtype=torch.int64)
    load("philox", "cpu").ddiff_words(
        c_void_p(samples.data_ptr()),
        *(c_int64(n) for n in (step, key, len(samples), blocks)),
        c_void_p(out.data_ptr()),
    )
    return out


def numbers(device: str, key: int, samples: list[int], step: int, shape: tuple[int, ...]) -> Tensor:
    index = torch.tensor(samples, device=device)
    return native_normal(key, index, torch.tensor(step, device=device), shape)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], expected: list[int], device: str):
    samples = torch.tensor([[signed(counter[1] | counter[2] << 32)]], device=device)
    block = torch.tensor([counter[0]], device=device)
    got = _words(key[0] | key[1] << 32, samples, counter[3], block)
    assert [word.item() for word in got] == expected


def test_known_answer_of_cpp() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    assert native_words(0, zero, 0, 1).flatten().tolist() == KNOWN[0][2]
    # block 0, so only the first word of the counter differs from that of pi
    _, key, _ = KNOWN[2]
    sample, whole = 0x13198A2E85A308D3, key[0] | key[1] << 32
    native = native_words(whole, torch.tensor([sample]), 0x03707344, 3)
    assert torch.equal(native, words(whole, torch.tensor([sample]), 0x03707344, 3))


@pytest.mark.parametrize("blocks", [1, 63, 64, 65, 1000])
def test_words_of_cpp_are_those_of_torch(blocks: int) -> None:
    draw = np.random.default_rng(blocks)
    for _ in range(5):
        key, step = int(draw.integers(0, 1 << 63)), int(draw.integers(0, 1 << 32))
        samples = torch.from_numpy(draw.integers(0, 1 << 63, size=3))
        expected = words(key, samples, step, blocks)
        assert expected.min() >= 0
        assert expected.max() < 1 << 32
        assert torch.equal(native_words(key, samples, step, blocks), expected)


def test_words_of_any_place_alone() -> None:
    """Block 70,000 of a sample is what the definition says, beyond a piece of the reference."""
    far = words(KEY, torch.tensor([5]), 9, 70_001)[0, -1].tolist()
    c, (k0, k1) = [70_000, 5, 0, 9], (KEY & 0xFFFFFFFF, KEY >> 32)
    for _ in range(10):  # in Python's integers
        p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [q >> 32 ^ c[1] ^ k0, q & 0xFFFFFFFF, p >> 32 ^ c[3] ^ k1, p & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    assert far == c


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (3, 7, 5), (257,), (1, 64, 65, 1), (300_001,)])
def test_native_normals_are_those_of_torch(shape: tuple[int, ...], device: str) -> None:
    samples = torch.tensor([0, 17, (1 << 40) + 3], device=device)
    step = torch.tensor(1000, device=device)
    native = native_normal(KEY, samples, step, shape)
    assert native.shape == (3, *shape)
    torch.testing.assert_close(native, normal(KEY, samples, step, shape), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("count", "shape"), [(0, (4,)), (3, (0, 4))])
def test_of_none_there_are_none(count: int, shape: tuple[int, ...], device: str) -> None:
    """No launch: CUDA refuses a grid without blocks."""
    step = torch.tensor(1, device=device)
    made = native_normal(KEY, torch.arange(count, device=device), step, shape)
    assert made.shape == normal(KEY, torch.arange(count), 1, shape).shape == (count, *shape)


def test_normals_follow_the_formula(device: str) -> None:
    """In float64, from the words in float32; also at the ends of every quarter turn."""
    samples, step = torch.arange(4, device=device), torch.tensor(2, device=device)
    r = words(KEY, samples, step, NUM // 16).float().double()
    radius = (-2 * (r[..., ::2] * 2.0**-32 + 2.0**-33).float().double().log()).sqrt()
    angle = 2 * math.pi * 2.0**-32 * r[..., 1::2]
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).view(4, -1)
    for made in (native_normal, normal):
        got = made(KEY, samples, step, (NUM // 4,))
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1.5e-6)


def test_a_block_alone_is_that_of_its_tile() -> None:
    """What a GPU's thread computes, in C++: the same bits as the vectors."""
    sample, step = (1 << 40) + 3, 1000
    tiles = numbers("cpu", KEY, [sample], step, (4096,)).view(-1, 4)
    alone = torch.empty_like(tiles)
    function = load("philox", "cpu").ddiff_block_normals
    for block, out in enumerate(alone):
        place = (c_int64(n) for n in (KEY, sample, step, block))
        function(*place, c_void_p(out.data_ptr()))
    assert torch.equal(alone, tiles)


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = torch.arange(5)
    whole = normal(KEY, samples, 1, (3, 50))
    monkeypatch.setattr("ddiff.kernels.philox.PIECE", 10)
    assert torch.equal(normal(KEY, samples, 1, (3, 50)), whole)
    monkeypatch.setattr("ddiff.kernels.philox.PIECE", 100)
    assert torch.equal(normal(KEY, samples, 1, (3, 50)), whole)


def test_numbers_are_normal() -> None:
    x = numbers("cpu", KEY, [0, 1, 2, 3], 0, (NUM // 4,)).flatten().double().cpu().numpy()
    deviation = 1 / math.sqrt(NUM)  # of the mean
    assert abs(x.mean()) < 4 * deviation
    assert abs(x.var() - 1) < 4 * math.sqrt(2) * deviation
    assert abs(scipy.stats.skew(x)) < 4 * math.sqrt(6) * deviation
    assert abs(scipy.stats.kurtosis(x)) < 4 * math.sqrt(24) * deviation
    assert scipy.stats.kstest(x, "norm").pvalue > 1e-3
    for limit in (3, 4):
        expected = 2 * scipy.stats.norm.sf(limit) * NUM
        assert abs((np.abs(x) > limit).sum() - expected) < 4 * math.sqrt(expected)
    assert 4.3 < np.abs(x).max() < 6.77  # sqrt(2 ln 2^33) is the largest there is


def test_numbers_are_independent() -> None:
    x = numbers("cpu", KEY, [7], 3, (NUM,))[0].double()
    others = {
        "next element": x.roll(1),
        "the other of its pair": x.view(-1, 2).flip(1).flatten(),
        "other pair of its block": x.roll(2),
        "next block": x.roll(4),
        "next sample": numbers("cpu", KEY, [8], 3, (NUM,))[0].double(),
        "far sample": numbers("cpu", KEY, [7 + (1 << 32)], 3, (NUM,))[0].double(),
        "next step": numbers("cpu", KEY, [7], 4, (NUM,))[0].double(),
        "next key": numbers("cpu", KEY + 1, [7], 3, (NUM,))[0].double(),
        "key's upper half": numbers("cpu", KEY + (1 << 32), [7], 3, (NUM,))[0].double(),
    }
    for name, other in others.items():
        assert abs((x * other).mean()) < 4.5 / math.sqrt(NUM), name
        # uncorrelated pairs of a circle would still show in their squares
        assert abs(((x**2 - 1) * (other**2 - 1)).mean()) < 4.5 * 2 / math.sqrt(NUM), name


def test_a_sample_is_the_same_in_any_batch(device: str) -> None:
    shape = (3, 11, 7)
    batch = numbers(device, KEY, list(range(64)), 5, shape)
    assert torch.equal(batch[17:18], numbers(device, KEY, [17], 5, shape))
    index = torch.arange(64, device=device)
    plain = normal(KEY, index, 5, shape)
    assert torch.equal(plain[17:18], normal(KEY, index[17:18], 5, shape))
    assert not torch.equal(batch[17], batch[18])


def test_torch_sees_through(device: str) -> None:
    samples, step = torch.arange(3, device=device), torch.tensor(2, device=device)
    torch.library.opcheck(torch.ops.ddiff.normal.default, (samples, step, KEY, [2, 5]))
    compiled = torch.compile(normal, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(KEY, samples, step, (2, 5)), normal(KEY, samples, 2, (2, 5)), rtol=0, atol=0
    )


def test_wrong_tensors_are_named() -> None:
    step = torch.tensor(0)
    with pytest.raises(KernelError, match=r"samples is int32 \[3\] on cpu; it must be int64 \[3\]"):
        native_normal(KEY, torch.arange(3, dtype=torch.int32), step, (4,))
    with pytest.raises(KernelError, match=r"samples is int64 \[3\] on cpu, not contiguous"):
        native_normal(KEY, torch.arange(6)[::2], step, (4,))
    with pytest.raises(KernelError, match=r"step is int64 \[1\] on cpu; it must be int64 \[\]"):
        native_normal(KEY, torch.arange(3), step[None], (4,))
