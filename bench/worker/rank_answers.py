"""Merges the answers of a training's ranks into one: times of the slowest, sums of what is counted. Worker only."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from bench.coding import from_json, to_json
from bench.protocol.messages import Finished, Prepared, Trained
from bench.records import Contention, Energy, Exchange, Peak
from bench.worker.conditions import worst

N = TypeVar("N", int, float)


def merge_answers(request: str, answers: Sequence[Any], hosts: Sequence[int]) -> Any:  # noqa: ANN401 - JSON values
    """Return the combined answer of all ranks to `request`, as a JSON value.

    Args:
        request: ``prepare``, ``train``, ``evaluate`` or ``finish``.
        answers: each rank's answer, as JSON values; only the first counts for ``evaluate``.
        hosts: each rank's host number, the same for ranks on the same machine.
    """
    if request == "prepare":
        return to_json(_merge_prepared([from_json(Prepared, answer) for answer in answers]))
    if request == "train":
        return to_json(_merge_trained([from_json(Trained, answer) for answer in answers], hosts))
    if request == "finish":
        return to_json(_merge_finished([from_json(Finished, answer) for answer in answers], hosts))
    return answers[0]


_SLOWEST: Final = ("step_seconds", "preparation_seconds", "cold_start_seconds", "warm_up_seconds")


def _merge_prepared(answers: Sequence[Prepared]) -> Prepared:
    slowest = {name: max(getattr(answer, name) for answer in answers) for name in _SLOWEST}
    baseline = _total(answer.host_baseline_bytes for answer in answers)
    return dataclasses.replace(answers[0], **slowest, host_baseline_bytes=baseline)


def _merge_trained(answers: Sequence[Trained], hosts: Sequence[int]) -> Trained:
    samples = sum(answer.train_samples for answer in answers)
    loss = math.fsum(answer.train_loss * answer.train_samples for answer in answers) / samples
    return Trained(
        train_seconds=max(answer.train_seconds for answer in answers),
        train_samples=samples,
        train_loss=loss,
        train_correct=_total(answer.train_correct for answer in answers),
        yardstick_seconds=max(answer.yardstick_seconds for answer in answers),
        contention=_merge_contention([answer.contention for answer in answers], hosts),
        device_conditions=worst(answer.device_conditions for answer in answers),
    )


def _merge_contention(each: Sequence[Contention], hosts: Sequence[int]) -> Contention:
    """Return the contention of all ranks. A rank counts the others on its host as other programs; here they are not."""
    firsts = [each[hosts.index(host)] for host in sorted(set(hosts))]
    own = math.fsum(rank.process_cpu_seconds for rank in each)
    busy = _total(
        None if first.other_cpu_seconds is None else first.other_cpu_seconds + first.process_cpu_seconds
        for first in firsts
    )
    return Contention(
        process_cpu_seconds=own,
        other_cpu_seconds=None if busy is None else max(0.0, busy - own),
        steal_seconds=_total(first.steal_seconds for first in firsts),
        involuntary_switches=_total(rank.involuntary_switches for rank in each),
        pressure_stall_seconds=_highest(rank.pressure_stall_seconds for rank in each),
        throttled_seconds=_highest(rank.throttled_seconds for rank in each),
        load_average=_highest(rank.load_average for rank in each),
    )


def _merge_finished(answers: Sequence[Finished], hosts: Sequence[int]) -> Finished:
    energy, reason = _merge_energy(answers, hosts)
    on_battery = {answer.on_battery for answer in answers} - {None}
    return Finished(
        host_peak=_merge_peaks([answer.host_peak for answer in answers], sum, "sum"),
        device_allocated_peak=_merge_peaks([answer.device_allocated_peak for answer in answers], max, "largest"),
        device_reserved_peak=_merge_peaks([answer.device_reserved_peak for answer in answers], max, "largest"),
        energy=energy,
        energy_reason=reason,
        ranks=tuple(
            dataclasses.replace(record, host=host)
            for host, answer in zip(hosts, answers, strict=True)
            for record in answer.ranks
        ),
        exchange=_merge_exchange([answer.exchange for answer in answers if answer.exchange is not None]),
        on_battery=any(on_battery) if on_battery else None,
    )


def _merge_energy(answers: Sequence[Finished], hosts: Sequence[int]) -> tuple[Energy | None, str]:
    """Return the energy of all devices; a host's processor, which its ranks share, counts only once."""
    devices = [(host, answer.ranks[0].device) for host, answer in zip(hosts, answers, strict=True)]
    once = [answers[devices.index(device)] for device in dict.fromkeys(devices)]
    known = [answer.energy for answer in once if answer.energy is not None]
    if len(known) < len(once):
        return None, next(answer.energy_reason for answer in once if answer.energy is None)
    joules = math.fsum(energy.joules for energy in known)
    return dataclasses.replace(known[0], joules=joules, seconds=max(energy.seconds for energy in known)), ""


def _merge_peaks(peaks: Sequence[Peak | None], combine: Callable[[Iterable[int]], int], how: str) -> Peak | None:
    known = [peak for peak in peaks if peak is not None]
    if len(known) < len(peaks):
        return None
    method = f"{known[0].method}, {how} of {len(known)} ranks"
    return Peak(bytes=combine(peak.bytes for peak in known), method=method)


def _merge_exchange(each: Sequence[Exchange]) -> Exchange | None:
    if not each:
        return None
    return Exchange(
        steps=each[0].steps,
        together_seconds=tuple(map(max, zip(*(one.together_seconds for one in each), strict=True))),
        apart_seconds=tuple(map(max, zip(*(one.apart_seconds for one in each), strict=True))),
    )


def _total(values: Iterable[N | None]) -> N | None:
    """Return the sum; None where one is unknown."""
    every = list(values)
    known = [value for value in every if value is not None]
    return sum(known[1:], known[0]) if len(known) == len(every) else None


def _highest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)
