"""Shows a calibration, for people and for programs: how finely the machine measures, and what its devices can do."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.calibration.calibrate import Calibrated
from bench.calibration.profiles import MIN_SESSIONS, DeviceFigures
from bench.protocol.rates import DeviceRates
from bench.stats.judgement_text import effect_text
from bench.tables.layout import text_table, wrap
from bench.units import format_bytes, format_count, format_flops, format_seconds

_WIDTH: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The printed figures of a calibration, for programs."""

    machine_id: str
    created_at: str
    devices: tuple[DeviceFigures, ...]


def report(calibrated: Calibrated) -> Report:
    """Return the figures of the devices that were calibrated."""
    figures = (calibrated.profile.figures(device) for device in calibrated.devices)
    return Report(
        machine_id=calibrated.profile.machine.id,
        created_at=calibrated.profile.sessions[-1].created_at,
        devices=tuple(each for each in figures if each is not None),
    )


def render(calibrated: Calibrated) -> str:
    """Return the figures as tables of at most 80 columns, with a legend and what is still unknown."""
    figures = report(calibrated).devices
    rows = [
        (
            each.device,
            "-" if each.ab_floor is None else effect_text(each.ab_floor),
            str(each.pairs),
            _percent(each.pair_deviation),
            _points(each.accuracy_deviation),
            str(each.seeds),
            format_seconds(each.epoch_seconds),
            _percent(each.epoch_deviation),
            _percent(each.drift_deviation),
            format_seconds(each.yardstick_seconds),
        )
        for each in figures
    ]
    table = text_table(_HEADERS, rows, [header != "device" for header in _HEADERS])
    notes = (*map(_peak_note, figures), *map(_drift_note, figures), *_idle_notes(figures))
    parts = ["\n".join((table, "", *_LEGEND, *notes))]
    for each in figures:
        parts += [
            draw(each) for draw, known in ((_rates_table, each.rates), (_threads_table, each.thread_rates)) if known
        ]
    if len(parts) > 1:
        parts.append("\n".join(_RATES_LEGEND))
    return "\n\n".join(parts)


_HEADERS: Final = (
    "device",
    "A/A floor",
    "pairs",
    "pairs SD",
    "accuracy SD",
    "seeds",
    "epoch",
    "epoch SD",
    "drift SD",
    "yardstick",
)

_LEGEND: Final = (
    "A/A floor: largest systematic difference between identical arms that is still",
    "  credible: |mean| + t(95 %) SE of the log ratios of the process pairs",
    "pairs SD: of one such pair; accuracy SD: of final test accuracy, over the seeds",
    "epoch: median of this session's trials; drift SD: of the sessions' medians",
    "pairs, epoch, drift SD: of natural logarithms, 0.01 shown as 1 %",
    "peak: fastest float32 products of all sessions with this torch, CUDA and BLAS;",
    "  utilisation and the account of taxes are relative to it",
)

_RATES_LEGEND: Final = (
    "square products: the fastest of two n x n matrices; 784 to W, batch B: the three",
    "  products of such a layer in a training step; both the best of several tries",
    "  in one process of this session",
    "copy, triad: of memory, best of several tries; copy counts 2 arrays, triad",
    "  (a = b + s c) 3; reading lines before they are overwritten does not count",
    "step: of 784-16-10 at batch size 8, nearly all overhead; median of stretches",
)


def _rates_table(figures: DeviceFigures) -> str:
    """Return a table of all rates of a device, with a column for each precision."""
    columns = [dict(_rate_cells(rates)) for rates in figures.rates]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [(label, *(column.get(label, "-") for column in columns)) for label in labels]
    headers = (
        f"{figures.device}, {format_count(figures.threads, 'thread')}",
        *(rates.precision for rates in figures.rates),
    )
    return text_table(headers, rows, [False, *[True] * len(columns)])


def _rate_cells(rates: DeviceRates) -> Iterator[tuple[str, str]]:
    """Yield each rate with its label."""
    yield "square products", _flops(rates.square_flops_per_second)
    for layer in rates.layers:
        yield f"784 to {layer.width}, batch {layer.batch_size}", _flops(layer.flops_per_second)
    if rates.bandwidth is not None:
        yield "copy", _bytes(rates.bandwidth.copy_bytes_per_second)
        yield "triad", _bytes(rates.bandwidth.triad_bytes_per_second)
    for step in rates.steps:
        yield f"step, {step.engine}", format_seconds(step.seconds)
    for transfer in rates.transfers:
        way, memory = "to" if transfer.to_device else "from", "pinned" if transfer.pinned else "pageable"
        yield f"{way} device, {memory}", _bytes(transfer.bytes_per_second)
    if rates.idle_power is not None and rates.idle_power.watts is not None:
        yield "idle power", f"{rates.idle_power.watts:.3g} W"


def _threads_table(figures: DeviceFigures) -> str:
    """Return a table of the rates of each number of threads, also relative to the first."""
    first = figures.thread_rates[0]
    rows = [
        (
            str(each.threads),
            _flops(each.square_flops_per_second),
            f"{each.square_flops_per_second / first.square_flops_per_second:.2f} x",
            _bytes(each.triad_bytes_per_second),
            f"{each.triad_bytes_per_second / first.triad_bytes_per_second:.2f} x",
        )
        for each in figures.thread_rates
    ]
    headers = (f"{figures.device}, threads", "square products", "of one", "triad", "of one")
    return text_table(headers, rows, [True] * len(headers))


def _flops(per_second: float) -> str:
    return f"{format_flops(per_second)}/s"


def _bytes(per_second: float) -> str:
    return f"{format_bytes(per_second)}/s"


def _peak_note(figures: DeviceFigures) -> str:
    peak = figures.peak_flops_per_second
    rate = "unknown" if peak is None else _flops(peak)
    return f"{figures.device}: peak {rate}"


def _drift_note(figures: DeviceFigures) -> str:
    if figures.drift_deviation is None:
        return (
            f"{figures.device}: drift needs {MIN_SESSIONS} sessions, {figures.sessions} so far: "
            "calibrate again on other days"
        )
    return f"{figures.device}: drift over {figures.sessions} sessions; it covers only the days that were measured"


def _idle_notes(figures: Iterable[DeviceFigures]) -> Iterator[str]:
    """Yield why the idle power of each device is unknown, or how it was measured."""
    for each in figures:
        for idle in (rates.idle_power for rates in each.rates if rates.idle_power is not None):
            what = f"idle power unknown: {idle.reason}" if idle.watts is None else f"idle power by {idle.method}"
            yield wrap([f"{each.device}: {what}"], _WIDTH)


def _percent(log_deviation: float | None) -> str:
    """Return a standard deviation of logarithms, which is about a relative one, as ``2.1 %``."""
    return "-" if log_deviation is None else f"{100 * log_deviation:.1f} %"


def _points(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} pp"
