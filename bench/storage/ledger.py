"""Which trials a stored run holds, the rules that a line must keep to be one more, and what its footer counts."""

from collections.abc import Sequence
from dataclasses import replace

from bench.errors import BadInputError
from bench.records import Failure, Fingerprint, Footer, Header, Measurement, TrialRecord


class Ledger:
    """Which trials of a plan are stored, where they ran, and the rules that a record must keep to be among them.

    `fingerprints` are the header's and those entered since: a record names one by its place.
    """

    def __init__(self, header: Header) -> None:
        """Begin with nothing stored."""
        self._plan = plan = header.plan
        self.fingerprints = [Fingerprint(machine=header.machine, software=header.software)]
        self._places = {configuration: place for place, configuration in enumerate(plan.configurations)}
        # Records as read hold the plan's own objects, and to hash the 21 members of each takes its time.
        self._places_by_identity = {id(configuration): place for configuration, place in self._places.items()}
        self._stored: set[int] = set()

    def enter(self, fingerprint: Fingerprint) -> None:
        """Enter a further `fingerprint`.

        Raises:
            BadInputError: it is entered already.
        """
        if fingerprint in self.fingerprints:
            raise BadInputError("a fingerprint that the file has already: each is stored once")
        self.fingerprints.append(fingerprint)

    def admit(self, record: TrialRecord) -> TrialRecord:
        """Enter `record`, and return it with the very object that the plan holds for its configuration.

        Raises:
            BadInputError: its trial is not in the plan or is entered already, its measurement is impossible, or it
                names a fingerprint that is not entered.
        """
        trial = record.trial
        if not 0 <= record.fingerprint < len(self.fingerprints):
            raise BadInputError(f"it names fingerprint {record.fingerprint}, and {len(self.fingerprints)} came before")
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
        """Take an admitted `record` out again."""
        self._stored.remove(self._places[record.trial.configuration] * self._plan.repeats + record.trial.repeat)


def footer_of(records: Sequence[TrialRecord], *, planned: int, reason: str, wall_seconds: float) -> Footer:
    """Return the footer of a run that stops with these of its `planned` trials, for this `reason` if some are missing.

    Where none is, the reason is ``complete``.
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


def _require_possible(measurement: Measurement) -> None:
    """Refuse what would make a division by zero or a median of nothing out of a record."""
    if not measurement.epochs:
        raise BadInputError("a measurement needs at least one epoch")
    for epoch in measurement.epochs:
        if epoch.train_seconds <= 0 or epoch.train_samples <= 0 or epoch.test_samples <= 0:
            raise BadInputError("an epoch's train_seconds, train_samples and test_samples must be above 0")
