import math
from types import SimpleNamespace

import pytest
import torch

from ddiff.nets import LogSNR, Sinusoidal
from ddiff.nets.conditions import Condition
from ddiff.system.errors import ConfigError


def schedule(steps=50):
    abar = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2  # zero terminal SNR
    return SimpleNamespace(abar=abar)


def test_sinusoidal_features_are_those_of_ddpm():
    net, seen = Sinusoidal(8), []
    net.mlp[0].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    net(torch.tensor([0, 7, 999]))
    for row, t in zip(seen[0], [0, 7, 999], strict=True):
        phase = [t * 10000 ** (-i / 3) for i in range(4)]
        expected = [math.sin(p) for p in phase] + [math.cos(p) for p in phase]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (True, 1), (False, 0)])
def test_the_order_and_the_periods_of_sines_are_options(flip, shift):
    net, seen = Sinusoidal(8, flip_sin_to_cos=flip, freq_shift=shift, out_dim=12), []
    net.mlp[0].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    assert net(torch.tensor([7])).shape == (1, 12)
    phase = [7 * 10000 ** (-i / (4 - shift)) for i in range(4)]
    sines, cosines = [math.sin(p) for p in phase], [math.cos(p) for p in phase]
    expected = cosines + sines if flip else sines + cosines
    torch.testing.assert_close(seen[0][0], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_log_snr_is_told_the_noise_level_of_t_plus_one():
    net = LogSNR(8, schedule())
    assert net.level.shape == (51,)
    assert "level" not in net.state_dict()
    abar = schedule().abar[1:-1]
    torch.testing.assert_close(net.level[1:-1], (-(abar / (1 - abar)).log() / 8).float())
    assert net.level[[0, -1]].tolist() == [-2.5, 2.5]  # clamped
    seen = []
    net.mlp[0].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    net(torch.tensor([9]))
    phase = 2 * math.pi * net.level[10] * net.frequencies
    torch.testing.assert_close(seen[0][0], torch.cat([phase.sin(), phase.cos()]))
    net(torch.arange(50)).sum().backward()
    assert net.frequencies.grad.abs().min() > 0


def test_log_snr_keeps_its_levels_in_half_precision():
    net = LogSNR(8, schedule()).bfloat16()
    assert net.level.dtype == torch.float32
    assert len(net.level.unique()) == 51
    assert net(torch.tensor([3])).dtype == torch.bfloat16


@pytest.mark.parametrize("dim", [2, 7])
def test_odd_dimensions_are_refused(dim):
    with pytest.raises(ConfigError, match=f"even number of at least 4, not {dim}"):
        Sinusoidal(dim)


def test_labels_add_their_row_and_none_is_row_zero():
    net = Condition(Sinusoidal(8), (1, 4, 4), 3)
    t = torch.tensor([1, 2, 3])
    time = net.embedding(t)
    rows = net.labels.weight
    torch.testing.assert_close(net(t, torch.tensor([-1, 0, 2])), time + rows[[0, 1, 3]])
    torch.testing.assert_close(net(t, None), time + rows[0])


def test_a_label_without_classes_is_refused():
    with pytest.raises(ConfigError, match="without classes"):
        Condition(Sinusoidal(8), (1, 4, 4), None)(torch.tensor([1]), torch.tensor([0]))
