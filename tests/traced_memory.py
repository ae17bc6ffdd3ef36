"""How much memory a piece of code has Python allocate."""

import tracemalloc
from collections.abc import Callable
from typing import Final

_ATTEMPTS: Final = 3


def peak_bytes(action: Callable[[], object]) -> int:
    """Return the most memory that `action` holds at once, beyond what was held before it.

    tracemalloc counts what the whole process allocates: other threads, too, whatever the garbage collector has cleaned
    up just then, and everything since the first start, if something else has been tracing. So the memory is measured
    from where it stands, several times; what `action` itself allocates is in every one of them.
    """
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        return min(_peak_bytes(action) for _ in range(_ATTEMPTS))
    finally:
        if not was_tracing:
            tracemalloc.stop()


def _peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    action()
    return tracemalloc.get_traced_memory()[1] - before
