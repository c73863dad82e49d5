"""The options of every verb, with their types and bounds: a class each.

What an option means stands beside it in conf/<verb>.yaml. Options of a choice (`net.channels`)
belong to the signature of what is chosen; those of torch's optimisers and Lightning's Trainer are
at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_type_hints

from omegaconf import OmegaConf

from ddiff.system.bounds import (
    At,
    AverageLength,
    Count,
    Filled,
    Like,
    NotNegative,
    Positive,
    Seed,
    Share,
)


def or_null(*hints: Any) -> Any:
    """The union of types and null: Python's own `|`, on what a type checker takes for values."""
    return Union[(*hints, None)]


T = TypeVar("T")
Steps = Annotated[int, At(least=1, most=10**9)]
BatchSize = Annotated[int, At(least=1, most=10**6)]
Samples = Annotated[int, At(least=1, most=10**9)]
Shape = Annotated[list[Count], Filled()]  # [C, *S] of a sample
Label = Annotated[int, At(least=0)]
Labels = Literal["auto", "each", "none"] | Label | list[Label] | Mapping[str, Any] | None
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Names = Annotated[list[str], Filled()]

Place = Annotated[str, Filled()]  # of a file, a folder or a run
Clamp = Positive | None
Weights = Literal["ema", "net"] | AverageLength
Values = Literal["auto", "signed", "unit", "bytes"]
VolumeFormat = Literal["npy", "nii", "nii.gz", "tif", "nrrd", "mha"]
Threads = Annotated[int, At(least=1, most=4096)] | Literal["auto", "adapt"]
# A group: what is chosen, as a mapping with _target_. It is checked against what it names.
Group = Annotated[Any, "group"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    max_steps: Steps
    batch_size: BatchSize
    val_every: Steps
    sample_every: Steps
    log_every: Steps
    save_every: Steps
    pause_at: Steps | None


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """The samples that a training draws to be looked at."""

    num_samples: Samples
    batch_size: BatchSize
    y: Labels
    clamp: Clamp


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The samples that a training draws to be measured."""

    every: Steps | None
    num_samples: Samples
    batch_size: BatchSize
    cache: str | None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Options of a sweep of trainings."""

    skip_finished: bool


@dataclass(frozen=True, kw_only=True)
class Train:
    """Options of ddiff.train. `conf/train.yaml` says what each means."""

    data: Group
    net: Group
    schedule: Group
    objective: Group
    timesteps: Group
    optimizer: Group
    lr_schedule: Group
    module: Group
    precision: Group
    backend: Group
    profiler: Group
    solver: Group
    guidance: Group
    extractor: Group
    metrics: Group
    logger: Group
    callbacks: Group
    trainer: Group
    name: str
    seed: Seed
    runs: Place
    run_dir: str | None
    ckpt_path: str | None
    init: Place | None
    optimized_metric: str | None
    threads: Threads
    memory_budget_gb: Positive | None
    budget: Budget
    sampling: Pictured
    evaluation: Evaluation
    sweep: Sweep


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """Options of what samples are made from."""

    from_image: Place | None
    strength: Annotated[float, At(above=0, most=1)] | None
    inpaint: Place | None
    upscale: Annotated[int, At(least=1, most=64)]
    slices: Annotated[int, At(least=1, most=64)]
    jumps: Annotated[int, At(least=0, most=1000)]
    posterior: Annotated[int, At(least=0, most=1000)]
    known_noise: NotNegative
    versions: Annotated[int, At(least=1, most=10_000)]
    value_range: Values


@dataclass(frozen=True, kw_only=True)
class Draw(MadeFrom):
    """Options for drawing samples from a trained net."""

    solver: Group
    guidance: Group
    precision: Group
    backend: Group
    engine: Group
    shape: Shape | None
    num_samples: Samples
    batch_size: BatchSize
    y: Labels
    seed: Seed
    clamp: Clamp
    weights: Weights
    accelerator: Accelerator
    threads: Threads
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Sample(Draw):
    """Options of ddiff.sample."""

    profiler: Group
    run: Place
    first: Annotated[int, At(least=0, most=10**9)]
    y_period: Samples | None
    out: str | None
    picture: bool
    mesh: Literal["ply", "obj", "stl", "none"] | None
    write: VolumeFormat | None


@dataclass(frozen=True, kw_only=True)
class LoaderBatch:
    """The batch size of data that are not trained on."""

    batch_size: BatchSize


@dataclass(frozen=True, kw_only=True)
class Evaluate(Draw):
    """Options of ddiff.evaluate."""

    data: Group
    extractor: Group
    metrics: Group
    run: str | None
    samples: str | None
    reference: str | None
    runs: Place
    cache: str | None
    out: str | None
    budget: LoaderBatch


@dataclass(frozen=True, kw_only=True)
class Export:
    """Options of ddiff.export."""

    format: Group
    precision: Group
    solver: Group
    guidance: Group
    run: Place
    dynamic_batch: bool
    batch_size: BatchSize
    weights: Weights
    accelerator: Accelerator
    out: str | None
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Importance(Train):
    """Options of ddiff.importance."""

    run: str | None
    weights: Weights
    bins: Annotated[int, At(least=1, most=10_000)] | None
    score: Literal["exact", "last_layer", "proxy"]
    relative_error: Positive
    min_batches: Annotated[int, At(least=2)]
    max_batches: Count
    batch_size: BatchSize
    k: Annotated[int | float, At(above=0)]
    out: Place
    overwrite: bool
    accelerator: Accelerator


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of ddiff.plan."""

    solver: Group
    guidance: Group
    run: Place
    num_steps: Steps
    num_samples: Samples
    held_out: Samples
    batch_size: BatchSize
    iterations: Annotated[int, At(least=0, most=10**6)]
    lr: Positive
    y: Labels
    seed: Seed
    clamp: Clamp
    weights: Weights
    accelerator: Accelerator
    threads: Threads
    out: str | None
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Benchmark(Train):
    """Options of ddiff.benchmark."""

    run: str | None
    shape: Shape | None
    weights: Weights
    mode: Literal["sample", "train"]
    backends: Names
    precisions: Names
    solvers: Names | None
    num_steps: Steps | None
    batch_sizes: Annotated[list[BatchSize], Filled()]
    repeats: Count
    accelerator: Accelerator
    out: str | None
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """Options of ddiff.report."""

    runs: Annotated[str | list[Place], Filled()]
    out: Place
    overwrite: bool
    title: str | int | float | None
    num: Samples


@dataclass(frozen=True, kw_only=True)
class View:
    """Options of ddiff.view."""

    path: Place
    out: str | None
    overwrite: bool
    num: Samples
    columns: Count | None
    size: Annotated[int, At(least=1, most=8192)]
    azimuth: float
    elevation: Annotated[float, At(least=-90, most=90)]
    page: bool
    value_range: Values
    key: str | None


@dataclass(frozen=True, kw_only=True)
class Data:
    """Options of ddiff.data."""

    data: Group
    out: Place | None
    check: bool
    num: Samples | None
    split: Literal["train", "val"]
    seed: Seed
    budget: LoaderBatch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of ddiff.recipe."""

    data: Group
    budget: Annotated[str, Like(r"[\d.]+(s|min|h)", "60s, 5min or 2h")]
    memory: Annotated[str, Like(r"\d+(\.\d+)?(MB|GB)", "500MB or 4GB")] | None
    accelerator: Accelerator
    threads: Threads
    seed: Seed
    name: Annotated[str, Like(r"[\w-]+", "my_photos")] | None
    out: Place | None
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Race:
    """Rungs of a race: parts of the budget at which a share of the variants goes on."""

    rungs: Annotated[list[Annotated[float, At(above=0, below=1)]], Filled()]
    share: Annotated[float, At(above=0, below=1)]
    keep: list[str]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Options of ddiff.study."""

    engine: Group
    base: str | list[str] | None
    vary: Any
    seeds: Count | Annotated[list[Seed], Filled()]
    equal: Literal["time", "steps", "samples", "evaluations"]
    budget: str | int | float
    measure: list[str]
    decide: Place
    better: Literal["auto", "lower", "higher"]
    num_samples: Samples
    confidence: Annotated[float, At(above=0, below=1)]
    race: Any
    trained: Place | None
    out: str | None
    publish: Place | None
    retry: bool
    do: Literal["run", "plan", "report"]


VERBS = {
    options.__name__.lower(): options
    for options in (
        Train,
        Sample,
        Evaluate,
        Export,
        Importance,
        Plan,
        Benchmark,
        Report,
        View,
        Data,
        Study,
        Recipe,
    )
}


def hints_of(options: type) -> dict[str, Any]:
    """Every option by its dotted name, and its type: {"budget.max_steps": Steps, ...}."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(options, include_extras=True).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found |= {f"{name}.{inner}": one for inner, one in hints_of(hint).items()}
        else:
            found[name] = hint
    return found


def own_options(options: type) -> tuple[str, ...]:
    """The names of a verb's options that ddiff.train has not."""
    trained = {field.name for field in fields(Train)}
    return tuple(field.name for field in fields(options) if field.name not in trained)


def typed(options: type[T], cfg: Mapping[str, Any]) -> T:
    """The checked config of a verb as its class. What it does not hold is None: a group that is
    not chosen, an option that an older run did not have."""
    values: dict[str, Any] = {name: cfg.get(name) for name in get_type_hints(options)}
    for name, hint in get_type_hints(options).items():
        if isinstance(hint, type) and is_dataclass(hint):
            values[name] = typed(hint, values[name] or {})
    return options(**values)


def tree_of(options: Any) -> dict[str, Any]:
    """The options as a tree of plain values, as they are stored. What `typed` did not find in a
    config is left out again."""
    hints = get_type_hints(type(options), include_extras=True)
    values = {name: getattr(options, name) for name in hints}
    return {
        name: _plain(value)
        for name, value in values.items()
        if value is not None or type(None) in get_args(hints[name])
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return tree_of(value)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


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
    "fast_dev_run": "debug=smoke",
    "overfit_batches": "trainer.limit_train_batches=",
    "profiler": "profiler=simple, outside trainer",
    **dict.fromkeys(("logger", "callbacks"), "logger= and callbacks=, outside trainer"),
    "plugins": "nothing: ddiff has its own",
    "default_root_dir": "run_dir=",
}
