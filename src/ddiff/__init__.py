"""ddiff: a laboratory for efficient diffusion models."""

__version__ = "0.1.0"
