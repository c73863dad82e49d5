"""adam and grad_norm against float64, and against torch's optimisers with clipping and averages."""

import pytest
import torch
from torch import Tensor

from ddiff.errors import KernelError
from ddiff.kernels.adam import adam, grad_norm, grad_norm_reference, reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [
    (),
    (1,),
    (3,),
    (5, 7),
    (64,),
    (257,),
    (33, 5, 3, 3),
    (16, 8, 3, 3, 3),
    (8193,),
    (70_001,),
]
OPTIONS = (0.5, 1e-2, 0.9, 0.99, 1e-8, 0.1)  # max_norm, lr, betas, eps, weight_decay


def draw(seed: int, device: str, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    """Convolution weights are channels last, as those of nets are."""
    generator = torch.Generator().manual_seed(seed)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return [
        torch.randn(shape, generator=generator)
        .to(device)
        .contiguous(memory_format=formats.get(len(shape), torch.contiguous_format))
        for shape in shapes
    ]


def state(device: str) -> list[list[Tensor]]:
    """Parameters, gradients, moments, averages, steps, of tensors at different steps."""
    lists = [draw(seed, device) for seed in range(5)]
    lists[3] = [v.square() for v in lists[3]]
    return [*lists, [torch.tensor(float(3**i % 1000 + 1), device=device) for i in range(10)]]


def exact(lists: list[list[Tensor]], norm: Tensor | None, decoupled: bool, decay: float):
    """Kingma and Ba 2014, algorithm 1; Loshchilov and Hutter 2019, algorithm 2; in float64."""
    max_norm, lr, beta1, beta2, eps, weight_decay = OPTIONS
    clip = 1.0 if norm is None else min(1.0, max_norm / (norm.double().item() + 1e-6))
    made = []
    for p, g, m, v, average, step in zip(*lists, strict=True):
        p, g, m, v, average, n = (x.double() for x in (p, g, m, v, average, step))
        g = clip * g + (0 if decoupled else weight_decay * p)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        corrected = m / (1 - beta1**n) / ((v / (1 - beta2**n)).sqrt() + eps)
        p = p - lr * corrected - (lr * weight_decay * p if decoupled else 0)
        made.append((p, m, v, decay * average + (1 - decay) * p))
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("run", [adam, reference])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("largest", [None, 1e6, 3.0])
def test_follows_the_definition(run, decoupled: bool, largest: float | None, device: str) -> None:
    """Where the norm is below max_norm nothing is scaled; gradients are never written."""
    lists = state(device)
    before = [g.clone() for g in lists[1]]
    norm = None if largest is None else torch.tensor(1.5 / largest, device=device)
    expected = exact(lists, norm, decoupled, 0.9)
    run(*lists, norm, None, *OPTIONS, decoupled, 0.9)
    p, g, m, v, average, _ = lists
    for made, wanted in zip(zip(p, m, v, average, strict=True), expected, strict=True):
        for a, b in zip(made, wanted, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=3e-6, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(g, before, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("run", [adam, reference])
def test_an_overflow_moves_averages_alone(run, device: str) -> None:
    lists = state(device)
    lists[1][0].fill_(torch.inf)
    before = [[x.clone() for x in tensors] for tensors in lists]
    found, norm = (torch.tensor(x, device=device) for x in (1.0, torch.inf))
    run(*lists, norm, found, *OPTIONS, True, 0.75)
    for kind in (0, 2, 3):
        assert all(torch.equal(a, b) for a, b in zip(lists[kind], before[kind], strict=True))
    for p, average, old in zip(lists[0], lists[4], before[4], strict=True):
        torch.testing.assert_close(average, 0.75 * old + 0.25 * p, rtol=1e-6, atol=1e-6)
    run(*lists, None, found - 1, *OPTIONS, True, 0.75)  # and none, by the same tensor, does not
    assert not torch.equal(lists[0][3], before[0][3])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_a_hundred_steps_of_torch(optimizer, device: str) -> None:
    """torch's optimiser, clip_grad_norm_ and lerp, gradients above and below the limit, falling
    rates and rising decays."""
    theirs = [p.requires_grad_() for p in draw(0, device)]
    ours = [p.detach().clone() for p in theirs]
    moments = [[torch.zeros_like(p) for p in ours] for _ in range(2)]
    averages = [[p.clone() for p in ours] for _ in range(2)]
    steps = [torch.zeros((), device=device) for _ in ours]
    method = optimizer(theirs, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    clipped = 0
    for step in range(100):
        lr, decay, size = 0.02 / (1 + step), (1 + step) / (10 + step), 1e-3 * 1.05**step
        grads = [size * g for g in draw(1000 + step, device)]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        method.param_groups[0]["lr"] = lr
        expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        clipped += bool(expected > 1)
        method.step()
        torch._foreach_lerp_(averages[0], [p.detach() for p in theirs], 1 - decay)
        norm = grad_norm(grads)
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)
        torch._foreach_add_(steps, 1)
        options = (1.0, lr, 0.9, 0.99, 1e-8, 0.1, optimizer is torch.optim.AdamW, decay)
        adam(ours, grads, *moments, averages[1], steps, norm, None, *options)
    assert 20 < clipped < 80
    for p, q, a, b in zip(theirs, ours, *averages, strict=True):
        torch.testing.assert_close(q, p.detach(), rtol=2e-6, atol=3e-6)
        torch.testing.assert_close(b, a, rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_the_norm_has_the_same_bits_with_any_number_of_threads(device: str) -> None:
    many = [*draw(0, device), *draw(1, device, [(257, 129), (3,)] * 60)]  # more than one launch
    torch.testing.assert_close(grad_norm(many), grad_norm_reference(many), rtol=1e-6, atol=0)
    threads, found = torch.get_num_threads(), set()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found |= {grad_norm(many).item() for _ in range(3)}
    torch.set_num_threads(threads)
    assert len(found) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_no_number_stays_so(device: str) -> None:
    lists = state(device)
    lists[1][4][5] = torch.nan
    norm = grad_norm(lists[1])
    assert norm.isnan()
    adam(*lists, norm, None, *OPTIONS, True, 0.9)
    assert all(p.isnan().all() for p in lists[0])  # as torch: all of the gradient is scaled by it
    assert grad_norm([torch.full((3,), torch.inf, device=device)]).isinf()


@pytest.mark.parametrize("device", DEVICES)
def test_unaligned_and_neighbours_are_left_alone(device: str) -> None:
    lists, expected = state(device), state(device)
    adam(*expected, None, None, *OPTIONS, True, 0.9)
    for offset in (1, 2, 3):
        n = 70_001
        buffers = [torch.full((n + 8,), 99.0, device=device) for _ in range(5)]
        own = [[buffer[offset : offset + n]] for buffer in buffers]
        for to, tensors in zip(own, lists[:5], strict=True):
            to[0].copy_(tensors[-1])
        adam(*own, lists[5][-1:], None, None, *OPTIONS, True, 0.9)
        for kind in (0, 2, 3, 4):
            torch.testing.assert_close(own[kind][0], expected[kind][-1], rtol=1e-6, atol=1e-6)
        for buffer in buffers:
            assert (buffer[:offset] == 99).all()
            assert (buffer[offset + n :] == 99).all()
        torch.testing.assert_close(grad_norm(own[1]), own[1][0].norm(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_torch_sees_through(device: str) -> None:
    lists = [tensors[3:6] for tensors in state(device)]
    norm = torch.tensor(2.0, device=device)
    torch.library.opcheck(torch.ops.ddiff.grad_norm.default, (lists[1],))
    rest = (norm, None, *OPTIONS, True, 0.9)
    torch.library.opcheck(torch.ops.ddiff.adam.default, (*lists, *rest))
    results = []
    for run in (adam, reference):
        own = [[x.clone() for x in tensors] for tensors in lists]
        torch.compile(run, backend="aot_eager", fullgraph=True)(*own, *rest)
        results.append(own)
    for a, b in zip(*results, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=2e-6)


def test_wrong_tensors_are_named() -> None:
    def wrong(kind: int, what, match: str, **more: Tensor) -> None:
        lists = state("cpu")
        lists[kind][6] = what(lists[kind][6])  # [33, 5, 3, 3], channels last
        rest = (more.get("norm"), more.get("found_inf"), *OPTIONS, True, 0.9)
        with pytest.raises(KernelError, match=match):
            adam(*lists, *rest)

    wrong(0, lambda p: p.double(), r"parameters\[6\] is float64 \[33, 5, 3, 3\]")
    wrong(
        1, lambda g: g.contiguous(), r"grads\[6\] .* strides \(45, 9, 3, 1\); .* \(45, 1, 15, 5\)"
    )
    wrong(2, lambda m: m[:3], r"firsts\[6\] is float32 \[3, 5, 3, 3\]")
    wrong(3, lambda v: v.bfloat16(), r"seconds\[6\] is bfloat16")
    wrong(4, lambda a: a.contiguous(), r"averages\[6\]")
    wrong(5, lambda n: n[None], r"steps\[6\] is float32 \[1\]")
    wrong(5, lambda n: n, "norm is float64", norm=torch.ones((), dtype=torch.float64))
    wrong(5, lambda n: n, r"found_inf is float32 \[1\]", found_inf=torch.ones(1))
    with pytest.raises(KernelError, match="1 parameters and 0 grads"):
        adam([torch.ones(2)], [], [], [], [], [], None, None, *OPTIONS, True, 0.9)
    gaps = [torch.ones(8)[::2]]
    with pytest.raises(KernelError, match=r"parameters\[0\] .* strides \(2,\); .* dense"):
        adam(*[gaps] * 5, [torch.ones(())], None, None, *OPTIONS, True, 0.9)
    with pytest.raises(KernelError, match=r"grads\[1\] is int64"):
        grad_norm([torch.ones(2), torch.ones(2, dtype=torch.int64)])
    ones = torch.ones(4, 1, 1, 1)  # as a 1 x 1 kernel: strides of sizes of one mean nothing
    other = ones.contiguous(memory_format=torch.channels_last).as_strided(
        (4, 1, 1, 1), (1, 9, 5, 7)
    )
    adam([ones], [other], *[[ones.clone()] for _ in range(3)], [torch.ones(())], None, None,
         *OPTIONS, True, 0.9)  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_replays_in_a_cuda_graph() -> None:
    """Neither waits nor allocates from the system: norm and step in one graph, twice replayed."""
    captured, expected = state("cuda"), state("cuda")
    grad_norm(captured[1])  # builds
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adam(*captured, grad_norm(captured[1]), None, *OPTIONS, True, 0.9)
        torch._foreach_add_(captured[5], 1)
    for _ in range(2):
        graph.replay()
        reference(*expected, grad_norm_reference(expected[1]), None, *OPTIONS, True, 0.9)
        torch._foreach_add_(expected[5], 1)
    for a, b in zip(captured, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
