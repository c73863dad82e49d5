from ddiff.backends.compiled import Compiled
from ddiff.backends.eager import Eager

__all__ = ["Compiled", "Eager"]
