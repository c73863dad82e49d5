"""Nets: (x [B, C, *S], t [B], y [B] or None) -> [B, C, *S]; t is 0-based, y = -1 is "no label"."""

from ddiff.nets.autoencoder import Autoencoder
from ddiff.nets.baselines import Plain3d, RawTime2d, Simple2d, Untimed3d
from ddiff.nets.classifier import Reader
from ddiff.nets.dit import DiT
from ddiff.nets.embedding import LogSNR, Sinusoidal
from ddiff.nets.unet import UNet

__all__ = ["Autoencoder", "DiT", "LogSNR", "Plain3d", "RawTime2d", "Reader", "Simple2d",
           "Sinusoidal", "UNet", "Untimed3d"]  # fmt: skip
