"""The order of files where tests run in a process a core: those that take longest begin first.

A file's tests share runs, so a file stays in one process (`--dist loadfile`).
"""

import pytest

LONGEST = ("test_quality.py", "test_resume.py", "test_bad_inputs.py", "test_prediction.py",
           "test_formats.py", "test_tensorrt.py", "test_continuing.py", "test_experiments.py",
           "test_cuda_compiles.py", "test_sampling.py", "test_wheel.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
