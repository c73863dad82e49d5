"""torch.compile takes the U-Net whole, forward and backward."""

import pytest
import torch

from tests.nets.test_unet import SHAPES, batch, build, perturbed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside torch's compiler
@pytest.mark.parametrize(
    ("shape", "backend"), list(zip(SHAPES, ("aot_eager", "inductor"), strict=True))
)
def test_compiled_without_graph_breaks_gives_the_same(shape, backend):
    net = perturbed(build(shape, 3, channels=[8, 8], num_blocks=1, checkpoint_levels=[0]))
    x, t = batch(shape)
    y = torch.tensor([-1, 0, 2])
    eager = net(x, t, y)
    expected = torch.autograd.grad(eager.square().sum(), list(net.parameters()))
    net.compile(fullgraph=True, backend=backend)
    out = net(x, t, y)
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(out.square().sum(), list(net.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * b.abs().max().item())
