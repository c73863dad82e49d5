"""What the rest stands on: errors, files, devices, random numbers."""
