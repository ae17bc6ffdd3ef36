"""The live comparison of two arms on one machine, which gates time.

Every configuration is screened on a few process pairs. Those that do not pass are measured again on fresh pairs, which
alone decide: what looks slow only by chance will not look slow again (`bench.stats.pair_gate`).
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench.ab.arms import Arm
from bench.ab.pairs import ArmFailedError, PairRecord, measure_pair
from bench.ab.report import BUDGET, COMPLETE, Floor, Report, Row, Side
from bench.errors import BadInputError, HostError, IncomparableError, WorkerError
from bench.execution.conversation import describe_place, prepare_dataset
from bench.execution.launcher import Launcher
from bench.planning.plan import Request, choose_devices, make_plan
from bench.records import Configuration, Description, Machine
from bench.stats.judgement import ERROR_LEVEL, PASS_LEVEL, Judgement, Verdict, undecided
from bench.stats.pair_gate import gate_pairs

_REMEDIES: Final = MappingProxyType(
    {
        ".": "repair this tree",
        "rev": "name a revision that does",
        "python": "install this project's packages for that interpreter (docs/faq.md)",
    }
)
"""Kind of arm → what helps where it does not work."""

USUAL_LOOKS: Final = 2
"""Maximum rounds of fresh pairs: the first decides the clear cases, the second most of the others."""

MAX_LOOKS: Final = 8
"""Rounds after which `--until-decided` gives up: the difference is then about equal to the allowance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to compare. `max_slowdown` is a fraction; `screen_pairs` and `confirm_pairs` are the pairs in a round."""

    max_slowdown: float
    screen_pairs: int
    confirm_pairs: int
    until_decided: bool
    budget_seconds: float | None
    data_root: Path | None
    timeout_seconds: float
    command: tuple[str, ...]
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The progress of the comparison: pair `number` of `total` in the round called `name`."""

    name: str
    number: int
    total: int


@dataclass(slots=True)
class _Measured:
    """What has been measured of one configuration, and its judgement so far, which covers `judged` confirming pairs."""

    screen: list[PairRecord] = field(default_factory=list)
    confirm: list[PairRecord] = field(default_factory=list)
    judgement: Judgement | None = None
    judged: int = 0

    @property
    def is_open(self) -> bool:
        """Whether more pairs are needed to decide it."""
        return self.judgement is None or self.judgement.verdict is Verdict.INCONCLUSIVE

    @property
    def is_broken(self) -> bool:
        """Whether it can no longer be measured."""
        return self.judgement is not None and self.judgement.verdict in {Verdict.FAILED, Verdict.INCOMPARABLE}


class LiveComparison:
    """Measures round after round. `report` can be called at any time, also after an interruption."""

    def __init__(
        self,
        arms: tuple[Arm, Arm],
        launchers: tuple[Launcher, Launcher],
        options: Options,
        *,
        renew: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up without starting anything. `renew` is called between passes over the configurations."""
        self._arms = arms
        self._launchers = launchers
        self._options = options
        self._renew = renew
        self._clock = clock
        self._start = clock()
        self._places: list[Description] = []
        self._floors: Mapping[str, float | None] = {}
        self._measured: dict[Configuration, _Measured] = {}
        self._seed = 0
        self._looks = 0
        self._passes = 0

    def plan(self, request: Request) -> tuple[Configuration, ...]:
        """Have both arms describe their machine and verify the data; return what will be compared.

        Raises:
            BadInputError: a device is not available to both arms, or the request is wrong.
            IncomparableError: an arm does not work with this harness, or reads different data.
        """
        names = [f"{role} {arm.label}" for role, arm in zip(("baseline", "candidate"), self._arms, strict=True)]
        self._places = [
            self._describe(name, arm, launcher)
            for name, arm, launcher in zip(names, self._arms, self._launchers, strict=True)
        ]
        baseline, candidate = self._places
        with _naming(names[0]):
            devices = choose_devices(request.devices, baseline.devices)
        with _naming(names[1]):
            choose_devices(devices, candidate.devices)
        cores, threads = baseline.machine.whole_cores, baseline.default_threads
        plan = make_plan(request, devices=devices, cores=cores, default_threads=threads)
        self._seed = plan.seed
        self._measured = {configuration: _Measured() for configuration in plan.configurations}
        hashes = [
            self._dataset_hash(name, launcher, request.dataset)
            for name, launcher in zip(names, self._launchers, strict=True)
        ]
        if len(set(hashes)) > 1:
            raise IncomparableError(
                f"the arms read different data under the name {request.dataset!r} (SHA-256 {', '.join(hashes)}): use a "
                "dataset that is the same for both"
            )
        return plan.configurations

    @staticmethod
    def _describe(name: str, arm: Arm, launcher: Launcher) -> Description:
        try:
            return describe_place(launcher)
        except HostError as error:  # it names its own remedy: the arm's interpreter is at fault, or both may be
            raise IncomparableError(f"{name} does not work with this harness: {error}") from error
        except WorkerError as error:
            raise IncomparableError(
                f"{name} does not work with this harness: {error}; {_REMEDIES[arm.label.partition(':')[0]]}"
            ) from error

    def _dataset_hash(self, arm: str, launcher: Launcher, dataset: str) -> str:
        root, timeout_seconds = self._options.data_root, self._options.timeout_seconds
        with _naming(arm):
            return prepare_dataset(launcher, dataset, root, timeout_seconds=timeout_seconds).sha256

    @property
    def machine(self) -> Machine:
        """The machine that both arms run on; known once planned."""
        return self._places[0].machine

    @property
    def uuids(self) -> dict[str, str]:
        """The UUIDs of the devices; known once planned."""
        return self._places[0].uuids

    def run(
        self,
        floors: Mapping[str, float | None],
        on_pair: Callable[[Stage], None] = lambda _stage: None,
        on_round: Callable[[], None] = lambda: None,
    ) -> str:
        """Measure until everything is decided or the options end it; return why it ended. The budget starts now.

        `floors` holds each device's A/A floor as a log ratio, None if unknown. `on_pair` is called before each pair and
        `on_round` after each round, outside the timed region.
        """
        self._start = self._clock()
        self._floors = floors
        name, rows, pairs = "screen", list(self._measured), self._options.screen_pairs
        last_look = MAX_LOOKS if self._options.until_decided else USUAL_LOOKS
        while rows:
            is_whole = self._round(name, rows, pairs, on_pair)
            self._looks += name == "confirm"
            self._judge(is_last=self._looks == last_look)
            on_round()
            rows = [each for each, measured in self._measured.items() if measured.is_open]
            if is_whole and self._looks == last_look:
                break
            if rows and self._is_spent():
                return BUDGET
            name, pairs = "confirm", self._options.confirm_pairs
        return COMPLETE

    def _round(self, name: str, rows: Sequence[Configuration], pairs: int, on_pair: Callable[[Stage], None]) -> bool:
        """Measure `pairs` more pairs of each of `rows`; return False if the budget ended first."""
        shuffler = random.Random(self._seed)  # noqa: S311 - no secret
        number = 0
        for _ in range(pairs):
            seed, self._seed = self._seed, self._seed + 1
            is_fresh = not self._passes  # as the hosts of the first one are
            self._passes += 1
            for configuration in shuffler.sample(rows, len(rows)):
                number += 1
                if self._measured[configuration].is_broken:
                    continue
                if self._is_spent():
                    return False
                if not is_fresh:
                    self._renew()
                    is_fresh = True
                on_pair(Stage(name=name, number=number, total=pairs * len(rows)))
                self._measure(configuration, seed, name)
        return True

    def _is_spent(self) -> bool:
        budget = self._options.budget_seconds
        return budget is not None and self._clock() - self._start > budget

    def _measure(self, configuration: Configuration, seed: int, name: str) -> None:
        measured = self._measured[configuration]
        try:
            pair = measure_pair(
                *self._launchers,
                configuration,
                seed=seed,
                root=self._options.data_root,
                timeout_seconds=self._options.timeout_seconds,
            )
        except ArmFailedError as error:
            measured.judgement = undecided(Verdict.FAILED, str(error))
            return
        (measured.screen if name == "screen" else measured.confirm).append(pair)
        if pair.baseline.settings != pair.candidate.settings:
            reason = f"the arms ran with different settings: {pair.baseline.settings} and {pair.candidate.settings}"
            measured.judgement = undecided(Verdict.INCOMPARABLE, reason)

    def _judge(self, *, is_last: bool) -> None:
        """Judge all that can be judged. Each device's configurations are a family; families share the levels evenly."""
        judged = {
            each: measured for each, measured in self._measured.items() if measured.screen and not measured.is_broken
        }
        devices = dict.fromkeys(each.device for each in judged)
        for device in devices:
            family = [measured for each, measured in judged.items() if each.device == device]
            judgements = gate_pairs(
                [[pair.log_ratio for pair in measured.screen] for measured in family],
                [[pair.log_ratio for pair in measured.confirm] for measured in family],
                max_slowdown=self._options.max_slowdown,
                floor=self._floors.get(device) or 0.0,
                looks=self._looks,
                last_look=is_last,
                earlier=[measured.judgement for measured in family if measured.judgement is not None],
                error_level=ERROR_LEVEL / len(devices),
                pass_level=PASS_LEVEL / len(devices),
            )
            for measured, judgement in zip(family, judgements, strict=True):
                measured.judgement = judgement
                measured.judged = len(measured.confirm)

    def report(self, ended: str) -> Report:
        """Return what is known so far; `ended` says why measuring ended.

        The pairs of a round that was interrupted are in the report, but have not been judged.
        """
        baseline, candidate = (
            Side(
                label=arm.label,
                commit=arm.commit,
                # The arm's process ran in a copy outside any repository, so its own answer has no commit.
                software=replace(place.software, git_commit=arm.commit, git_dirty=arm.dirty),
            )
            for arm, place in zip(self._arms, self._places, strict=True)
        )
        return Report(
            command=self._options.command,
            created_at=self._options.created_at,
            machine=self.machine,
            baseline=baseline,
            candidate=candidate,
            max_slowdown=self._options.max_slowdown,
            floors=tuple(Floor(device=device, log_ratio=floor) for device, floor in self._floors.items()),
            looks=self._looks,
            until_decided=self._options.until_decided,
            ended=ended,
            wall_seconds=self._clock() - self._start,
            rows=tuple(
                Row(
                    configuration=configuration,
                    screen=tuple(measured.screen),
                    confirm=tuple(measured.confirm),
                    unjudged=0 if measured.is_broken else len(measured.confirm) - measured.judged,
                    judgement=measured.judgement or undecided(Verdict.INCONCLUSIVE, _TOO_EARLY),
                )
                for configuration, measured in self._measured.items()
            ),
        )


_TOO_EARLY: Final = "no round of pairs was completed"


@contextlib.contextmanager
def _naming(arm: str) -> Iterator[None]:
    """Name the arm in errors."""
    try:
        yield
    except (BadInputError, WorkerError) as error:
        raise type(error)(f"{arm}: {error}") from error
