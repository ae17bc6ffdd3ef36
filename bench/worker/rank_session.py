"""The session of one rank: what it does differently from a trial that trains alone. Worker only."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

import bench
import mnist_mlp
from bench.planning.estimate import EXCHANGE_BLOCKS, EXCHANGE_SECONDS
from bench.protocol.messages import Evaluated, Finished, Prepared, Trained
from bench.records import Exchange, FailureKind, RankRecord, Trial
from bench.worker.fingerprint import describe_machine
from bench.worker.rank_group import Group
from bench.worker.session import Session, TrialError

EXCHANGE_ORDER: Final = (True, False, False, True) * (EXCHANGE_BLOCKS // 4)
"""Blocks with the exchange of gradients (true) and without, ordered so that slow drift affects both alike."""


class RankSession(Session):
    """The session of one rank."""

    def __init__(self, group: Group) -> None:
        """Take part in `group`."""
        super().__init__()
        self._group = group
        self.ranks = group.ranks
        self._step_seconds = 0.0
        self._train_seconds: list[float] = []

    def own_device(self, first: str) -> str:
        """See `Session.own_device`."""
        kind = torch.device(first).type
        return first if kind == "cpu" else f"{kind}:{self._group.local_rank}"

    def meet(self) -> None:
        """See `Session.meet`."""
        self._group.meet()

    def _prepare(self, trial: Trial, root: Path | None) -> Prepared:
        prepared = super()._prepare(trial, root)
        self._check_alike(self._traits(prepared))
        self._step_seconds = prepared.step_seconds
        return prepared

    def _traits(self, prepared: Prepared) -> dict[str, str]:
        """Return what has to be the same for all ranks."""
        versions = {"torch": torch.__version__, "workload": mnist_mlp.__version__, "harness": bench.__version__}
        return {**versions, "dataset": prepared.dataset_sha256}

    def _check_alike(self, traits: Mapping[str, str]) -> None:
        """Refuse ranks whose software or data differs from the first rank's: a trial has one of each."""
        first, *others = self._group.exchange(traits)
        for rank, other in enumerate(others, start=1):
            for name, value in other.items():
                if value != first[name]:
                    raise TrialError(
                        FailureKind.UNSUPPORTED,
                        f"rank {rank} has {name} {value}, the first rank {first[name]}: all machines need the same",
                    )

    def _train(self, epoch: int) -> Trained:
        trained = super()._train(epoch)
        self._train_seconds.append(trained.train_seconds)
        return trained

    def _evaluate(self) -> Evaluated | None:  # type: ignore[override]  # the first rank's answer counts
        """Evaluate in the first rank alone: all have the same parameters."""
        return super()._evaluate() if self.ranks.rank == 0 else None

    def _finish(self) -> Finished:
        self._check_agreement()
        finished = super()._finish()
        record = RankRecord(
            host=0,  # numbered by `merge_answers`, which knows all hosts
            machine=describe_machine().id,
            device=self._device.name,
            train_seconds=tuple(self._train_seconds),
            host_peak=finished.host_peak,
            device_allocated_peak=finished.device_allocated_peak,
            device_reserved_peak=finished.device_reserved_peak,
        )
        return dataclasses.replace(finished, ranks=(record,), exchange=self._measure_exchange())

    def _check_agreement(self) -> None:
        """Refuse a training whose ranks did not end with the same parameters, bit for bit."""
        flat = torch.cat([parameter.detach().flatten() for parameter in self._training.model.parameters()])
        digests = self._group.exchange(hashlib.sha256(flat.cpu().numpy().tobytes()).hexdigest())
        if len(set(digests)) > 1:
            raise TrialError(
                FailureKind.CRASH,
                "the ranks ended with different parameters: gradients were not exchanged correctly",
            )

    def _measure_exchange(self) -> Exchange:
        """Time some steps with and without the exchange of gradients. The parameters are useless afterwards."""
        training, batch_size = self._training, self._training.recipe.batch_size
        slowest = max(self._group.exchange(self._step_seconds))
        steps = max(1, min(math.ceil(EXCHANGE_SECONDS / slowest), training.train_samples // batch_size))
        order = training.order(0)[: steps * batch_size]
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for together in EXCHANGE_ORDER:
            self.meet()
            if together:
                seconds[together].append(self._timer.seconds(lambda: training.train(order)))
            else:
                with training.apart():
                    seconds[together].append(self._timer.seconds(lambda: training.train(order)))
        return Exchange(steps=steps, together_seconds=tuple(seconds[True]), apart_seconds=tuple(seconds[False]))
