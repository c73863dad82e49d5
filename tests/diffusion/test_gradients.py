"""Scores of timesteps against one plain backward pass each, and against a closed form."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ddiff.diffusion import X0, Eps, V
from ddiff.diffusion.schedules import cosine
from ddiff.nets import DiT, LogSNR, Plain3d, Simple2d, Sinusoidal, UNet
from ddiff.nets.gradients import batched, last_layer, looped

T = torch.tensor([1, 7, 40, 90, 100])
LABELS = torch.tensor([-1, 4, 0])
each_score = pytest.mark.parametrize("score", [looped, batched, last_layer])


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)


def unet(shape, classes=None, embedding=None, **options):
    options = {"channels": [8, 16], "num_blocks": 1, "groups": 4} | options
    return perturbed(UNet(shape, classes, embedding=embedding or Sinusoidal(8), **options))


def perturbed(net):
    """With no layer left at zero."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def log_snr():
    return LogSNR(8, cosine(T=100))


def dit(shape, classes=None, embedding=None, **options):
    options = {"width": 16, "depth": 2, "head_dim": 8} | options
    return perturbed(DiT(shape, classes, embedding=embedding or Sinusoidal(8), **options))


PATCHES = {"patch_size": 2, "input_skip": True}
CASES = {  # name: (net, labels, objective, name of the last layer)
    "2D": lambda: (unet((2, 8, 8), 5, attention=[8]), LABELS, Eps(), "out"),
    "no labels": lambda: (unet((1, 8, 8), 5, modulation="shift"), None, V("min_snr"), "out"),
    "2D patches": lambda: (unet((1, 8, 8), None, log_snr(), **PATCHES), None, V(), "out"),
    "3D": lambda: (unet((1, 4, 4, 8), 5, log_snr(), attention=[4], head_dim=4), LABELS, V(), "out"),
    "3D patches": lambda: (unet((2, 4, 8, 4), channels=[8, 8], **PATCHES), None, X0(), "out"),
    "recomputed": lambda: (unet((1, 8, 8), checkpoint_levels=[0, 1]), None, Eps(), "out"),
    "dit": lambda: (dit((2, 8, 8), 5), LABELS, Eps(), "out"),
    "dit 3D": lambda: (dit((1, 4, 8, 4), None, log_snr(), input_skip=True), None, V(), "out"),
    "plain3d": lambda: (Plain3d((1, 4, 4, 4), 5, Sinusoidal(8)), LABELS, X0(), "conv2"),
    "simple2d": lambda: (Simple2d((1, 8, 8), None, log_snr()), None, V(), "up"),
}


def loss_of(shape, y=None, objective=None, dtype=None):
    """As the training step makes it, on three samples."""
    schedule, objective = cosine(T=100), objective or Eps()
    x_0, eps = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    weights = objective.weights(schedule).float()

    def loss(predict, t):
        times = t.expand(len(x_0))
        x_t = schedule.add_noise(x_0, times, eps)
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            pred = predict(x_t, times - 1, y)
        error = pred.float() - objective.target(schedule, x_0, eps, times)
        return error.square().flatten(1).mean(1).mean() * weights[t]

    return loss


def direct(net, loss, parameters=None):
    """A plain backward pass a timestep."""
    parameters = [p for p in parameters or net.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(loss(net, t), parameters, allow_unused=True) for t in T]
    squares = [sum(g.square().sum() for g in each if g is not None) for each in gradients]
    return torch.stack(squares).sqrt()


def close(found, expected, rtol=1e-4):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_all_parameters_equal_one_backward_pass_each(name):
    net, y, objective, _ = CASES[name]()
    loss, sizes = loss_of(net.shape, y, objective), []
    with net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0]))):
        batch = batched(net, loss, T, chunk=3)  # first, while the schedule has made no table
    assert sizes == [2, 9, 6]  # a look at two samples, then three and two candidates of three
    expected = direct(net, loss)
    assert expected.max() > 1.1 * expected.min() > 0
    assert batch.dtype == torch.float32
    close(batch, expected)
    close(looped(net, loss, T), expected, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_last_layer_equals_autograd_on_its_parameters(name):
    net, y, objective, last = CASES[name]()
    loss, graphs = loss_of(net.shape, y, objective), []
    layer = net.get_submodule(last)
    expected = direct(net, loss, layer.parameters())
    with layer.register_forward_pre_hook(lambda module, args: graphs.append(args[0].requires_grad)):
        close(last_layer(net, loss, T, chunk=3), expected)
    assert graphs == [False] * 3  # nothing before it was recorded


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, t, y):
        return self.w * x


def test_closed_form_of_a_one_parameter_net():
    """pred = w x_t: dL/dw = 2 mean((w x_t - eps) x_t)."""
    schedule = cosine(T=100)
    x_0, eps = torch.randn(2, 4, 1, 5, 5)

    def loss(predict, t):
        times = t.expand(len(x_0))
        pred = predict(schedule.add_noise(x_0, times, eps), times - 1, None)
        return (pred - eps).square().mean()

    abar = schedule.abar[T].float().view(-1, 1, 1, 1, 1)
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
    expected = (2 * ((0.3 * x_t - eps) * x_t).flatten(1).mean(1)).abs()
    for score in (looped, batched, last_layer):
        close(score(Scaled(), loss, T), expected)


def test_chunks_do_not_change_numbers():
    net = unet((1, 8, 8), attention=[4])
    loss = loss_of(net.shape)
    expected, of_the_last = looped(net, loss, T), last_layer(net, loss, T, 3)
    for chunk in (1, 2, 4, 5, None):
        close(batched(net, loss, T, chunk), expected)
        close(last_layer(net, loss, T, chunk), of_the_last)


@pytest.mark.parametrize(
    ("shape", "dtype", "off"),
    [
        ((1, 8, 8), torch.float16, 0.005),
        ((1, 8, 8), torch.bfloat16, 0.03),
        ((1, 4, 4, 4), torch.bfloat16, 0.03),
    ],
)
def test_under_autocast_and_channels_last(shape, dtype, off):
    net = unet(shape, attention=[4])
    net.to(memory_format=torch.channels_last if len(shape) == 3 else torch.channels_last_3d)
    exact, rounded = loss_of(shape), loss_of(shape, dtype=dtype)
    for score in (looped, batched, last_layer):
        found = score(net, rounded, T)
        close(found, score(net, exact, T), rtol=off)
        small = score(net, lambda predict, t: rounded(predict, t) / 2**12, T)
        close(small * 2**12, found, rtol=off)  # float16 alone would lose them


@each_score
@pytest.mark.parametrize("failing", [False, True])
def test_leaves_everything_as_it_was(score, failing):
    net = unet((1, 8, 8), 5, log_snr(), attention=[4], dropout=0.5).train()
    net.middle[0].eval()
    net.stem.weight.requires_grad_(False)
    net.out.weight.grad = torch.ones_like(net.out.weight)
    loss, calls = loss_of(net.shape, LABELS), []

    def scored(predict, t):
        calls.append(loss(predict, t))
        if failing and len(calls) == 1 + (score is not looped):  # past the look at the net
            raise ZeroDivisionError
        return calls[-1]

    def facts():
        modules = [(m.training, [*vars(m)], len(m._forward_hooks)) for m in net.modules()]
        return modules, [(p.requires_grad, p.grad is None) for p in net.parameters()]

    before, rng = facts(), torch.get_rng_state()
    values = copy.deepcopy([*net.parameters(), *net.buffers()])
    with torch.no_grad(), pytest.raises(ZeroDivisionError) if failing else nullcontext():
        score(net, scored, T)
    assert facts() == before
    assert torch.equal(torch.get_rng_state(), rng)
    now = [*net.parameters(), *net.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(now, values, strict=True))
    assert torch.equal(net.out.weight.grad, torch.ones_like(net.out.weight))


@each_score
def test_scores_know_no_dropout(score):
    net = unet((1, 8, 8), dropout=0.5).train()
    loss = loss_of(net.shape)
    assert torch.equal(score(net, loss, T), score(copy.deepcopy(net).eval(), loss, T))


@each_score
def test_a_compiled_net_is_scored_and_stays_compiled(score):
    net = perturbed(Simple2d((1, 8, 8), None, Sinusoidal(8), channels=8))
    loss, graphs = loss_of(net.shape), []
    expected = score(net, loss, T)
    net.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert torch.equal(score(net, loss, T), expected)
    assert graphs == []
    inputs = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3]), None
    once, made = net(*inputs), len(graphs)
    assert made > 0
    assert torch.equal(score(net, loss, T), expected)
    assert torch.equal(net(*inputs), once)
    assert len(graphs) == made


class NoSync(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"), name
        return func(*args, **kwargs or {})


@each_score
def test_nothing_waits_for_the_device(score):
    net = unet((1, 8, 8), 5, log_snr(), attention=[4], patch_size=2)
    loss = loss_of(net.shape, LABELS)
    with NoSync():
        scores = score(net, loss, T)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            scores[0].item()


class Turned(nn.Linear):
    def forward(self, x):
        return super().forward(x).T


class Odd(nn.Module):
    """Uses its parameters in ways that no layer's forward shows."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first = nn.Conv2d(1, 4, 3, padding="same")
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = self.second if way == "shared module" else copy.deepcopy(self.second)
        if way == "shared parameter":
            self.third.weight = self.second.weight
        self.scale = nn.Parameter(torch.randn(4, 1, 1)) if way == "own parameter" else 1
        self.time = (Turned if way == "turned" else nn.Linear)(2, 4, bias=False)
        self.first.requires_grad_(way != "frozen layer")
        self.second.bias.requires_grad_(way != "frozen bias")
        self.last = nn.Conv2d(4, 1, 3, padding=1, padding_mode="reflect")

    def forward(self, x, t, y):
        codes = torch.eye(2)
        emb = self.time(codes)[t % 2] if self.way == "not by samples" else self.time(codes[t % 2])
        emb = emb.T if self.way == "turned" else emb
        h = torch.tanh(self.first(x) + emb[..., None, None])
        h = self.third(torch.tanh(self.second(h))) * self.scale
        if self.way == "past its forward":
            h = h + F.conv2d(h, self.second.weight, padding=1, groups=2)
        return self.last(h)


WAYS = "shared module, shared parameter, own parameter, frozen layer, frozen bias, not by samples, "


@pytest.mark.parametrize("way", (WAYS + "turned, past its forward").split(", "))
def test_unusual_nets_are_still_exact(way):
    net, loss = Odd(way), loss_of((1, 6, 6))
    for chunk in (2, 5):
        close(batched(net, loss, T, chunk), direct(net, loss))
        close(last_layer(net, loss, T, chunk), direct(net, loss, net.last.parameters()))
