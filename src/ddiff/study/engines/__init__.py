"""Engines: where the jobs of a study, or the shards of `sample` and `evaluate`, run."""

from ddiff.study.engines.base import Ended, Engine, Job, run_all
from ddiff.study.engines.local import Local
from ddiff.study.engines.ray import Ray
from ddiff.study.engines.slurm import Slurm

__all__ = ["Ended", "Engine", "Job", "Local", "Ray", "Slurm", "run_all"]
