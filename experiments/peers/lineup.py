"""Rows of every contest with the peers, as options of ddiff's own config.

The peers' nets are built, trained and sampled by ddiff's code around them, so that all but the
net is the same arithmetic.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

CIFAR = ("experiment=cifar10_ddpm",)
# AdamW, as the peers' nets are trained with, and the spheres that were judged
VOXEL = (
    "experiment=voxel_adaptive",
    "optimizer=adamw",
    "optimizer.lr=1.0e-3",
    "data.centre=fixed",
)
NETS: dict[str, tuple[str, ...]] = {
    "diffusers UNet2DModel": (*CIFAR, "net=diffusers_cifar10"),
    "ddiff UNet, CIFAR-10": (*CIFAR, "net.dropout=0.0"),  # UNet2DModel's default
    "MONAI DiffusionModelUNet": (*VOXEL, "net=monai_unet"),
    "MONAI DiffusionModelUNet, fused": (*VOXEL, "net=monai_unet", "net.fused_attention=true"),
    "ddiff UNet, MONAI's shape": (
        *(*VOXEL, "net=unet", "net.channels=[32,64,128]", "net.num_blocks=1"),
        *("net.modulation=shift", "net.embedding.out_dim=null"),
    ),
    "ddiff voxel_adaptive": VOXEL,
}
FULL_SIZE = {"cifar": (3, 32, 32), "voxel": (1, 64, 64, 64)}
QUICK_SIZE = {"cifar": (3, 32, 32), "voxel": (1, 32, 32, 32)}
PEER, SAME_NET, SAME_TASK = "peer", "ddiff, the same net", "ddiff, the same task"

Group = Literal["peer", "ddiff, the same net", "ddiff, the same task"]
Mode = Literal["training", "sampling"]


@dataclass(frozen=True)
class Row:
    """A contestant. contiguous: the net leaves channels last. bf16_weights: for sampling, what
    autocast would cast at every call is cast once."""

    name: str
    group: Group
    net: str
    batch: int
    precision: str
    backend: str = "eager"
    contiguous: bool = False
    bf16_weights: bool = False
    default: bool = False  # what one gets without asking for speed

    @property
    def options(self) -> tuple[str, ...]:
        return (*NETS[self.net], f"precision={self.precision}", f"backend={self.backend}")


@dataclass(frozen=True)
class Contest:
    name: str
    title: str
    mode: Mode
    shape: tuple[int, ...]
    rows: tuple[Row, ...]


def contests(quick: bool, cuda: bool) -> list[Contest]:
    """All four; `quick` is small volumes and batches, to see that everything runs."""
    shapes = QUICK_SIZE if quick else FULL_SIZE
    made = []
    for mode in ("training", "sampling"):
        for name, rows in (("cifar", cifar(mode, cuda)), ("voxel", voxel(mode, cuda))):
            size = " x ".join(map(str, shapes[name][1:]))
            title = f"{'CIFAR-10 net' if name == 'cifar' else 'Volumes'}, {size}, {mode} step"
            if quick:
                rows = [replace(row, batch=min(row.batch, 2)) for row in rows]
            made.append(Contest(f"{name}_{mode}", title, mode, shapes[name], tuple(rows)))
    return made


def cifar(mode: Mode, cuda: bool) -> list[Row]:
    batch = 16 if mode == "training" else 8
    net, own = "diffusers UNet2DModel", "ddiff UNet, CIFAR-10"
    peers = settings("diffusers", net, batch, cuda)
    if mode == "sampling":
        peers += with_bf16_weights("diffusers", net, batch)
    return [*peers, *ours("ddiff", SAME_NET, own, batch, cuda)]


def voxel(mode: Mode, cuda: bool) -> list[Row]:
    batch = 2 if mode == "training" else 8
    fused = "MONAI DiffusionModelUNet, fused"
    first = Row("MONAI fp32", PEER, "MONAI DiffusionModelUNet", batch, "fp32", contiguous=True,
                default=True)  # fmt: skip
    cl, words = "MONAI fused attention, channels last", "MONAI fused attention"
    best = [
        Row(f"{words}, fp32", PEER, fused, batch, "fp32", contiguous=True),
        Row(f"{cl}, fp32", PEER, fused, batch, "fp32"),
        Row(f"{words}, bf16", PEER, fused, batch, "bf16", contiguous=True),
        Row(f"{cl}, bf16", PEER, fused, batch, "bf16"),
    ]
    if cuda:
        best.append(Row(f"{cl}, tf32", PEER, fused, batch, "tf32"))
        best.append(Row(f"{cl}, bf16, compiled", PEER, fused, batch, "bf16", "compiled"))
    peers = [first, *best]
    same = ours("ddiff UNet", SAME_NET, "ddiff UNet, MONAI's shape", batch, cuda)
    task = ours("ddiff voxel_adaptive", SAME_TASK, "ddiff voxel_adaptive", 8, cuda)
    if mode == "sampling":
        return [*peers, *with_bf16_weights("MONAI fused attention,", fused, batch), *same, *task]
    fours = [
        replace(row, batch=4, name=f"{row.name}, batch 4")
        for row in peers
        if row.precision == "bf16" and not row.contiguous and row.backend == "eager"
    ]
    twos = [replace(row, batch=2, name=f"{row.name}, batch 2", default=False) for row in task]
    made = [*peers, *fours, *same, *task, *twos]
    return [row for row in made if cuda or row.backend != "compiled"]  # minutes for a volume's net


def settings(name: str, net: str, batch: int, cuda: bool) -> list[Row]:
    """A peer's net under what its users can turn; the first is its default. Compiled in its fastest
    precision alone: a compilation takes a minute."""
    precisions = ("fp32", "tf32", "bf16") if cuda else ("fp32", "bf16")
    turns = [*product(precisions, ["eager"], (True, False)), ("bf16", "compiled", True),
             ("bf16", "compiled", False)]  # fmt: skip
    rows = []
    for precision, backend, contiguous in turns:
        words = [f"{name} {precision}"]
        words += [] if contiguous else ["channels last"]
        words += ["compiled"] if backend == "compiled" else []
        rows.append(Row(", ".join(words), PEER, net, batch, precision, backend, contiguous))
    return [replace(rows[0], default=True), *rows[1:]]


def with_bf16_weights(name: str, net: str, batch: int) -> list[Row]:
    """Sampling with weights in bf16 and channels last."""
    words = {"eager": "", "compiled": ", compiled"}
    return [
        Row(f"{name} bf16 weights, channels last{word}", PEER, net, batch, "bf16", backend,
            bf16_weights=True)
        for backend, word in words.items()
    ]  # fmt: skip


def ours(name: str, group: Group, net: str, batch: int, cuda: bool) -> list[Row]:
    """ddiff's own settings; the first is its default, which is native on a CPU and eager on a
    GPU."""
    other = "native" if cuda else "eager"
    return [
        Row(f"{name} as it comes", group, net, batch, "auto", "auto", default=True),
        Row(f"{name} {other}", group, net, batch, "auto", other),
        Row(f"{name} fp32", group, net, batch, "fp32"),
        Row(f"{name} fp32, native", group, net, batch, "fp32", "native"),
        Row(f"{name} compiled", group, net, batch, "auto", "compiled"),
    ]
