"""What the tally counts, against sums that can be done by hand."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ddiff.memory import Tally

KB = 1024


def counted(run, granule=1):
    tally = Tally(granule)
    with tally:
        tally.begin("all")
        run(tally)
    (peak,) = tally.peaks()
    return peak


def test_views_are_one_storage_and_the_dead_are_not_counted():
    def run(tally):
        a = torch.zeros(256)  # 1 kB
        a.view(16, 16).t()[3:].add_(1)
        b = a + 1
        del a
        c = torch.cat([b, b])  # 1 + 2
        del b
        torch.zeros(512) + c  # 2 + 2 + 2, and the two new ones die

    assert counted(run).total == 6 * KB


def test_allocators_round_up():
    def run(tally):
        kept = [torch.zeros(1), torch.zeros(129)]
        del kept

    assert counted(run).total == 130 * 4
    assert counted(run, granule=512).total == 512 + 1024


def test_the_graph_holds_what_the_backward_pass_needs():
    """x -> linear -> relu, three times: a layer keeps its input and its result, and the relu's
    input dies (relu saves its result, which is the next layer's input)."""
    width, batch = 64, 32
    net = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(width, width), nn.ReLU())])
    x = torch.randn(batch, width)
    map_, weight = batch * width * 4, (width * width + width) * 4

    def run(tally):
        tally.name("weights", net.parameters())
        y = net(x)
        tally.begin("forward")
        y = y * 1  # at the peak: the three results, and this
        tally.name("last", [y])
        del y

    tally = Tally()
    with tally:
        run(tally)
    (peak,) = tally.peaks()
    assert peak.parts == {"weights": 3 * weight, "activations": 3 * map_, "last": map_}
    assert peak.total == 3 * weight + 4 * map_


def test_gradients_are_named_after_the_fact():
    layer = nn.Linear(100, 50, bias=False)

    def run(tally):
        tally.name("weights", layer.parameters())
        layer(torch.ones(1, 100)).sum().backward()
        tally.name("gradients", [layer.weight.grad])
        scratch = torch.zeros(10**6)
        del scratch

    parts = counted(run).parts
    assert (parts["weights"], parts["gradients"], parts["activations"]) == (20000, 20000, 4 * 10**6)


def test_tensors_without_content_count_the_same():
    def run(tally):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3))
        with torch.autocast("cpu", torch.bfloat16):
            y = net(torch.zeros(4, 3, 16, 16))
        y.float().square().mean().backward()

    real = counted(run)
    with FakeTensorMode():
        fake = counted(run)
    assert real == fake
    assert real.total > 4 * 8 * 14 * 14 * 2


def test_phases_have_peaks_of_their_own():
    tally = Tally()
    with tally:
        kept = torch.zeros(256)
        tally.begin("small")
        kept + 1
        tally.begin("large")
        torch.zeros(1024).add_(kept.sum())
        tally.begin("idle")
    assert [peak.phase for peak in tally.peaks()] == ["small", "large", "idle"]
    assert [peak.total for peak in tally.peaks()] == [2 * KB, 5 * KB + 4, KB]
