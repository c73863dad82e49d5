"""solver_step against the plan's two lines written out in float64, and against diffusion.solve."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddiff.diffusion import ClassifierFree
from ddiff.diffusion.objectives import V
from ddiff.diffusion.schedules import cosine
from ddiff.diffusion.solvers import ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, solve, unipc
from ddiff.kernels import calling
from ddiff.kernels.philox import normal
from ddiff.kernels.solver_step import reference, solver_step
from ddiff.system.errors import KernelError

KEY = 0x0FED_CBA9_8765_4321
SHAPES = [(1, 1), (3, 3), (2, 5, 3, 3), (5, 3, 32, 32), (2, 1, 17, 16, 16), (1, 1, 40, 41, 43)]

TABLE = [  # p, q, a, b, c, d, e; between d and e is w, the weight of guidance
    [1.1, -0.4, 0.8, 0.3, 0.0, 0.0, 0.0],
    [0.9, 0.3, 0.7, 0.4, -0.2, 0.0, 0.0],
    [1.3, -0.8, 0.5, 0.6, 0.0, 0.3, 0.0],
    [0.7, 0.6, 0.9, -0.1, 0.2, 0.5, 0.3],
    [0.8, -0.3, 0.6, 0.2, 0.0, 0.0, -0.4],
]


def draw(shape: tuple[int, ...], seed: int, device: str, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def arguments(
    device: str, shape: tuple[int, ...], step: int, weight: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    table = torch.tensor([[*row[:6], weight, row[6]] for row in TABLE], device=device)
    samples = torch.arange(10, 10 + shape[0], device=device) * 12345678901
    return table, torch.tensor(step, device=device), samples


def exact(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    step: int,
    samples: Tensor,
    scale: float,
    clamp: float | None,
    x_0_before: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, in float64; noise where the row has some."""
    p, q, a, b, c, d, e = TABLE[step]
    x, pred = x.double(), pred.double()
    if len(pred) == 2 * len(x):
        pred = (1 + scale) * pred[: len(x)] - scale * pred[len(x) :]
    estimate = p * x + q * pred
    if clamp is not None:
        estimate = estimate.clamp(-clamp, clamp)
    new = a * x + b * estimate
    if x_0 is not None and c != 0:
        new += c * x_0.double()
    if x_0_before is not None and e != 0:
        new += e * x_0_before.double()
    if d != 0:
        new += d * normal(KEY, samples, step + 1, x.shape[1:]).double()
    return new, estimate


@pytest.mark.parametrize("run", [solver_step, reference])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("step", range(len(TABLE)))
def test_follows_the_definition(
    run: Callable[..., None], dtype: torch.dtype, guided: bool, step: int, device: str
) -> None:
    for seed, shape in enumerate(SHAPES):
        table, counter, samples = arguments(device, shape, step, 0.7)
        start = draw(shape, seed, device)
        pred = draw(((1 + guided) * shape[0], *shape[1:]), 100 + seed, device, dtype)
        previous = draw(shape, 200 + seed, device) if step != 2 else None
        clamp = 1.0 if seed % 2 else None
        before = draw(shape, 300 + seed, device) if step not in (1, 2) else None
        x, x_0, x_0_before = (None if v is None else v.clone() for v in (start, previous, before))
        noisy = TABLE[step][5] != 0
        run(x, pred, x_0, table, counter, samples, KEY, clamp, noisy, x_0_before)
        new, estimate = exact(start, pred, previous, step, samples, 0.7, clamp, before)
        torch.testing.assert_close(x.double(), new, rtol=1e-6, atol=3e-6)
        if x_0 is not None:
            torch.testing.assert_close(x_0.double(), estimate, rtol=1e-6, atol=2e-6)
        if x_0_before is not None:
            assert torch.equal(x_0_before, previous)


@pytest.mark.parametrize("run", [solver_step, reference])
def test_first_step_takes_any_x_0(run: Callable[..., None], device: str) -> None:
    """c = e = 0: what lies in x_0 and x_0_before does not count, be it not a number."""
    shape = (2, 3, 5)
    x, pred = draw(shape, 0, device), draw(shape, 1, device)
    x_0, x_0_before = (torch.full(shape, torch.nan, device=device) for _ in range(2))
    run(x, pred, x_0, *arguments(device, shape, 0), KEY, 1.0, False, x_0_before)
    assert x.isfinite().all()
    assert x_0.abs().max() <= 1


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5)])
def test_an_empty_batch_has_no_step(shape: tuple[int, ...], device: str) -> None:
    """No launch: CUDA refuses a grid without blocks."""
    x, pred, x_0 = (draw(shape, seed, device) for seed in range(3))
    solver_step(x, pred, x_0, *arguments(device, shape, 3), KEY, 1.0, True, x_0.clone())
    assert x.shape == x_0.shape == shape


def test_every_half_precision_number(device: str) -> None:
    """pred alone reaches x_0 (p = 0, q = 1); what is not a number stays so, also when clamped."""
    for dtype in (torch.float16, torch.bfloat16):
        pred = torch.arange(1 << 16, device=device).to(torch.int16).view(dtype)[None]
        x, x_0 = (torch.empty(pred.shape, device=device) for _ in range(2))
        table = torch.tensor([[0.0, 1, 0, 0, 0, 0, 0, 0]], device=device)
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        for clamp in (None, 1.0):
            x.zero_()
            solver_step(x, pred, x_0, table, zero[0], zero, KEY, clamp, False)
            expected = pred.float() if clamp is None else pred.float().clamp(-1, 1)
            assert torch.equal(x_0.nan_to_num(7.7), expected.nan_to_num(7.7))


def test_neighbours_are_left_alone(device: str) -> None:
    """Unaligned, within a larger buffer: nothing outside is written."""
    shape, size = (3, 5, 41), 3 * 5 * 41
    for offset in (1, 2, 3, 4, 16):
        buffers = [torch.full((size + 64,), 99.0, device=device) for _ in range(3)]
        x, x_0, x_0_before = (buffer[offset : offset + size].view(shape) for buffer in buffers)
        start = draw(shape, 1, device)
        x.copy_(start)
        half = torch.zeros(size + 64, dtype=torch.bfloat16, device=device)
        pred = half[offset : offset + size].view(shape)
        pred.copy_(draw(shape, 2, device))
        rest = arguments(device, shape, 2)
        solver_step(x, pred, x_0, *rest, KEY, None, True, x_0_before)
        new, estimate = exact(start, pred, None, 2, rest[-1], 0.0, None)
        torch.testing.assert_close(x.double(), new, rtol=1e-6, atol=3e-6)
        torch.testing.assert_close(x_0.double(), estimate, rtol=1e-6, atol=2e-6)
        for buffer in buffers:
            assert (buffer[:offset] == 99).all()
            assert (buffer[offset + size :] == 99).all()


def off(tensor: Tensor, by: int) -> Tensor:
    """The same numbers, `by` places behind an aligned address."""
    buffer = torch.empty(tensor.numel() + by, dtype=tensor.dtype, device=tensor.device)
    return buffer[by:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shifted", ["x", "pred", "x_0", "x_0_before", "nothing"])
def test_one_tensor_off_its_alignment(shifted: str, dtype: torch.dtype, device: str) -> None:
    """Wide loads take four numbers at once: the sizes allow it, and one address does not."""
    shape = (2, 64)
    tensors = {"x": draw(shape, 1, device), "pred": draw(shape, 2, device, dtype),
               "x_0": draw(shape, 3, device), "x_0_before": draw(shape, 4, device)}  # fmt: skip
    rest = arguments(device, shape, 3)
    *before, last = tensors.values()
    new, _ = exact(*before, 3, rest[-1], 0.0, None, last)
    for by in (1, 2):
        x, pred, x_0, last = (off(t, by if name == shifted else 0) for name, t in tensors.items())
        solver_step(x, pred, x_0, *rest, KEY, None, True, last)
        torch.testing.assert_close(x.double(), new, rtol=1e-6, atol=3e-6)
        assert torch.equal(last, tensors["x_0"])


def test_past_the_cache() -> None:
    """Large enough that x_0 is written past the cache, with a tile cut short at each sample."""
    shape = (2, 2_100_004)
    start, pred = draw(shape, 0, "cpu"), draw(shape, 1, "cpu")
    x, x_0 = start.clone(), torch.full(shape, torch.nan, device="cpu")
    rest = arguments("cpu", shape, 0)
    solver_step(x, pred, x_0, *rest, KEY, 1.0, False)
    new, estimate = exact(start, pred, None, 0, rest[-1], 0.0, 1.0)
    torch.testing.assert_close(x.double(), new, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(x_0.double(), estimate, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("plan", [ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc])
@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_runs_whole_plans(plan, scale: float, device: str) -> None:
    """As diffusion.solve does with a net, the same noise and guidance, from T to 0."""
    made = plan(cosine(T=50), num_steps=8)
    shape = (2, 3, 9, 7)
    samples = torch.tensor([3, 17], device=device)
    x = normal(KEY, samples, 0, shape[1:])
    labels = torch.tensor([1, 0], device=device)

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        return torch.tanh(x + (0.01 * t + 0.3 * y).view(-1, 1, 1, 1))

    guidance = ClassifierFree(scale)
    *_, last = solve(
        net,
        made,
        V(),
        x.clone(),
        lambda step: normal(KEY, samples, step + 1, shape[1:]),
        clamp=1.0,
        y=labels,
        guidance=guidance,
    )
    table = made.guided_by(guidance).table(V()).float().to(device)
    x_0 = torch.full_like(x, torch.nan)
    x_0_before = torch.full_like(x, torch.nan) if made.memory == 2 else None
    step = torch.zeros((), dtype=torch.int64, device=device)
    copies = 2 if scale else 1
    y = torch.cat([labels, torch.full_like(labels, -1)][:copies])
    for time in made.times[:-1].tolist():
        pred = net(x.repeat(copies, 1, 1, 1), torch.full((len(y),), time - 1, device=device), y)
        more = KEY, 1.0, made.stochastic, x_0_before
        solver_step(x, pred, x_0, table, step, samples, *more)
        step += 1
    torch.testing.assert_close(x, last.x, rtol=0, atol=2e-5)


def test_torch_sees_through(device: str) -> None:
    shape = (2, 3, 5)
    x, pred, x_0, x_0_before = (draw(shape, seed, device) for seed in range(4))
    rest = (*arguments(device, shape, 3), KEY, 1.0, True)
    torch.library.opcheck(torch.ops.ddiff.solver_step.default, (x, pred, x_0, *rest))
    torch.library.opcheck(torch.ops.ddiff.solver_step.default, (x, pred, None, *rest))
    torch.library.opcheck(torch.ops.ddiff.solver_step.default, (x, pred, x_0, *rest, x_0_before))
    results = []
    for run in (solver_step, reference):
        compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
        state = x.clone(), pred, x_0.clone(), *rest, x_0_before.clone()
        compiled(*state)
        results.append(state[0])
    torch.testing.assert_close(*results, rtol=0, atol=3e-6)


def test_wrong_tensors_are_named() -> None:
    x, pred = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    rest = arguments("cpu", (2, 3, 4), 0)
    table, step, samples = rest
    more = (KEY, None, False)
    with pytest.raises(KernelError, match=r"pred is float32 \[3, 3, 4\] .* must be .* \[2, 3, 4\]"):
        solver_step(x, torch.zeros(3, 3, 4), None, *rest, *more)
    with pytest.raises(KernelError, match="pred is float64"):
        solver_step(x, pred.double(), None, *rest, *more)
    with pytest.raises(KernelError, match=r"x is float32 .* not contiguous"):
        solver_step(x.mT, pred.mT, None, *rest, *more)
    with pytest.raises(KernelError, match="x_0 is float32"):
        solver_step(x, pred, x[:1], *rest, *more)
    with pytest.raises(KernelError, match="x_0_before is float32"):
        solver_step(x, pred, x, *rest, *more, x[:1])
    with pytest.raises(KernelError, match="x_0_before needs x_0 beside it"):
        solver_step(x, pred, None, *rest, *more, x)
    with pytest.raises(KernelError, match=r"table is float32 \[5, 7\]"):
        solver_step(x, pred, None, table[:, :7].contiguous(), step, samples, *more)
    with pytest.raises(KernelError, match=r"step is int64 \[1\]"):
        solver_step(x, pred, None, table, step[None], samples, *more)
    with pytest.raises(KernelError, match=r"samples is int64 \[1\]"):
        solver_step(x, pred, None, table, step, samples[:1], *more)
    for wrong in (-1, 5):
        with pytest.raises(KernelError, match=rf"step {wrong} is not in 0\.\.4"):
            solver_step(x, pred, None, table, torch.tensor(wrong), samples, *more)
        with pytest.raises(IndexError):
            reference(x, pred, None, table, torch.tensor(wrong), samples, *more)
    assert (x == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_replays_in_a_cuda_graph() -> None:
    """The step counter lives on the device, so one graph walks down the whole table."""
    shape = (2, 3, 9)
    for run in (solver_step, reference):
        table, step, samples = arguments("cuda", shape, 0)
        start, pred = draw(shape, 0, "cuda"), draw(shape, 1, "cuda")
        x, x_0 = start.clone(), torch.zeros(shape, device="cuda")
        x_0_before = torch.zeros(shape, device="cuda")
        run(x, pred, x_0, table, step, samples, KEY, 1.0, True, x_0_before)  # builds
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(x, pred, x_0, table, step, samples, KEY, 1.0, True, x_0_before)
            step += 1
        x.copy_(start)
        expected, previous, before = start, None, None
        for row in range(len(TABLE)):
            graph.replay()
            state = expected, pred, previous, row, samples, 0.0, 1.0, before
            before = previous
            expected, previous = exact(*state)
        torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-5)


def test_a_step_beyond_the_table_does_nothing_on_a_gpu(device: str) -> None:
    if calling.gpu_of(torch.zeros(1, device=device)) is None:
        pytest.skip("on a CPU it is an error")
    shape = (2, 3, 9)
    for wrong in (-1, 5):
        x, pred = draw(shape, 0, device), draw(shape, 1, device)
        before = x.clone()
        solver_step(x, pred, None, *arguments(device, shape, wrong), KEY, 1.0, True)
        assert torch.equal(x, before)
