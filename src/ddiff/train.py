"""Trains a diffusion model and writes a run: config, checkpoints, TensorBoard, samples, metrics."""

from omegaconf import DictConfig

from ddiff.cli import entry
from ddiff.recipe import choose_recipe


@entry("train", prepare=choose_recipe)
def main(cfg: DictConfig) -> float | None:
    """Trains a diffusion model and writes a run: config, checkpoints, TensorBoard, samples and
    final metrics. Without options it trains experiment=voxel_adaptive; data=X without
    experiment= trains a net, an objective and a schedule that suit those data, in runs/X/."""
    from ddiff.resume import checked
    from ddiff.sweeps import finished

    if (done := finished(cfg)) is not None:
        return done

    cfg, point = checked(cfg)  # every mistake is named here, before Lightning is imported

    from ddiff.allocator import keep_freed_memory
    from ddiff.run import Run
    from ddiff.threads import threads

    keep_freed_memory()
    with threads(cfg.threads, cfg.trainer.accelerator, point.threads if point else None):
        run = Run(cfg, point)
        try:
            run.fit()
            return run.finish()
        finally:
            run.close()


if __name__ == "__main__":
    main()
