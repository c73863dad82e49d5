"""Nets of diffusers and MONAI: their folders, options and names of tensors, in ddiff's terms."""
