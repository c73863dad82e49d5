"""Conditions: what a net is told of a sample besides the time, and the layers that read it.

A class alone is a label y [B] int64; -1 is "no label". With any other condition, y is a row of
numbers [B, K] float32 for each sample. `Layout` knows the parts of a row; a part that is not given
is NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.nets.embedding import ExactBuffers, Sinusoidal, mlp
from ddiff.system.errors import ConfigError

CLASS, TEXT, VECTOR = "class", "text", "vector"  # parts that are neither numbers nor pictures
WAVES = 6  # sines of a number, the longest with a period of 8 standard deviations
LONGEST_TEXT = 256  # bytes
WIDTH, HEADS, LAYERS = 64, 4, 2  # of the encoder of text


@dataclass(frozen=True)
class Number:
    """The law of a number in the training data: mean, standard deviation, and range."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Vector:
    """Vectors that another net made, such as an encoder of text, in the training data."""

    width: int
    rms: float  # of their entries


@dataclass(frozen=True)
class Layout:
    """The parts of a row y: a class, numbers, the bytes of a text, a vector, and pictures, in this
    order.

    - `shape`: [C, *S] of a sample.
    - `num_classes`: None without classes.
    - `numbers`: by name.
    - `length`: the most bytes of a text; 0 without text.
    - `pictures`: masks and other pictures of the size *S: their channels, by name.
    - `examples`: values of some samples by the name of a part, where no part is `large`.
    - `vector`: None without vectors.
    """

    shape: tuple[int, ...]
    num_classes: int | None = None
    numbers: Mapping[str, Number] = field(default_factory=dict)
    length: int = 0
    pictures: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    vector: Vector | None = None

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        num_classes: int | None,
        conditions: Mapping[str, Any] | None,
    ) -> "Layout":
        """Return the layout that options of a net describe.

        `conditions` is what `options` returns, or None. Raises ConfigError for anything else.
        """
        said = dict(conditions or {})
        sides = tuple(int(side) for side in shape)
        try:
            found = {name: Number(**law) for name, law in dict(said.pop("numbers", {})).items()}
            length = int(said.pop("length", 0))
            vector = Vector(**said.pop("vector")) if "vector" in said else None
            pictures = {name: int(depth) for name, depth in dict(said.pop("pictures", {})).items()}
            examples = {name: list(some) for name, some in dict(said.pop("examples", {})).items()}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"net.conditions is no layout of conditions: {error}") from None
        laws = [value for law in found.values() for value in vars(law).values()]
        laws += [vector.width, vector.rms] if vector else []
        right = all(isinstance(v, int | float) and math.isfinite(v) for v in laws)
        right = right and all(law.std > 0 for law in found.values()) and not said
        right = right and (vector is None or (vector.width >= 1 and vector.rms > 0))
        if not right or not 0 <= length <= LONGEST_TEXT or any(n < 1 for n in pictures.values()):
            raise ConfigError(
                "net.conditions is no layout of conditions; ddiff fills it in from the data"
            )
        return cls(sides, num_classes, found, length, pictures, examples, vector)

    @classmethod
    def of_net(cls, net: Mapping[str, Any]) -> "Layout":
        """Return the layout of a net, by its options: shape, num_classes and conditions."""
        return cls.of(net["shape"], net.get("num_classes"), net.get("conditions"))

    def options(self) -> dict[str, Any] | None:
        """Return the layout without shape and classes as plain values, as a net's option.

        None where there is no other condition than a class.
        """
        if not self.by_rows:
            return None
        parts = {
            "numbers": {name: dict(vars(law)) for name, law in self.numbers.items()},
            "length": self.length,
            "vector": dict(vars(self.vector)) if self.vector else None,
            "pictures": dict(self.pictures),
            "examples": {name: list(some) for name, some in self.examples.items()},
        }
        return {name: value for name, value in parts.items() if value}

    @property
    def by_rows(self) -> bool:
        """True if y is a row of numbers, False if it is a label or nothing."""
        return bool(self.numbers or self.length or self.large)

    @property
    def large(self) -> list[str]:
        """Names of parts whose values are too large for an option: vectors and pictures."""
        return [*([VECTOR] if self.vector else []), *self.pictures]

    @cached_property
    def parts(self) -> dict[str, int]:
        """Numbers of a row that every part takes, by name, in order."""
        found = {} if self.num_classes is None else {CLASS: 1}
        found |= dict.fromkeys(self.numbers, 1)
        if self.length:
            found[TEXT] = self.length
        if self.vector:
            found[VECTOR] = self.vector.width
        size = math.prod(self.shape[1:])
        return found | {name: channels * size for name, channels in self.pictures.items()}

    @cached_property
    def places(self) -> dict[str, slice]:
        """Places of the parts in a row."""
        found, start = {}, 0
        for name, width in self.parts.items():
            found[name] = slice(start, start + width)
            start += width
        return found

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(self.parts.values())

    def __bool__(self) -> bool:
        """True if there is any condition."""
        return bool(self.parts)

    def packed(self, parts: Mapping[str, Tensor], rows: int) -> Tensor:
        """Return rows [rows, K] of these parts [rows, ...]; the others are not given."""
        y = torch.full((rows, self.width), math.nan)
        for name, values in parts.items():
            y[:, self.places[name]] = values.reshape(rows, -1).float()
        return y

    def part(self, y: Tensor, name: str) -> Tensor:
        """Return a part of rows y [B, K]: pictures [B, C, *S], others [B, width]."""
        found = y[:, self.places[name]]
        if name in self.pictures:
            return found.unflatten(1, (self.pictures[name], *self.shape[1:]))
        return found

    def rows(self, y: Tensor | None, t: Tensor) -> Tensor:
        """Return y as rows [B, K] for times t [B]; of None, rows in which nothing is given.

        Raises ConfigError for a y of another form.
        """
        if y is None:
            return torch.full((len(t), self.width), math.nan, device=t.device)
        if y.ndim != 2 or y.shape[1] != self.width:
            raise ConfigError(
                f"the net is told {', '.join(self.parts)}: y is [B, {self.width}], not "
                f"{list(y.shape)}"
            )
        return y

    def classes(self, y: Tensor | None) -> Tensor | None:
        """Return the labels [N] int64 in y; None where no class is told, or not of every sample."""
        if y is None or not self.by_rows:
            return y
        if self.num_classes is None:
            return None
        labels = self.part(y, CLASS)[:, 0]
        return None if bool(labels.isnan().any()) else labels.long()


def encode_text(texts: Sequence[str], length: int) -> Tensor:
    """Return the bytes of texts in UTF-8, [N, length] float32, with 0 after the end.

    Raises ConfigError for a text that is longer, and for one without letters.
    """
    found = torch.zeros(len(texts), length)
    for row, text in zip(found, texts, strict=True):
        code = text.encode().replace(b"\0", b" ")
        if not code.strip():
            raise ConfigError("a text is empty; leave it out if none is meant")
        if len(code) > length:
            raise ConfigError(
                f"the text {text[:40]!r} has {len(code)} bytes, and this net reads {length} at most"
            )
        row[: len(code)] = torch.tensor(list(code))
    return found


def decode_text(codes: Tensor) -> str | None:
    """Return the text that `encode_text` made these numbers [L] of; None if it is not given."""
    if bool(codes.isnan().any()):
        return None
    return bytes(codes.to(torch.uint8).tolist()).rstrip(b"\0").decode(errors="replace")


class Condition(nn.Module):
    """Embedding of the time and of what the net is told of the sample.

    The embeddings of the class, the numbers, the text and the vector are added to that of the time.
    Pictures become channels beside the net's input. Row 0 of `labels` is "no label".
    """

    def __init__(
        self,
        embedding: nn.Module | None,
        shape: Sequence[int],
        num_classes: int | None,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.embedding = embedding = embedding or Sinusoidal(64)
        self.out_dim: int = embedding.out_dim  # pyright: ignore[reportAttributeAccessIssue]
        self.layout = Layout.of(shape, num_classes, conditions)
        self.labels = self.numbers = self.text = self.vector = None
        if num_classes is not None:
            self.labels = nn.Embedding(num_classes + 1, self.out_dim)
        if self.layout.numbers:
            self.numbers = NumberEmbedding(list(self.layout.numbers.values()), self.out_dim)
        if self.layout.length:
            self.text = TextEncoder(self.layout.length, self.out_dim)
        if self.layout.vector:
            self.vector = VectorEmbedding(self.layout.vector, self.out_dim)

    @property
    def channels(self) -> int:
        """Channels of a net's input: those of a sample, and each picture's with one more."""
        return self.layout.shape[0] + sum(n + 1 for n in self.layout.pictures.values())

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embed t [B] and y, [B] (-1: no label) or [B, K] (NaN: not given) or None, as
        [B, out_dim].

        Raises ConfigError for a y of another form than the net's.
        """
        emb, layout = self.embedding(t), self.layout
        if not layout.by_rows:
            if self.labels is None:
                if y is not None:
                    raise ConfigError(
                        "a label was given to a net without classes (net.num_classes=null)"
                    )
                return emb
            if y is not None and y.ndim != 1:
                raise ConfigError("the net knows classes alone: y is [B], one label a sample")
            return emb + (self.labels.weight[0] if y is None else self.labels(y + 1))
        y = layout.rows(y, t)
        if self.labels is not None:
            given = layout.part(y, CLASS)[:, 0].nan_to_num(nan=-1.0)
            emb = emb + self.labels(given.long() + 1)
        if self.numbers is not None:
            first, *_, last = [*layout.numbers, *layout.numbers]
            part = y[:, layout.places[first].start : layout.places[last].stop]
            emb = emb + self.numbers(part)
        if self.text is not None:
            emb = emb + self.text(layout.part(y, TEXT))
        if self.vector is not None:
            emb = emb + self.vector(layout.part(y, VECTOR))
        return emb

    def beside(self, x: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        """Return x [B, C, *S] with the pictures of y as more channels, [B, channels, *S].

        Each picture has a channel more, which is 1 where the picture is given and 0 if it is not.
        """
        if not self.layout.pictures:
            return x
        y = self.layout.rows(y, t)
        parts = [x]
        for name in self.layout.pictures:
            picture = self.layout.part(y, name)
            given = ~picture[:, :1].isnan()
            parts += [picture.nan_to_num(nan=0.0).to(x.dtype), given.to(x.dtype)]
        return torch.cat(parts, dim=1)


class NumberEmbedding(ExactBuffers):
    """Embedding of numbers: each in standard deviations from its mean, its sines, then an MLP.

    A number that is not given has features of 0; one more feature says whether it is given.
    """

    def __init__(self, laws: Sequence[Number], out_dim: int):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.waves: Tensor
        for name, values in (
            ("mean", [law.mean for law in laws]),
            ("std", [law.std for law in laws]),
            ("waves", [math.pi / 4 * 2**k for k in range(WAVES)]),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        features = len(laws) * (2 * WAVES + 2)
        self.mlp = mlp(features, out_dim)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embed numbers [B, n], NaN where not given, as [B, out_dim]."""
        given = (~numbers.isnan()).float()[..., None]  # [B, n, 1]
        z = ((numbers.nan_to_num(nan=0.0) - self.mean) / self.std)[..., None]
        phase = z * self.waves
        features = torch.cat([z, phase.sin(), phase.cos(), torch.ones_like(z)], dim=2) * given
        return self.mlp(features.flatten(1).to(next(self.mlp.parameters()).dtype))


class VectorEmbedding(nn.Module):
    """Embedding of a vector, in units of the training data's root mean square, by an MLP.

    A vector that is not given has entries of 0; one more says whether it is given.
    """

    def __init__(self, law: Vector, out_dim: int):
        super().__init__()
        self.scale = 1 / law.rms
        self.mlp = mlp(law.width + 1, out_dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Embed vectors [B, width], NaN where not given, as [B, out_dim]."""
        given = (~vectors[:, :1].isnan()).float()
        features = torch.cat([vectors.nan_to_num(nan=0.0) * self.scale, given], dim=1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class TextEncoder(nn.Module):
    """Encoder of a text: its bytes, a small transformer, and the mean over them.

    A text that is not given has the embedding 0.
    """

    def __init__(self, length: int, out_dim: int):
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(length, WIDTH))
        self.layers = nn.ModuleList(TextLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, out_dim)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed bytes [B, L], 0 after the end and NaN where not given, as [B, out_dim]."""
        given = (~codes[:, :1].isnan()).to(self.places.dtype)  # [B, 1]
        codes = codes.nan_to_num(nan=1.0).long()
        there = codes > 0  # [B, L]
        h = self.bytes(codes) + self.places
        for layer in self.layers:
            h = layer(h, there)
        weight = there.to(h.dtype)[..., None]
        mean = (self.norm(h) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.out(mean) * given


class TextLayer(nn.Module):
    """Attention among the bytes of a text, then an MLP, both residual."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """Return h [B, L, WIDTH] after the layer; bytes that are not `there` [B, L] are unseen."""
        qkv = self.qkv(self.norms[0](h)).unflatten(2, (3, HEADS, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # [B, heads, L, dim]
        scores = (q @ k.mT).float() / math.sqrt(q.shape[3])
        scores = scores.masked_fill(~there[:, None, None], -1e9)
        mixed = (F.softmax(scores, dim=3).to(v.dtype) @ v).transpose(1, 2).flatten(2)
        h = h + self.project(mixed)
        return h + self.mlp(self.norms[1](h))
