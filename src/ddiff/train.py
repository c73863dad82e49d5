"""Trains a diffusion model and writes a run."""

from omegaconf import DictConfig

from ddiff.config.options import Train, typed
from ddiff.config.shell import entry
from ddiff.config.sweeps import job_folder, name_of, overrides_of_command
from ddiff.recipes.choosing import recipe_of_training


@entry("train", prepare=recipe_of_training)
def main(cfg: DictConfig) -> float | None:
    """Trains a diffusion model and writes a run: config, checkpoints, TensorBoard, samples and
    final metrics. Without options it trains experiment=voxel_adaptive; data=X without
    experiment= trains a net, an objective and a schedule that suit those data, in runs/X/. With
    recipe=30min, python -m ddiff.recipe looks at the data and this device first, and the training
    takes what it writes."""
    from ddiff.config.resuming import continued, finished

    if (done := finished(cfg)) is not None:
        return done
    cfg, point = continued(cfg)
    said = [name_of(word) for word in overrides_of_command()]
    if cfg.init and not point:
        from ddiff.training.starting import with_parts_of_source

        cfg = with_parts_of_source(cfg, said)

    from ddiff.training.rehearsal import rehearse

    if point:
        rehearse(cfg, done=point.step, unbounded=point.unchanged(cfg))
        point.check(cfg)
    else:
        rehearse(cfg)  # every mistake is named here, before Lightning is imported

    from ddiff.system.devices import keep_freed_memory
    from ddiff.system.threads import threads
    from ddiff.training.run import Run

    options = typed(Train, cfg)
    overrides = point.overrides if point else overrides_of_command()
    keep_freed_memory()
    with threads(options.threads, options.trainer.accelerator, point.threads if point else None):
        run = Run(options, overrides, point, job_folder())
        if options.memory_budget_gb is not None and run.is_first:
            from ddiff.memory import check_budget  # torch's fake tensors take their time

            check_budget(options, run.module, run.device, resuming=point is not None)
        try:
            run.fit()
            return run.finish()
        finally:
            run.close()


if __name__ == "__main__":
    main()
