"""The raw values of a configuration's summary, in SI base units: what tables export, sort by and filter by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from bench.coding import member_hints
from bench.planning.dimensions import DIMENSIONS, IDENTITY, dimension_header, varying_members
from bench.records import Configuration
from bench.storage.table import Value
from bench.tables.summary import Sample, Summary
from mnist_mlp.recipes import layers_text

Unit: TypeAlias = Literal["", "s", "B", "/s", "FLOP/s", "fraction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One raw value of a configuration's summary. `numeric` values can be compared by size."""

    key: str
    header: str
    unit: Unit
    numeric: bool
    value: Callable[[Summary], Value]


_NUMBERS: Final = {"width", *(name for name, kind in member_hints(Configuration).items() if kind in {int, float})}
"""The dimensions that are numbers."""


def _configuration_field(key: str) -> Field:
    get = attrgetter(f"configuration.{key}")
    value = (lambda summary: layers_text(get(summary))) if key == "layers" else get
    return Field(key=key, header=dimension_header(key), unit="", numeric=key in _NUMBERS, value=value)


QUANTITIES: Final[Mapping[str, tuple[str, Unit]]] = MappingProxyType(
    {
        "epoch_seconds": ("epoch time", "s"),
        "training_seconds": ("training time", "s"),
        "throughput_per_second": ("train samples", "/s"),
        "training_flops_per_second": ("arithmetic", "FLOP/s"),
        "flops_utilisation": ("of measured peak", "fraction"),
        "cold_start_seconds": ("cold start", "s"),
        "host_peak_bytes": ("host peak", "B"),
        "device_allocated_peak_bytes": ("allocated peak", "B"),
        "device_reserved_peak_bytes": ("reserved peak", "B"),
        "joules_per_epoch": ("J per epoch", ""),
        "samples_per_joule": ("train samples per J", ""),
        "train_loss": ("train loss", ""),
        "train_accuracy": ("train accuracy", "fraction"),
        "test_accuracy": ("test accuracy", "fraction"),
        "test_loss": ("test loss", ""),
        "seconds_to_97_percent": ("time to 97 %", "s"),
        "seconds_to_98_percent": ("time to 98 %", "s"),
        "strong_efficiency": ("strong efficiency", "fraction"),
        "weak_efficiency": ("weak efficiency", "fraction"),
        "exchange_share": ("exchange share", "fraction"),
    }
)
"""Every quantity of a `Summary` that has a `Sample` → header and unit."""

STATISTICS: Final = ("median", "low", "high", "n", "mean", "standard_deviation")


def _statistic(quantity: str, statistic: str) -> Callable[[Summary], Value]:
    def value(summary: Summary) -> Value:
        sample: Sample | None = getattr(summary, quantity)
        number: Value = None if sample is None else getattr(sample, statistic)
        return number

    return value


def _quantity_fields(quantity: str) -> tuple[Field, ...]:
    header, unit = QUANTITIES[quantity]
    return tuple(
        Field(
            key=f"{quantity}_{statistic}",
            header=f"{header} {statistic.replace('_', ' ')}",
            unit="" if statistic == "n" else unit,
            numeric=True,
            value=_statistic(quantity, statistic),
        )
        for statistic in STATISTICS
    )


def _peak_memory(summary: Summary) -> Value:
    """Return the peak that limits the configuration: host memory on the CPU, else the device memory of tensors."""
    on_host = summary.configuration.device == "cpu"
    sample = summary.host_peak_bytes if on_host else summary.device_allocated_peak_bytes
    return None if sample is None else sample.median


def _field(
    key: str, header: str, unit: Unit = "", *, numeric: bool = True, value: Callable[[Summary], Value] | None = None
) -> Field:
    """Return a field of the summary's member `key`, or of what `value` computes."""
    return Field(key=key, header=header, unit=unit, numeric=numeric, value=value or attrgetter(key))


_COUNT_FIELDS: Final = (
    _field("n", "n"),
    _field("failures", "failures", value=lambda summary: len(summary.failures)),
    _field("flagged", "flagged"),
)

_LAST_FIELDS: Final = (
    _field("unflagged_epoch_seconds", "unflagged epoch time", "s"),
    _field("flops_per_byte", "FLOPs per byte"),
    _field("memory_floor_bytes", "memory floor", "B"),
    _field("peak_memory_bytes", "peak memory", "B", value=_peak_memory),
    _field(
        "failure_kinds",
        "failure kinds",
        numeric=False,
        value=lambda summary: " ".join(sorted({failure.kind for failure in summary.failures})),
    ),
    _field("warnings", "warnings", numeric=False, value=lambda summary: " ".join(summary.warnings)),
    _field("configuration_id", "configuration id", numeric=False, value=attrgetter("configuration.id")),
    _field("machine_id", "machine", numeric=False),
)

FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        field.key: field
        for field in (
            *map(_configuration_field, (*IDENTITY, *DIMENSIONS)),
            *_COUNT_FIELDS,
            *(field for quantity in QUANTITIES for field in _quantity_fields(quantity)),
            *_LAST_FIELDS,
        )
    }
)
"""Every raw field by its key, in the order of exports."""


def hidden_dimensions(summaries: Sequence[Summary], shown: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of the dimensions, not among `shown`, in which `summaries` differ and that no column shows."""
    found = set(varying_members([summary.configuration for summary in summaries]))
    if len({summary.machine_id for summary in summaries}) > 1:
        found.add("machine_id")
    return tuple(key for key in (*IDENTITY, "machine_id", *DIMENSIONS) if key in found and key not in shown)
