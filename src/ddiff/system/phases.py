"""Names for what the code is doing, for profilers.

Without a profiler, a mark costs a tenth of a microsecond.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

STEP = "step"


class Listener(Protocol):
    def enter(self, name: str) -> None: ...

    def leave(self) -> None: ...


class Mark(Protocol):
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class _Silent:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class _Heard:
    __slots__ = ("listener", "name")

    def __init__(self, listener: Listener, name: str) -> None:
        self.listener, self.name = listener, name

    def __enter__(self) -> None:
        self.listener.enter(self.name)

    def __exit__(self, *error: object) -> None:
        self.listener.leave()


_SILENT = _Silent()
_listener: Listener | None = None


def phase(name: str) -> Mark:
    """`with phase("forward"): ...` says what the time inside is spent on; the innermost counts."""
    return _SILENT if _listener is None else _Heard(_listener, name)


def step() -> Mark:
    """One step of sampling; those of training are told by Lightning's loop."""
    return phase(STEP)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Marks are heard inside."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
