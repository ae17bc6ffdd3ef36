"""The self-test on one device: the list of its checks, and how they are run. Worker only."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.protocol.soundness import Check, Checked, Outcome
from bench.worker import meter_checks, training_checks
from bench.worker.devices import Device
from bench.worker.examination import Conversation, Examination, Finding, Parts
from mnist_mlp import data

EXAMINATIONS: Final = (
    Examination(
        name="host memory",
        rule="touching 64 MiB raises the host's peak by 64 MiB, to 10 %",
        examine=meter_checks.examine_host_memory,
    ),
    Examination(
        name="device memory",
        rule="64 MiB raise the allocated peak by 64 to 66 MiB; reserved is at least allocated",
        examine=meter_checks.examine_device_memory,
    ),
    Examination(
        name="float32 is float32",
        rule="TF32 reads back as off, and a product keeps all 24 bits of random values",
        examine=training_checks.examine_precision,
    ),
    Examination(
        name="products at 1x and 2x",
        rule="twice the products take 1.8 to 2.2 times as long; two clocks agree to 10 %",
        examine=meter_checks.examine_products,
        attempts=3,
    ),
    Examination(
        name="training steps at 1x and 2x",
        rule="a trial times twice the steps as 1.7 to 2.2 times as long",
        examine=meter_checks.examine_stretches,
        attempts=3,
    ),
    Examination(
        name="waiting for the device",
        rule="launching work takes at most half as long as launching it and waiting for it",
        examine=meter_checks.examine_synchronisation,
        attempts=3,
    ),
    Examination(
        name="CPU time",
        rule="0.3 s of CPU time of this process count as 0.27 to 0.36 s, and 0.05 s of sleep as at most 0.025 s",
        examine=meter_checks.examine_cpu_time,
        attempts=3,
    ),
    Examination(
        name="CPU time of others",
        rule="0.3 s of CPU time of another process count as at least 0.15 s more than an idle moment",
        examine=meter_checks.examine_contention,
        attempts=3,
    ),
    Examination(
        name="losses against float64",
        rule="losses of each engine's first 8 steps of Adam and SGD agree with float64 to 3.3e-6, relatively",
        examine=training_checks.examine_first_losses,
    ),
    Examination(
        name="warm-up leaves no trace",
        rule="a warmed-up trial's losses are a plain training's: bit for bit on the CPU, else to 3.3e-6",
        examine=training_checks.examine_warm_up,
    ),
    Examination(
        name="both pipelines' batches",
        rule="the same losses from either pipeline: bit for bit on the CPU, else to 3.3e-6",
        examine=training_checks.examine_pipelines,
    ),
    Examination(
        name="scores of a known model",
        rule="a model that always says one class scores exactly that class's share of the test set",
        examine=training_checks.examine_scores,
    ),
)


def check_parts(parts: Parts, examinations: Sequence[Examination] = EXAMINATIONS) -> Checked:
    """Make every examination of `parts`, whatever the outcome of the others."""
    return Checked(checks=tuple(check_one(parts, examination) for examination in examinations))


def check_one(parts: Parts, examination: Examination) -> Check:
    """Make one examination, again if it fails and may be repeated; an exception in it counts as a failure."""
    for _ in range(examination.attempts):
        finding = _examine(parts, examination)
        if finding.outcome is not Outcome.FAIL:
            break
    return Check(
        name=examination.name,
        device=parts.device.name,
        outcome=finding.outcome,
        measured=finding.measured,
        rule=examination.rule,
    )


def _examine(parts: Parts, examination: Examination) -> Finding:
    try:
        return examination.examine(parts)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong fails this check, and the others go on
        return Finding(Outcome.FAIL, f"{type(error).__name__}: {error}".splitlines()[0][:300])


def check_device(
    device: str, threads: int, dataset: str, root: Path | None, make_session: Callable[[], Conversation]
) -> Checked:
    """Make every examination on the device called `device`, with the parts that trials use."""
    return check_parts(
        Parts(
            device=Device(device),
            threads=threads,
            dataset=data.load(dataset, root),
            root=root,
            make_session=make_session,
        )
    )
