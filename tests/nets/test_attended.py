"""Attention of few tokens and of many, by two ways, is the one of the equation."""

import pytest
import torch

from ddiff.nets.blocks import FEW_TOKENS, attended


@pytest.mark.parametrize("tokens", [1, 64, FEW_TOKENS, FEW_TOKENS + 1])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
def test_follows_the_equation(tokens: int, dtype: torch.dtype, allowed: float) -> None:
    """Forward and backward, in float64 from the same rounded inputs."""
    generator = torch.Generator().manual_seed(tokens)
    shape = (2, tokens, 3, 2, 16)
    qkv = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    y = attended(*qkv.permute(2, 0, 3, 1, 4))
    dy = torch.randn(y.shape, generator=generator).to(dtype)
    y.backward(dy)
    exact = qkv.detach().double().requires_grad_()
    q, k, v = exact.permute(2, 0, 3, 1, 4)
    expected = torch.einsum("bhij,bhjd->bhid", (q @ k.mT / 4).softmax(-1), v)
    expected.backward(dy.double())
    assert y.dtype == dtype
    for a, b in ((y, expected), (qkv.grad, exact.grad)):
        assert a is not None
        assert b is not None
        assert (a - b).abs().max() < allowed * max(1, b.abs().max().item())
