"""The rates of a device, as `bench.worker.rate_meter` measures them and machine profiles store them. No torch.

Every rate is the best of several attempts, because any disturbance slows one down; a step's time is a median. What was
not measured is None or an empty tuple.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from bench.errors import BadInputError

MAX_THREAD_COUNTS: Final = 6
"""Each takes a process and several seconds; more points would not make the curve easier to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Something measured of a device: all of its numbers are above zero."""

    def __post_init__(self) -> None:
        """Check that all numbers are above zero."""
        for value in (getattr(self, field.name) for field in fields(self)):
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise BadInputError(f"a rate, size or time of a device must be above zero, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRate(_Measured):
    """FLOP/s of the three products of a layer of 784 inputs and `width` outputs, in a training step of `batch_size`.

    The three are outputs, gradient of the weights and error of the inputs, 2 · 784 · width · batch size FLOPs each,
    timed together, without bias, ReLU or copies. A first layer never computes the error of its inputs; deeper ones do.
    """

    width: int
    batch_size: int
    flops_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(_Measured):
    """Bytes per second at which float32 arrays of `array_bytes` each are moved within the device's memory.

    Like STREAM, copy (a = b) counts two arrays and triad (a = b + s · c) three; reading memory that is about to be
    overwritten (write-allocate) is additional traffic that is not counted.
    """

    array_bytes: int
    copy_bytes_per_second: float
    triad_bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRate(_Measured):
    """Bytes per second between the host's memory and the device's, one way; `pinned` if the host's was page-locked."""

    to_device: bool
    pinned: bool
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime(_Measured):
    """Seconds of one training step of a tiny model with `engine`, the median of several stretches of steps.

    The model has hardly any arithmetic, so this is the overhead: what a step costs however small the model is.
    """

    engine: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePower(_Measured):
    """Mean power of the device while only a sleeping process has it open, from the counter `method`.

    If `watts` is None, `reason` says why, and `method` is empty.
    """

    watts: float | None
    method: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRates(_Measured):
    """The rates of one device at one precision with one number of threads, measured in one process.

    `square_flops_per_second` is the rate of the fastest product of two square matrices (`bench.worker.peak`). Idle
    power, bandwidth and transfers do not depend on the precision and are only measured at fp32. The CPU has no
    transfers.
    """

    precision: str
    threads: int
    square_flops_per_second: float
    layers: tuple[LayerRate, ...] = ()
    bandwidth: Bandwidth | None = None
    steps: tuple[StepTime, ...] = ()
    transfers: tuple[TransferRate, ...] = ()
    idle_power: IdlePower | None = None

    @property
    def highest_flops_per_second(self) -> float:
        """The highest rate among all products."""
        return max([self.square_flops_per_second, *(layer.flops_per_second for layer in self.layers)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRates(_Measured):
    """The CPU's rates with `threads` threads: the fastest fp32 product of square matrices, and the memory's triad."""

    threads: int
    square_flops_per_second: float
    triad_bytes_per_second: float


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return the thread counts to measure on so many usable cores: 1, 2, 4, … and all of them, ascending.

    If these are more than `MAX_THREAD_COUNTS`, that many are chosen evenly, including the first and the last.
    """
    powers = [2**power for power in range(cores.bit_length())]
    counts = [*powers, cores] if powers[-1] < cores else powers
    if len(counts) <= MAX_THREAD_COUNTS:
        return tuple(counts)
    last = MAX_THREAD_COUNTS - 1
    return tuple(counts[round(place * (len(counts) - 1) / last)] for place in range(MAX_THREAD_COUNTS))


def flops_per_second(
    rates: Iterable[DeviceRates], thread_rates: Iterable[ThreadRates], precision: str, threads: int | None
) -> Iterator[float]:
    """Yield every rate of products measured at `precision` with `threads` threads; None means any number.

    `thread_rates` are rates at fp32.
    """
    for each in rates:
        if each.precision == precision and threads in {None, each.threads}:
            yield each.highest_flops_per_second
    for other in thread_rates:
        if precision == "fp32" and threads in {None, other.threads}:
            yield other.square_flops_per_second
