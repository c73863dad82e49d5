"""Exact gradient norms by timestep: G_t = || d/dtheta L(theta; t) ||, L the mean over one batch.

All candidate timesteps go through the net as one batch. A layer reads one copy of its parameters
for each candidate (the copies share memory), so that one backward pass keeps the candidates'
gradients apart.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddiff.nets.blocks import Conv3d
from ddiff.nets.norm import Norm, group_norm

Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # the net: (x_t, t, y) -> pred
Loss = Callable[[Predict, Tensor], Tensor]  # (predict, t []) -> loss [], every sample at t
Calls = dict[nn.Module, int]  # each module called, in order: dimensions of its last output
Copies = dict[Tensor, Tensor]  # of each parameter: [K, *shape]

VALUES_AT_ONCE = 2**16  # of x_t: enough to keep small nets busy; more only costs memory
SCALE = 2.0**10  # of losses, so that float16 can hold their gradients; a power of 2 is exact


def looped(net: nn.Module, loss: Loss, t: Tensor) -> Tensor:
    """Gradient norm over all parameters at each timestep t [K], [K] float32, by K backward passes.

    This function and the two below change nothing: no parameter, `.grad`, buffer, mode or random
    state. Dropout is off, a compiled net runs uncompiled, and nothing waits for the device. `loss`
    runs under vmap over t, must pass t to `predict`, and must draw no random numbers.
    """
    with _at_rest(net):
        return _one_by_one(net, loss, t, _trained(net))


def batched(net: nn.Module, loss: Loss, t: Tensor, chunk: int | None = None) -> Tensor:
    """Gradient norms as from `looped`, with one backward pass for every `chunk` timesteps.

    `chunk` None: chosen by the size of a batch. Only for nets that treat each sample of a batch
    alone. A net that reads a layer's parameters outside that layer's forward is scored one timestep
    at a time.
    """
    with _at_rest(net):
        calls, batch, chunk = _look(net, loss, t, chunk)
        return _together(net, loss, t, _readers(net, calls) or [], batch, chunk)


def last_layer(net: nn.Module, loss: Loss, t: Tensor, chunk: int | None = None) -> Tensor:
    """Gradient norms as from `batched`, over the parameters of the last layer only.

    The layers before it keep no graph. The last layer is the last one that makes feature maps (a
    gain, for example, makes one vector a sample).
    """
    with _at_rest(net), ExitStack() as frozen:
        calls, batch, chunk = _look(net, loss, t, chunk)
        leaves = [m for m in calls if _trained(m) and calls.keys().isdisjoint([*m.modules()][1:])]
        last = max(leaves, key=lambda m: (calls[m] > 2, list(calls).index(m)))
        for p in set(_trained(net)) - set(_trained(last)):
            frozen.callback(p.requires_grad_, True)
            p.requires_grad_(False)
        return _together(net, loss, t, [last], batch, chunk)


def _one_by_one(net: nn.Module, loss: Loss, t: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    norms = []
    for at in t.split(1):
        gradients = torch.autograd.grad(_total(net, loss, at), parameters, allow_unused=True)
        norms.append(_norms(g[None] for g in gradients if g is not None))
    return torch.cat(norms)


def _together(
    net: nn.Module, loss: Loss, t: Tensor, layers: list[nn.Module], batch: int, chunk: int
) -> Tensor:
    parameters = list({p: None for layer in layers for p in _trained(layer)})
    if min(chunk, len(t)) == 1:
        return _one_by_one(net, loss, t, parameters)
    norms = []
    for at in t.split(chunk):
        copies: Copies = {p: p.detach().expand(len(at), *p.shape) for p in parameters}
        sources = [*(copy.requires_grad_() for copy in copies.values()), *parameters]
        with _replaced((m, "forward", _apart(m, copies, len(at) * batch)) for m in layers):
            gradients = torch.autograd.grad(_total(net, loss, at), sources, allow_unused=True)
        if any(g is not None for g in gradients[len(copies) :]):  # read outside a layer's forward
            return _one_by_one(net, loss, t, parameters)
        norms.append(_norms(g for g in gradients if g is not None))
    return torch.cat(norms)


def _norms(gradients: Iterable[Tensor]) -> Tensor:
    """Joint norm of the gradients [K, *shape] of all parameters, [K] float32."""
    each = [g.reshape(len(g), -1).float().norm(dim=1) for g in gradients]
    return torch.stack(each).norm(dim=0) / SCALE


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _total(predict: Predict, loss: Loss, t: Tensor) -> Tensor:
    """SCALE times the sum of the losses at t [K], from one call of `predict` on K B samples."""
    return torch.func.vmap(partial(loss, partial(_Fold.apply, predict)))(t).sum() * SCALE


class _Fold(torch.autograd.Function):
    """A call of the net under vmap: the candidates are folded into the batch.

    Autograd passes through.
    """

    @staticmethod
    def forward(predict, x, t, y):
        raise AssertionError("a loss must hand its t to predict")

    @staticmethod
    def setup_context(ctx, inputs, output): ...

    @staticmethod
    def vmap(info, in_dims, predict, x, t, y):  # pyright: ignore[reportIncompatibleMethodOverride]
        def fold(v: Tensor | None, dim: int | None) -> Tensor | None:
            if v is None:
                return None
            every = v.expand(info.batch_size, *v.shape) if dim is None else v.movedim(dim, 0)
            return every.flatten(0, 1)

        return predict(*map(fold, (x, t, y), in_dims[1:])).unflatten(0, (info.batch_size, -1)), 0


def _look(net: nn.Module, loss: Loss, t: Tensor, chunk: int | None) -> tuple[Calls, int, int]:
    """Return the modules that output one row per sample, the batch's size, and `chunk`.

    The modules are found by a run with two samples.
    """
    calls: Calls = {}
    batch, most = 0, 0

    def seen(module: nn.Module, args: tuple, out: Any) -> None:
        rows = isinstance(out, Tensor) and out.shape[:1] == (2,)
        calls[module] = out.ndim if calls.pop(module, 1) and rows else 0

    def two(x: Tensor, s: Tensor, y: Tensor | None) -> Tensor:
        nonlocal batch, most
        batch, most = len(x), max(1, VALUES_AT_ONCE // x.numel())
        pair = (v if v is None else v[:1].repeat_interleave(2, 0) for v in (x, s, y))
        with torch.no_grad():
            return net(*pair)[:1].expand(x.shape)

    with ExitStack() as hooks:
        for module in net.modules():
            hooks.callback(module.register_forward_hook(seen).remove)
        _total(two, loss, t[:1])
    return {module: dims for module, dims in calls.items() if dims}, batch, chunk or most


def _readers(module: nn.Module, calls: Calls) -> list[nn.Module] | None:
    """Return the smallest called modules whose forwards read all parameters of `module`.

    None if the parent of `module` reads some of them, as Upsample reads those of its convolution.
    """
    inner = [_readers(child, calls) for child in module.children()]
    if None in inner or any(p.requires_grad for p in module.parameters(recurse=False)):
        return [module] if module in calls else None
    return [reader for readers in inner for reader in readers or []]


def _apart(layer: Any, copies: Copies, samples: int) -> Callable[..., Tensor]:
    """Return the layer's forward on all candidates in one batch, each with its own parameters."""
    own, forward = dict(layer.named_parameters()), layer.forward
    each = [copies[own[name]] for name in ("weight", "bias") if own.get(name) in copies]
    kind = type(layer) if len(own) == len(each) == 2 else None
    convolves = kind in (nn.Conv2d, nn.Conv3d, Conv3d) and layer.padding_mode == "zeros"
    if kind is nn.Linear:
        apart = partial(_linear, *each)
    elif kind is Norm:
        apart = partial(_norm, layer, *each)
    elif convolves and not isinstance(layer.padding, str):
        apart = partial(_Conv.apply, layer, *each)
    else:
        apart = _one_after_another(layer, copies)

    def run(*args: Any, **kwargs: Any) -> Tensor:
        rows = (isinstance(v, Tensor) and v.shape[:1] == (samples,) for v in args if v is not None)
        return apart(*args) if all(rows) and not kwargs else forward(*args, **kwargs)

    return run


def _linear(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    rows = x.reshape(len(weight), -1, x.shape[-1])  # [K, B ..., inputs]
    return torch.baddbmm(bias[:, None], rows, weight.mT).reshape(*x.shape[:-1], -1)


def _norm(layer: Norm, weight: Tensor, bias: Tensor, x: Tensor, *modulation: Tensor) -> Tensor:
    """Norm.forward of all candidates, with weight and bias [K, C].

    They are repeated to [K B, C]. `group_norm` takes that shape only together with a scale and a
    shift, so zeros are passed if there are none. A backend's kernel does not take it, so the
    reference runs.
    """
    weight, bias = (p.repeat_interleave(len(x) // len(p), 0) for p in (weight, bias))
    own = {"weight": weight, "bias": bias, "operation": group_norm}
    with _replaced((layer, name, value) for name, value in own.items()):
        return Norm.forward(layer, x, *(modulation or 2 * [x.new_zeros(1, 1)]))


class _Conv(torch.autograd.Function):
    """A convolution of K candidates in one batch, with a weight gradient for each."""

    @staticmethod
    def forward(ctx, layer, weight, bias, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        y = type(layer).forward(layer, x)
        ctx.save_for_backward(x.to(y.dtype), weight[0].to(y.dtype))
        ctx.size, ctx.layer, ctx.dtype = len(weight), layer, weight.dtype
        return y

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, weight), layer = ctx.saved_tensors, ctx.layer

        def gradients(dy: Tensor, x: Tensor, padding: Any, *mask: bool) -> tuple[Tensor, ...]:
            how = layer.stride, padding, layer.dilation, False, [0], layer.groups
            return torch.ops.aten.convolution_backward(dy, x, weight, [dy.shape[1]], *how, mask)

        needed = ctx.needs_input_grad[3]
        dx = gradients(dy, x, layer.padding, True, False, False)[0] if needed else None
        x, padding = layer.padded(x) if isinstance(layer, Conv3d) else (x, layer.padding)
        parts = zip(dy.chunk(ctx.size), x.chunk(ctx.size), strict=True)
        each = (gradients(*part, padding, False, True, True) for part in parts)
        _, dw, db = zip(*each, strict=True)
        return None, torch.stack(dw).to(ctx.dtype), torch.stack(db).to(ctx.dtype), dx


def _one_after_another(layer: nn.Module, copies: Copies) -> Callable[..., Tensor]:
    forward, size = layer.forward, len(next(iter(copies.values())))
    held = [(m, name, p) for m in layer.modules() for name, p in m.named_parameters("", False)]
    own = [(module, name, copies[p].unbind()) for module, name, p in held if p in copies]

    def apart(*args: Tensor | None) -> Tensor:
        cut = [[None] * size if v is None else v.chunk(size) for v in args]
        outs = []
        for k in range(size):
            with _replaced((module, name, each[k]) for module, name, each in own):
                outs.append(forward(*(v[k] for v in cut)))
        return torch.cat(outs)

    return apart


@contextmanager
def _at_rest(net: nn.Module) -> Iterator[None]:
    """Context with every module in eval mode, torch.compile bypassed and gradients recorded."""
    modes = ((module, "training", False) for module in net.modules())
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"), _replaced(modes):
        yield


@contextmanager
def _replaced(values: Iterable[tuple[nn.Module, str, Any]]) -> Iterator[None]:
    """Context that sets attributes of module instances, which hide parameters and methods."""
    with ExitStack() as back:
        for module, name, value in values:
            held = vars(module)
            if name in held:
                back.callback(held.__setitem__, name, held[name])
            else:
                back.callback(held.pop, name)
            held[name] = value
        yield
