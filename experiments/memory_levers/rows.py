"""The settings that are compared: the default net, and the same net at full resolution."""

from dataclasses import dataclass

CAPS = {64: 1.0, 128: 4.0}  # GB: what DESIGN section 11 asks for

FULL = ("net.patch_size=1", "net.input_skip=false")
FP32, BF16, NATIVE = "precision=fp32", "precision=bf16", "backend=native"
FIRST, ALL = "net.checkpoint_levels=[0]", "net.checkpoint_levels=[0,1,2]"


@dataclass(frozen=True)
class Row:
    name: str
    options: tuple[str, ...]


def rows(size: int) -> list[Row]:
    """The first row is what the others of the full resolution are compared with."""
    batch = 4 if size == 64 else 1
    whole = f"budget.batch_size={batch}"
    full = {
        "full resolution, fp32": (FP32, whole),
        "native": (FP32, NATIVE, whole),
        "checkpointing, first level": (FP32, FIRST, whole),
        "checkpointing, all levels": (FP32, ALL, whole),
        "bf16": (BF16, whole),
        "bf16, native": (BF16, NATIVE, whole),
        "bf16, checkpointing, first level": (BF16, FIRST, whole),
        "bf16, native, checkpointing, first level": (BF16, NATIVE, FIRST, whole),
    }
    if batch > 1:
        parts = ("budget.batch_size=1", f"trainer.accumulate_grad_batches={batch}")
        full |= {
            f"{batch} parts": (FP32, *parts),
            f"{batch} parts, bf16": (BF16, *parts),
            f"{batch} parts, bf16, native, checkpointing": (BF16, NATIVE, FIRST, *parts),
        }
    common = ("backend=eager", f"data.size={size}", "data.num=16", "data.num_val=4")
    one = ("sampling.batch_size=1", "sampling.num_samples=1")
    found = [Row(name, (*common, *one, *FULL, *options)) for name, options in full.items()]
    for patch in (2, 4):
        patched = (f"net.patch_size={patch}", "net.input_skip=true", "budget.batch_size=4")
        for precision in (FP32, BF16):
            name = f"patches of {patch}, batch 4, {precision.removeprefix('precision=')}"
            found.append(Row(name, (*common, *one, *patched, precision)))
    return found
