"""The order of files where tests run in a process a core: those that take longest begin first.

A file's tests share runs, so a file stays in one process (`--dist loadfile`).
"""

import pytest

LONGEST = ("test_quality.py", "test_tensorrt.py", "test_gpu_dry.py", "test_resume.py",
           "test_formats.py", "test_bad_inputs.py", "test_study.py", "test_distributed.py",
           "test_budget.py",
           "test_execution.py", "test_sampling.py", "test_sharding.py", "test_engines.py",
           "test_endings.py", "test_prediction.py", "test_experiments.py", "test_continuing.py",
           "test_sweeps.py", "test_wheel.py", "test_timestep_board.py",
           "test_docs.py", "test_recipe.py", "test_refusals.py",
           "test_evaluate.py", "test_any_shape.py", "test_given.py", "test_cuda_compiles.py",
           "test_solver_step.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
