"""Trains a diffusion model and writes a run."""

from omegaconf import DictConfig

from ddiff.config.shell import entry
from ddiff.recipe import choose_recipe


@entry("train", prepare=choose_recipe)
def main(cfg: DictConfig) -> float | None:
    """Trains a diffusion model and writes a run: config, checkpoints, TensorBoard, samples and
    final metrics. Without options it trains experiment=voxel_adaptive; data=X without
    experiment= trains a net, an objective and a schedule that suit those data, in runs/X/."""
    from ddiff.training.resume import checked, finished

    if (done := finished(cfg)) is not None:
        return done

    cfg, point = checked(cfg)  # every mistake is named here, before Lightning is imported

    from ddiff.system.devices import keep_freed_memory
    from ddiff.system.threads import threads
    from ddiff.training.run import Run

    keep_freed_memory()
    with threads(cfg.threads, cfg.trainer.accelerator, point.threads if point else None):
        run = Run(cfg, point)
        if cfg.memory_budget_gb is not None and run.is_first:
            from ddiff.memory import check_budget  # torch's fake tensors take their time

            check_budget(cfg, run.module, run.device, resuming=point is not None)
        try:
            run.fit()
            return run.finish()
        finally:
            run.close()


if __name__ == "__main__":
    main()
