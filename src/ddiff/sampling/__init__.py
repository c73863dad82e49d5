"""Sampling from a trained net."""
