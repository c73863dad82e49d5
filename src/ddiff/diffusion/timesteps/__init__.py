from ddiff.diffusion.timesteps.base import TimestepSampler
from ddiff.diffusion.timesteps.fixed import LogitNormal, Stratified, Uniform

__all__ = ["LogitNormal", "Stratified", "TimestepSampler", "Uniform"]
