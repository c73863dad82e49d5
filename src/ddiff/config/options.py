"""Types and bounds of the options that no signature of ours holds.

These are the options outside the groups, and those of torch's optimisers and Lightning's Trainer.
"""

from typing import Annotated, Any, Literal, Union

from ddiff.system.bounds import At, Count, Filled, Like, NotNegative, Positive, Seed, Share


def or_null(*hints: Any) -> Any:
    """The union of types and null: Python's own `|`, on what a type checker takes for values."""
    return Union[(*hints, None)]


Steps = Annotated[int, At(least=1, most=10**9)]
BatchSize = Annotated[int, At(least=1, most=10**6)]
Samples = Annotated[int, At(least=1, most=10**9)]
Label = Annotated[int, At(least=0)]
Labels = or_null(Literal["auto", "each", "none"], Label, list[Label])
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Names = Annotated[list[str], Filled()]

# options outside the groups; as they stand in conf/<verb>.yaml
PLAIN: dict[str, Any] = {
    **dict.fromkeys(("seed",), Seed),
    "name": str,
    "runs": Annotated[str, Filled()],
    **dict.fromkeys(("run_dir", "ckpt_path", "out", "from", "key", "optimized_metric"), str | None),
    **dict.fromkeys(("samples", "reference", "cache", "evaluation.cache"), str | None),
    "path": Annotated[str, Filled()],
    "title": str | int | float | None,
    "memory_budget_gb": or_null(Positive),
    **dict.fromkeys((f"budget.{n}_every" for n in ("val", "sample", "log", "save")), Steps),
    "budget.max_steps": Steps,
    **dict.fromkeys(("budget.batch_size", "batch_size", "evaluation.batch_size"), BatchSize),
    "sampling.batch_size": BatchSize,
    **dict.fromkeys(("num_samples", "sampling.num_samples"), Samples),
    "evaluation.num_samples": Samples,
    "evaluation.every": or_null(Steps),
    **dict.fromkeys(("y", "sampling.y"), Labels),
    **dict.fromkeys(("clamp", "sampling.clamp"), or_null(Positive)),
    "weights": Literal["ema", "net"],
    "accelerator": Accelerator,
    "mesh": Literal["ply", "obj", "none"] | None,
    "value_range": Literal["auto", "signed", "unit", "bytes"],
    **dict.fromkeys(("dynamic_batch", "overwrite"), bool),
    "threads": Annotated[int, At(least=1, most=4096)] | Literal["auto", "adapt"],
    "split": Literal["train", "val"],
    "mode": Literal["sample", "train"],
    **dict.fromkeys(("backends", "precisions"), Names),
    "solvers": or_null(Names),
    "num_steps": or_null(Steps),
    "batch_sizes": Annotated[list[BatchSize], Filled()],
    "repeats": Count,
    "bins": or_null(Annotated[int, At(least=1, most=10_000)]),
    "k": Annotated[int | float, At(above=0)],
    "score": Literal["exact", "last_layer", "proxy"],
    "relative_error": Positive,
    "min_batches": Annotated[int, At(least=2)],
    "max_batches": Count,
    "num": Samples,
    "columns": or_null(Count),
    "size": Annotated[int, At(least=1, most=8192)],
    "azimuth": float,
    "elevation": Annotated[float, At(least=-90, most=90)],
    "page": bool,
}
# what one verb takes differently
OF_VERB: dict[str, dict[str, Any]] = {
    "sample": {"from": Annotated[str, Filled()]},
    "export": {"from": Annotated[str, Filled()]},
    "importance": {"out": Annotated[str, Filled()]},
    "data": {"out": Annotated[str, Filled()], "num": or_null(Samples)},
    "report": {
        "runs": Annotated[str | list[Annotated[str, Filled()]], Filled()],
        "out": Annotated[str, Filled()],
    },
}

Beta = Annotated[float, At(least=0, below=1)]
Part = or_null(Annotated[int, At(least=0)], Share)  # batches, or a part of them
Time = Annotated[str, Like(r"\d+:\d\d:\d\d:\d\d", "DD:HH:MM:SS")]
# packages whose signatures are not ours -> their options
FOREIGN: dict[str, dict[str, Any]] = {
    "torch.optim": {
        **dict.fromkeys(("lr", "eps", "weight_decay", "momentum", "rho", "lambd"), NotNegative),
        **dict.fromkeys(("dampening", "lr_decay", "momentum_decay"), NotNegative),
        **dict.fromkeys(("alpha", "beta2_decay"), float),
        "betas": tuple[Beta, Beta],
    },
    "lightning.pytorch": {
        "accelerator": Accelerator,
        "devices": Annotated[int | str | list[Annotated[int, At(least=0)]], Filled()],
        "num_nodes": Count,
        "strategy": str,
        "max_steps": Steps,
        "max_epochs": or_null(Annotated[int, At(least=-1)]),
        "max_time": or_null(Time, dict[str, int]),
        **dict.fromkeys(("limit_train_batches", "limit_val_batches"), Part),
        "check_val_every_n_epoch": or_null(Count),
        "num_sanity_val_steps": or_null(Annotated[int, At(least=-1)]),
        "log_every_n_steps": Steps,
        "accumulate_grad_batches": Annotated[int, At(least=1, most=10**6)],
        "gradient_clip_val": or_null(NotNegative),
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "deterministic": bool | Literal["warn"] | None,
        **dict.fromkeys(("benchmark", "enable_progress_bar", "enable_model_summary"), bool | None),
        "enable_checkpointing": bool | None,
        **dict.fromkeys(("use_distributed_sampler", "inference_mode", "detect_anomaly"), bool),
        "sync_batchnorm": bool,
        **dict.fromkeys(("min_steps", "min_epochs"), or_null(Count)),
    },
}
COMPLETE = ("lightning.pytorch.Trainer",)  # takes no other options than those above
INSTEAD = {  # options of these that ddiff decides: what to say
    "val_check_interval": "budget.val_every=",
    "precision": "precision=bf16 and the like, outside trainer",
    "fast_dev_run": "trainer=smoke",
    "overfit_batches": "trainer.limit_train_batches=",
    "profiler": "profiler=simple, outside trainer",
    **dict.fromkeys(("logger", "callbacks", "plugins"), "nothing: ddiff has its own"),
    "default_root_dir": "run_dir=",
}
