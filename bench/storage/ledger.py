"""Keeps track of a run's stored trials: the rules for accepting a further line, and the counts for the footer."""

from collections.abc import Sequence
from dataclasses import replace

from bench.errors import BadInputError
from bench.records import Failure, Fingerprint, Footer, Header, Machine, Measurement, TrialRecord


class Ledger:
    """The trials of a plan that are stored, and the rules that a further record must follow.

    `fingerprints` are the header's and those added since; a record refers to one by its index.
    """

    def __init__(self, header: Header) -> None:
        """Start with nothing stored."""
        self._plan = plan = header.plan
        self.fingerprints = [Fingerprint(machine=header.machine, software=header.software)]
        self._places = {configuration: place for place, configuration in enumerate(plan.configurations)}
        # Records that were read share the plan's objects: looking them up by identity avoids hashing all their fields.
        self._places_by_identity = {id(configuration): place for configuration, place in self._places.items()}
        self._stored: set[int] = set()

    def add_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Add a further `fingerprint`.

        Raises:
            BadInputError: it was added before, or its machine cannot be.
        """
        require_possible_machine(fingerprint.machine)
        if fingerprint in self.fingerprints:
            raise BadInputError("a fingerprint that the file has already: each is stored once")
        self.fingerprints.append(fingerprint)

    def admit(self, record: TrialRecord) -> TrialRecord:
        """Add `record`, and return it with its configuration replaced by the plan's own object.

        Raises:
            BadInputError: its trial is not in the plan or was added before, its measurement is impossible, or its
                fingerprint is unknown.
        """
        trial = record.trial
        if not 0 <= record.fingerprint < len(self.fingerprints):
            raise BadInputError(
                f"it refers to fingerprint {record.fingerprint}, but only {len(self.fingerprints)} precede it "
                "(the first is 0)"
            )
        place = self._places_by_identity.get(id(trial.configuration))
        is_the_plans = place is not None
        if place is None:
            place = self._places.get(trial.configuration)
        if place is None or not 0 <= trial.repeat < self._plan.repeats or trial.seed != self._plan.seed + trial.repeat:
            raise BadInputError(
                f"configuration {trial.configuration.id}, repeat {trial.repeat}, seed {trial.seed} is not in the "
                f"plan: {len(self._places)} configurations, {self._plan.repeats} repeats, seeds from {self._plan.seed}"
            )
        key = place * self._plan.repeats + trial.repeat
        if key in self._stored:
            raise BadInputError(f"configuration {trial.configuration.id}, repeat {trial.repeat} is stored already")
        if isinstance(record.outcome, Measurement):
            _require_possible(record.outcome)
        self._stored.add(key)
        if is_the_plans:
            return record
        return replace(record, trial=replace(trial, configuration=self._plan.configurations[place]))

    def forget(self, record: TrialRecord) -> None:
        """Remove an admitted `record` again."""
        self._stored.remove(self._places[record.trial.configuration] * self._plan.repeats + record.trial.repeat)


def footer_of(records: Sequence[TrialRecord], *, planned: int, reason: str, wall_seconds: float) -> Footer:
    """Return the footer of a run that stops with these `records` of its `planned` trials.

    Its reason is ``complete`` if no trial is missing, and `reason` otherwise.
    """
    failed = sum(isinstance(record.outcome, Failure) for record in records)
    missing = planned - len(records)
    return Footer(
        complete=missing == 0,
        reason=reason if missing else "complete",
        measured=len(records) - failed,
        failed=failed,
        missing=missing,
        wall_seconds=wall_seconds,
    )


def require_possible_machine(machine: Machine) -> None:
    """Refuse a machine that has no id.

    Raises:
        BadInputError: it has no memory.
    """
    if machine.memory_bytes <= 0:
        raise BadInputError(f"machine.memory_bytes is {machine.memory_bytes}, but must be above 0")


def _require_possible(measurement: Measurement) -> None:
    """Refuse a measurement that would later lead to a division by zero or a median of nothing."""
    exchange = measurement.exchange
    for name in ("together_seconds", "apart_seconds") if exchange is not None else ():
        if not sum(getattr(exchange, name)) > 0:
            raise BadInputError(f"an exchange's {name} must sum to more than 0")
    if not measurement.epochs:
        raise BadInputError("a measurement needs at least one epoch")
    for epoch in measurement.epochs:
        if epoch.train_seconds <= 0 or epoch.train_samples <= 0 or epoch.test_samples <= 0:
            raise BadInputError("an epoch's train_seconds, train_samples and test_samples must be above 0")
