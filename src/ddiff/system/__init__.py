"""Errors, files, devices, random numbers: modules that need no other room."""
