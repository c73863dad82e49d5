"""Writes a run's net as an artifact: a file that runs without ddiff."""

from omegaconf import DictConfig

from ddiff.config.shell import entry
from ddiff.sampling.from_run import drop_empty, offer_run
from ddiff.system.errors import ConfigError

FROM_RUN = ("solver", "guidance")
EIGHT_BITS = ("int8", "fp8")
NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"} | {n: n for n in EIGHT_BITS}


def prepare(argv: list[str]) -> None:
    """A file can hold what training cannot use: numbers of 8 bits."""
    from hydra.core.config_store import ConfigStore

    for name in EIGHT_BITS:
        node = {"_target_": "ddiff.system.precision.Precision", "dtype": name, "tf32": False}
        ConfigStore.instance().store(name=name, group="precision", node=node)
    offer_run(*FROM_RUN)(argv)


@entry("export", prepare=prepare)
def main(cfg: DictConfig) -> None:
    """Writes a run's net to a file (torch.export, ONNX, AOTInductor, TensorRT, TorchScript) that
    samples without the run, after comparing the two: see docs/export.md."""
    from ddiff.config.options import Export, typed
    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate

    cfg = resolved(cfg)
    numbers = cfg.pop("precision")
    drop_empty(cfg, *FROM_RUN)
    validate(cfg, "export")
    options = typed(Export, cfg)

    from functools import partial

    from ddiff.artifacts.loading import is_artifact
    from ddiff.artifacts.trained import Trained
    from ddiff.artifacts.writing import export
    from ddiff.sampling.generation import walk
    from ddiff.system.checkpoints import find_checkpoint
    from ddiff.system.console import console
    from ddiff.system.precision import Precision

    if is_artifact(options.run):
        find_checkpoint(options.run)  # refuses: a program holds no net to export again
    trained = Trained.load(options.run, options.weights, options.accelerator)
    if numbers["tf32"]:
        raise ConfigError("precision: tf32 is how float32 is multiplied, not what a file holds")
    if numbers["dtype"] == "auto":
        numbers["dtype"] = Precision().on(next(trained.net.parameters()).device).dtype
    if numbers["dtype"] not in NAMES:
        raise ConfigError(f"precision.dtype: {numbers['dtype']!r} is not one of {', '.join(NAMES)}")
    by_plan = partial(walk, solver=options.solver, guidance=options.guidance)
    done = export(trained, options, NAMES[numbers["dtype"]], by_plan)
    found = done.facts["verified"]
    console.print(f"artifact    {done.path}  sha256 {done.sha256[:16]}")
    error = f"PSNR {found['psnr']:.0f} dB, largest error {found['max_error']:.2g}"
    console.print(f"compared    {error} over batches of {found['batches']}: {found['of']}")
    console.print(f"more        python -m ddiff.sample run={done.path} num_samples=8")


if __name__ == "__main__":
    main()
