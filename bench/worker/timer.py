"""The one way in which work on a device is timed. Worker only."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timer:
    """Times work on the device that `synchronise` waits for.

    Accelerators work asynchronously: a call returns once its work is queued. So the clock starts when the device is
    idle and stops when it is idle again.
    """

    synchronise: Callable[[], None]
    clock: Callable[[], float] = time.perf_counter

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do `work`; return its result and the seconds it took."""
        self.synchronise()
        start = self.clock()
        result = work()
        self.synchronise()
        return result, self.clock() - start

    def seconds(self, work: Callable[[], object]) -> float:
        """Do `work`; return the seconds it took."""
        return self.run(work)[1]
