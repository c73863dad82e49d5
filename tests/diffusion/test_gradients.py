"""Scores of timesteps against one backward pass each, and against a closed form."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ddiff.diffusion import X0, Eps, V
from ddiff.diffusion.gradients import batched, last_layer, looped
from ddiff.diffusion.schedules import cosine
from ddiff.nets import LogSNR, Plain3d, Simple2d, Sinusoidal, UNet

T = torch.tensor([1, 7, 40, 90, 100])
LABELS = torch.tensor([-1, 4, 0])


@pytest.fixture(autouse=True)
def _small_and_repeatable():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unet(shape, classes=None, embedding=None, **options):
    options = {"channels": [8, 16], "num_blocks": 1, "groups": 4} | options
    return UNet(shape, classes, embedding=embedding or Sinusoidal(8), **options)


def log_snr():
    return LogSNR(8, cosine(T=100))


# name: (net, labels, objective, name of its last layer)
CASES = {
    "2D": lambda: (unet((2, 8, 8), 5, attention=[8]), LABELS, Eps(), "out"),
    "2D, class net without labels": lambda: (unet((1, 8, 8), 5), None, V(), "out"),
    "2D, patches and skip": lambda: (
        unet((1, 8, 8), None, log_snr(), patch_size=2, input_skip=True, modulation="shift"),
        None,
        V(weighting="min_snr"),
        "out",
    ),
    "3D": lambda: (unet((1, 4, 4, 8), 5, log_snr(), attention=[4], head_dim=4), LABELS, V(), "out"),
    "3D, patches and skip": lambda: (
        unet((2, 4, 8, 4), patch_size=2, input_skip=True, channels=[8, 8]),
        None,
        X0(),
        "out",
    ),
    "recomputed": lambda: (unet((1, 8, 8), checkpoint_levels=[0, 1]), None, Eps(), "out"),
    "plain3d": lambda: (Plain3d((1, 4, 4, 4), 5, Sinusoidal(8)), LABELS, X0(), "conv2"),
    "simple2d": lambda: (Simple2d((1, 8, 8), None, log_snr()), None, V(), "up"),
}


def perturbed(net):
    """With no layer left at zero."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def loss_of(shape, y=None, objective=None, dtype=None):
    """As the training step makes it, on three samples."""
    schedule, objective = cosine(T=100), objective or Eps()
    x_0, eps = torch.randn(2, 3, *shape)
    weights = objective.weights(schedule).float()

    def loss(predict, t):
        times = t.expand(len(x_0))
        x_t = schedule.add_noise(x_0, times, eps)
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            pred = predict(x_t, times - 1, y)
        error = pred.float() - objective.target(schedule, x_0, eps, times)
        return error.square().flatten(1).mean(1).mean() * weights[t]

    return loss


def direct(net, loss, t=T, parameters=None):
    """A plain backward pass a timestep."""
    parameters = list(parameters or net.parameters())
    norms = []
    for at in t:
        gradients = torch.autograd.grad(loss(net, at), parameters, allow_unused=True)
        norms.append(sum(g.square().sum() for g in gradients if g is not None).sqrt())
    return torch.stack(norms)


@pytest.mark.parametrize("name", CASES)
def test_all_parameters_equal_one_backward_pass_each(name):
    net, y, objective, _ = CASES[name]()
    loss = loss_of(perturbed(net).shape, y, objective)
    sizes = []
    with net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0]))):
        batch = batched(net, loss, T, chunk=3)  # first, while the schedule has made no table
    assert sizes == [2, 9, 6]  # a look at two samples, then three and two candidates of three
    expected = direct(net, loss)
    assert expected.max() > 1.1 * expected.min() > 0
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(looped(net, loss, T), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_last_layer_equals_autograd_on_its_parameters(name):
    net, y, objective, last = CASES[name]()
    loss = loss_of(perturbed(net).shape, y, objective)
    expected = direct(net, loss, T, net.get_submodule(last).parameters())
    torch.testing.assert_close(last_layer(net, loss, T, chunk=3), expected, rtol=1e-4, atol=0)


def test_closed_form_of_a_one_parameter_net():
    """pred = w x_t: dL/dw = 2 mean((w x_t - eps) x_t)."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, t, y=None):
            return self.w * x

    schedule = cosine(T=100)
    x_0, eps = torch.randn(2, 4, 1, 5, 5)

    def loss(predict, t):
        times = t.expand(len(x_0))
        pred = predict(schedule.add_noise(x_0, times, eps), times - 1, None)
        return (pred - eps).square().mean()

    a, b = schedule.abar[T].float().sqrt(), (1 - schedule.abar[T].float()).sqrt()
    x_t = torch.einsum("k,...->k...", a, x_0) + torch.einsum("k,...->k...", b, eps)
    expected = (2 * ((0.3 * x_t - eps) * x_t).flatten(1).mean(1)).abs()
    for score in (looped, batched, last_layer):
        torch.testing.assert_close(score(Scaled(), loss, T), expected)


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, None])
def test_chunks_do_not_change_numbers(chunk):
    net = perturbed(unet((1, 8, 8), attention=[4]))
    loss = loss_of(net.shape)
    torch.testing.assert_close(batched(net, loss, T, chunk), looped(net, loss, T))
    torch.testing.assert_close(last_layer(net, loss, T, chunk), last_layer(net, loss, T, 3))


@pytest.mark.parametrize(("dtype", "off"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 4, 4)])
def test_under_autocast_and_channels_last(shape, dtype, off):
    net = perturbed(unet(shape, attention=[4]))
    net.to(memory_format=torch.channels_last if len(shape) == 3 else torch.channels_last_3d)
    x_0_and_eps = torch.get_rng_state()
    exact = loss_of(shape)
    torch.set_rng_state(x_0_and_eps)
    rounded = loss_of(shape, dtype=dtype)
    for score in (looped, batched, last_layer):
        torch.testing.assert_close(score(net, rounded, T), score(net, exact, T), rtol=off, atol=0)
    torch.testing.assert_close(batched(net, rounded, T), looped(net, rounded, T), rtol=off, atol=0)


def test_float16_does_not_lose_small_gradients():
    net = perturbed(Simple2d((1, 8, 8), None, Sinusoidal(8), channels=8))
    loss = loss_of(net.shape, dtype=torch.float16)
    small = batched(net, lambda predict, t: loss(predict, t) / 2**13, T)
    torch.testing.assert_close(small * 2**13, batched(net, loss, T), rtol=0.02, atol=0)


@pytest.mark.parametrize("score", [looped, batched, last_layer])
def test_leaves_everything_as_it_was(score):
    net = perturbed(unet((1, 8, 8), 5, log_snr(), attention=[4], dropout=0.5)).train()
    net.middle[0].eval()
    net.stem.weight.requires_grad_(False)
    net.out.weight.grad = torch.ones_like(net.out.weight)
    loss = loss_of(net.shape, LABELS)

    def facts():
        modules = [(m.training, [*vars(m)], len(m._forward_hooks)) for m in net.modules()]
        return modules, [(p.requires_grad, p.grad is None) for p in net.parameters()]

    before, rng = facts(), torch.get_rng_state()
    values = copy.deepcopy([*net.parameters(), *net.buffers()])
    with torch.no_grad():
        score(net, loss, T)
    assert facts() == before
    assert torch.equal(torch.get_rng_state(), rng)
    now = [*net.parameters(), *net.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(now, values, strict=True))
    assert torch.equal(net.out.weight.grad, torch.ones_like(net.out.weight))


@pytest.mark.parametrize("score", [looped, batched, last_layer])
def test_an_error_in_the_loss_leaves_the_net_whole(score):
    net = perturbed(unet((1, 8, 8)))
    loss = loss_of(net.shape)
    calls = []

    def failing(predict, t):
        value = loss(predict, t)
        calls.append(1)
        if len(calls) > (score is not looped):  # past the first look at the net
            raise ZeroDivisionError
        return value

    before = [(m.training, [*vars(m)]) for m in net.modules()]
    with pytest.raises(ZeroDivisionError):
        score(net, failing, T)
    assert [(m.training, [*vars(m)]) for m in net.modules()] == before
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("score", [looped, batched, last_layer])
def test_scores_know_no_dropout(score):
    net = perturbed(unet((1, 8, 8), dropout=0.5)).train()
    loss = loss_of(net.shape)
    expected = score(copy.deepcopy(net).eval(), loss, T)
    assert torch.equal(score(net, loss, T), expected)


@pytest.mark.parametrize("score", [looped, batched, last_layer])
def test_a_compiled_net_is_scored_and_stays_compiled(score):
    net = perturbed(Simple2d((1, 8, 8), None, Sinusoidal(8), channels=8))
    loss = loss_of(net.shape)
    expected = score(net, loss, T)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    net.compile(backend=backend)
    assert torch.equal(score(net, loss, T), expected)
    assert compiled == []
    inputs = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3]), None
    once = net(*inputs)
    graphs = len(compiled)
    assert graphs > 0
    assert torch.equal(score(net, loss, T), expected)
    assert torch.equal(net(*inputs), once)
    assert len(compiled) == graphs


@pytest.mark.parametrize("score", [looped, batched, last_layer])
def test_nothing_waits_for_the_device(score):
    class NoSync(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.__name__.split(".")[0]
            assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"), name
            return func(*args, **kwargs or {})

    net = perturbed(unet((1, 8, 8), 5, log_snr(), attention=[4], patch_size=2))
    loss = loss_of(net.shape, LABELS)
    with NoSync():
        scores = score(net, loss, T)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            scores[0].item()


def test_frozen_parameters_do_not_count():
    net = perturbed(unet((1, 8, 8)))
    for p in [net.stem.weight, *net.condition.parameters(), net.norm.weight]:
        p.requires_grad_(False)
    loss = loss_of(net.shape)
    free = [p for p in net.parameters() if p.requires_grad]
    expected = direct(net, loss, T, free)
    torch.testing.assert_close(batched(net, loss, T), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(looped(net, loss, T), expected, rtol=1e-4, atol=0)


class Odd(nn.Module):
    """Uses its parameters in ways that no layer's forward shows."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first = nn.Conv2d(1, 4, 3, padding="same")
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.time = nn.Linear(2, 4)
        self.last = nn.Conv2d(4, 1, 3, padding="same", padding_mode="reflect")
        if way == "shared parameter":
            self.second.weight = nn.Parameter(self.second.weight.detach().clone())
            self.third = nn.Conv2d(4, 4, 3, padding=1, groups=2)
            self.third.weight = self.second.weight
        if way == "shared module":
            self.third = self.second
        if way == "own parameter":
            self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x, t, y=None):
        codes = torch.eye(2)
        emb = self.time(codes)[t % 2] if self.way == "not by samples" else self.time(codes[t % 2])
        h = torch.tanh(self.first(x) + emb[..., None, None])
        h = torch.tanh(self.second(h))
        if self.way in ("shared parameter", "shared module"):
            h = self.third(h)
        if self.way == "past its forward":
            h = h + F.conv2d(h, self.second.weight, padding=1, groups=2)
        if self.way == "own parameter":
            h = h * self.scale
        return self.last(h)


@pytest.mark.parametrize(
    "way",
    [
        "plain",
        "shared parameter",
        "shared module",
        "past its forward",
        "own parameter",
        "not by samples",
    ],
)
def test_unusual_nets_are_still_exact(way):
    net = Odd(way)
    loss = loss_of((1, 6, 6))
    expected = direct(net, loss)
    for chunk in (2, 5):
        torch.testing.assert_close(batched(net, loss, T, chunk), expected, rtol=1e-4, atol=0)
    expected = direct(net, loss, T, net.last.parameters())
    torch.testing.assert_close(last_layer(net, loss, T), expected, rtol=1e-4, atol=0)
