"""Convolution with a kernel of 3 by fewer multiplications, on the CPU."""

from .convolution import conv, trained_conv, trains
from .filters import pack, pays

__all__ = ["conv", "pack", "pays", "trained_conv", "trains"]
