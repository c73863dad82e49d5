"""Tests of conditions in nets: rows of numbers, parts that are not given, pictures."""

import math

import pytest
import torch
from torch import nn

from ddiff.diffusion.guidance import doubled, without_some
from ddiff.nets import DiT, Plain3d, Simple2d, UNet
from ddiff.nets.conditions import (
    Layout,
    Number,
    NumberEmbedding,
    TextEncoder,
    Vector,
    VectorEmbedding,
    decode_text,
    encode_text,
)
from ddiff.system.errors import ConfigError

NAN = math.nan


def layout(shape, num_classes=3):
    numbers = {"age": Number(50.0, 10.0, 20.0, 80.0), "porosity": Number(0.3, 0.1, 0.1, 0.5)}
    return Layout(shape, num_classes, numbers, 16, {"mask": 1}, vector=Vector(3, 0.5))


def rows(of):
    return of.packed(
        {
            "class": torch.tensor([0.0, 2.0]),
            "age": torch.tensor([61.0, NAN]),
            "text": encode_text(["a ball", "a café"], 16),
            "vector": torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]),
            "mask": torch.ones(2, 1, *of.shape[1:]),
        },
        2,
    )


def nets(shape):
    told = {"conditions": layout(shape).options()}
    few = UNet(shape, 3, [8, 16], num_blocks=1, groups=4, mid_attention=False, **told)
    plain = Simple2d if len(shape) == 3 else Plain3d
    found = [few, DiT(shape, 3, 16, 1, head_dim=16, **told), plain(shape, 3, **told)]
    for net in found:
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return found


def test_a_row_holds_its_parts_at_their_places():
    of = layout((1, 2, 2))
    assert of.parts == {"class": 1, "age": 1, "porosity": 1, "text": 16, "vector": 3, "mask": 4}
    y = rows(of)
    assert y.shape == (2, of.width) == (2, 26)
    assert of.part(y, "age")[0].item() == 61
    assert of.part(y, "porosity").isnan().all()  # not given
    assert [decode_text(codes) for codes in of.part(y, "text")] == ["a ball", "a café"]
    assert of.part(y, "mask").shape == (2, 1, 2, 2)
    assert of.classes(y).tolist() == [0, 2]
    assert Layout.of(of.shape, 3, of.options()) == of  # as a checkpoint keeps it


def test_a_class_alone_stays_a_label():
    of = Layout((1, 4, 4), 5)
    assert of.options() is None
    assert not of.by_rows
    assert bool(of)
    assert not Layout((1, 4, 4))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 4, 4)], ids=["2D", "3D"])
@pytest.mark.parametrize("number", range(3))
def test_every_part_changes_the_prediction_and_none_is_needed(shape, number):
    net, of = nets(shape)[number].eval(), layout(shape)
    x, t, y = torch.randn(2, *shape), torch.tensor([1, 7]), rows(of)
    with torch.no_grad():
        full, nothing = net(x, t, y), net(x, t, None)
        assert torch.equal(nothing, net(x, t, torch.full_like(y, NAN)))
        for name, place in of.places.items():
            less = y.clone()
            less[:, place] = NAN
            found = net(x, t, less)
            assert found.isfinite().all()
            assert torch.equal(found, full) == (name == "porosity")  # which was not given
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, full, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_weight_and_are_finite():
    net, of = nets((1, 8, 8))[0], layout((1, 8, 8))
    y = torch.cat([rows(of), torch.full((1, of.width), NAN)])
    net(torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3]), y).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_number_that_is_not_given_has_no_features():
    torch.manual_seed(0)
    embed = NumberEmbedding([Number(10.0, 2.0, 0.0, 20.0)], 8)
    given, none = embed(torch.tensor([[10.0]])), embed(torch.tensor([[NAN]]))
    by_hand = embed.mlp(torch.tensor([[0.0] * 7 + [1.0] * 7]))  # z = 0: sines 0, cosines 1
    torch.testing.assert_close(given, by_hand)
    torch.testing.assert_close(none, embed.mlp(torch.zeros(1, 14)))
    assert embed.bfloat16().mean.dtype == torch.float32  # numbers keep their digits


def test_a_vector_is_read_in_units_of_the_training_data():
    torch.manual_seed(0)
    embed = VectorEmbedding(Vector(2, 0.25), 8)
    given, none = embed(torch.tensor([[0.5, -1.0]])), embed(torch.full((1, 2), NAN))
    torch.testing.assert_close(given, embed.mlp(torch.tensor([[2.0, -4.0, 1.0]])))
    torch.testing.assert_close(none, embed.mlp(torch.zeros(1, 3)))


def test_text_after_the_end_and_text_that_is_not_given_count_nothing():
    torch.manual_seed(0)
    encoder = TextEncoder(16, 8).eval()
    short = encoder(encode_text(["a ball"], 16))
    other = encode_text(["a ball"], 16)
    with torch.no_grad():
        encoder.bytes.weight[0] += 100  # of what stands after the end
    torch.testing.assert_close(encoder(other), short, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoder(torch.full((1, 16), NAN)), torch.zeros(1, 8))
    assert (encoder(encode_text(["a bell"], 16)) - short).abs().max() > 1e-4


def test_dropping_takes_all_parts_together_and_each_alone():
    of = layout((1, 2, 2))
    y = rows(of)[:1].expand(20_000, -1)
    y = torch.where(y.isnan(), 0.5, y)
    found = without_some(y, 0.1, torch.Generator().manual_seed(0), list(of.parts.values()))
    gone = torch.stack([of.part(found, name).flatten(1).isnan().all(1) for name in of.parts], 1)
    some = torch.stack([of.part(found, name).flatten(1).isnan().any(1) for name in of.parts], 1)
    assert torch.equal(gone, some)  # never a part of a part
    share = gone.float().mean(0)
    assert ((share - 0.19).abs() < 0.012).all()  # 1 - 0.9^2; a deviation is 0.0028
    assert abs(gone.all(1).float().mean().item() - 0.1) < 0.009
    alone = without_some(y, 0.1, torch.Generator().manual_seed(0), [of.width])  # one part
    assert abs(alone.isnan().any(1).float().mean().item() - 0.1) < 0.009


def test_guidance_compares_with_nothing_given():
    y = rows(layout((1, 2, 2)))
    _, _, both = doubled(torch.zeros(2, 1, 2, 2), torch.tensor([1, 1]), y)
    assert both[2:].isnan().all()
    assert torch.equal(both[:2].nan_to_num(), y.nan_to_num())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Layout.of((1, 4, 4), None, {"numbers": {"a": {"mean": 1}}}), "no layout"),
        (lambda: Layout.of((1, 4, 4), None, {"zzz": 1}), "no layout"),
        (lambda: Layout.of((1, 4, 4), None, {"length": 10_000}), "no layout"),
        (lambda: Layout.of((1, 4, 4), None, {"vector": {"width": 0, "rms": 1.0}}), "no layout"),
        (lambda: encode_text(["a long text"], 4), "has 11 bytes, and this net reads 4 at most"),
        (lambda: encode_text([" "], 4), "a text is empty"),
        (
            lambda: nets((1, 8, 8))[0](
                torch.zeros(1, 1, 8, 8), torch.tensor([1]), torch.tensor([1])
            ),
            r"told class, age, porosity, text, vector, mask: y is \[B, 86\], not \[1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
