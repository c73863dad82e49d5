"""Training: a run, its modules, callbacks, optimisers."""
