"""Timestep samplers: the timesteps to train on, and the weights of their losses."""

from ddiff.diffusion.timesteps.base import TimestepSampler, effective_sample_size
from ddiff.diffusion.timesteps.fixed import All, LogitNormal, LogNormal, Stratified, Uniform
from ddiff.diffusion.timesteps.importance import LossSecondMoment, StratifiedImportance
from ddiff.diffusion.timesteps.speed import Speed, SpeedReleased
from ddiff.diffusion.timesteps.topk import OnlineTopK, PrecomputedTopK
from ddiff.diffusion.timesteps.uncertainty import Uncertainty

__all__ = [
    "All",
    "LogNormal",
    "LogitNormal",
    "LossSecondMoment",
    "OnlineTopK",
    "PrecomputedTopK",
    "Speed",
    "SpeedReleased",
    "Stratified",
    "StratifiedImportance",
    "TimestepSampler",
    "Uncertainty",
    "Uniform",
    "effective_sample_size",
]
