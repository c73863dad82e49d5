"""Where tests run when there is a process a core: a file's together, for the runs they share."""

import pytest

ALONE = "test_resume.py"  # its trainings share nothing, and take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name != ALONE:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
