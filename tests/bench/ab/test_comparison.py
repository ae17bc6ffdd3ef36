"""The live comparison: which pairs are measured when, what becomes of failures, budgets and interruptions."""

import contextlib
import dataclasses
import functools
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fake_worker import FakeLauncher, Request, die, fail_trial
from planted_workload import plant_slowdown

from bench.ab import comparison as live_comparison
from bench.ab.arms import Arm
from bench.ab.comparison import LiveComparison, Options, Stage
from bench.ab.pairs import measure_pair
from bench.ab.report import BUDGET, COMPLETE, INTERRUPTED, Report
from bench.ab.view import heading, render_table, result
from bench.errors import BadInputError, ExitCode, HostError, IncomparableError, InterruptedRunError, WorkerError
from bench.execution.launcher import make_arm_launchers
from bench.planning import plan
from bench.records import FailureKind
from bench.stats.judgement import ERROR_LEVEL, PASS_LEVEL, Judgement, Verdict
from bench.stats.pair_gate import gate_pairs

Pairs = Sequence[Sequence[float]]
"""Log ratios of each configuration's pairs."""

ARMS = tuple(Arm(label=label, python="python", workload=None, commit=None) for label in ("rev:main", "."))
OPTIONS = Options(
    max_slowdown=0.05,
    screen_pairs=5,
    confirm_pairs=8,
    until_decided=False,
    budget_seconds=None,
    data_root=None,
    timeout_seconds=60,
    command=("ab", "rev:main", "."),
    created_at="2026-01-02T03:04:05+00:00",
)
REQUEST = plan.Request(models=("784-128-10",), batch_sizes=(64, 256), repeats=1)


def noisy(factor: float, seed: int, spread: float = 0.005) -> Iterator[float]:
    shuffler = random.Random(seed)  # noqa: S311 - no secret
    return (0.001 * factor * (1 + shuffler.gauss(0, spread)) for _ in itertools.count())


class Comparison:
    """A live comparison with scripted workers; the candidate is slower by `factor`."""

    def __init__(
        self, factor: float = 1.0, *, spread: float = 0.005, clock: Callable[[], float] = lambda: 0.0, **options: object
    ) -> None:
        self.baseline, self.candidate = FakeLauncher(), FakeLauncher()
        self.baseline.batch_seconds = noisy(1.0, 1, spread)
        self.candidate.batch_seconds = noisy(factor, 2, spread)
        self.stages: list[Stage] = []
        self.rounds = 0
        self.live = LiveComparison(
            (ARMS[0], ARMS[1]),
            (self.baseline, self.candidate),
            dataclasses.replace(OPTIONS, **options),  # type: ignore[arg-type]  # members by name, of several types
            clock=clock,
        )

    def run(self, request: plan.Request = REQUEST, floor: float | None = 0.01) -> Report:
        self.live.plan(request)

        def count() -> None:
            self.rounds += 1

        ended = self.live.run({"cpu": floor}, self.stages.append, count)
        return self.live.report(ended)


def verdicts(report: Report) -> list[Verdict]:
    return [row.judgement.verdict for row in report.rows]


def test_equal_arms_pass_at_the_screen_and_nothing_is_measured_twice() -> None:
    comparison = Comparison()
    report = comparison.run()
    assert verdicts(report) == [Verdict.PASS, Verdict.PASS]
    assert [(len(row.screen), len(row.confirm)) for row in report.rows] == [(5, 0), (5, 0)]
    assert (report.ended, report.looks, report.exit_code) == (COMPLETE, 0, ExitCode.PASS)
    assert comparison.rounds == 1


def test_a_slower_candidate_is_a_regression_on_fresh_pairs() -> None:
    report = Comparison(1.10).run()
    assert verdicts(report) == [Verdict.REGRESSION, Verdict.REGRESSION]
    assert report.exit_code is ExitCode.REGRESSION
    for row in report.rows:
        seeds = [pair.seed for pair in (*row.screen, *row.confirm)]
        assert len(set(seeds)) == len(seeds) == 13
        assert row.judgement.estimate is not None
        assert row.judgement.estimate.value == pytest.approx(0.0953, abs=0.02)


def test_pairs_are_seeded_one_after_the_other_from_the_seed_asked_for() -> None:
    report = Comparison(1.10).run(dataclasses.replace(REQUEST, seed=7))
    for row in report.rows:
        assert [pair.seed for pair in (*row.screen, *row.confirm)] == list(range(7, 20))
        assert row.configuration.threads == 2  # as torch takes by itself


def test_each_device_is_judged_by_its_own_floor() -> None:
    comparison = Comparison(1.10)
    have_all(comparison.baseline)
    have_all(comparison.candidate)
    comparison.live.plan(dataclasses.replace(REQUEST, devices=("cpu", "cuda"), batch_sizes=(64,)))
    report = comparison.live.report(comparison.live.run({"cpu": 0.01, "cuda": 0.2}))
    assert {row.configuration.device: row.judgement.verdict for row in report.rows} == {
        "cpu": Verdict.REGRESSION,
        "cuda": Verdict.INCONCLUSIVE,
    }


def test_a_slowdown_within_the_machines_floor_is_no_regression() -> None:
    report = Comparison(1.10).run(floor=0.2)
    assert verdicts(report) == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]
    assert report.exit_code is ExitCode.INCONCLUSIVE
    assert "A/A floor" in report.rows[0].judgement.reason


def test_swapped_arms_are_no_regression() -> None:
    assert Comparison(1 / 1.10).run().exit_code is ExitCode.PASS


def test_a_difference_near_the_allowance_stays_open_without_more_pairs() -> None:
    report = Comparison(1.045, spread=0.02).run()
    assert report.exit_code is ExitCode.INCONCLUSIVE
    assert (report.looks, report.ended) == (2, COMPLETE)
    assert all(len(row.confirm) == 16 for row in report.rows)


def test_a_configuration_decided_by_the_first_fresh_pairs_gets_no_more() -> None:
    report = Comparison(1.10).run()
    assert report.looks == 1
    assert all(len(row.confirm) == 8 for row in report.rows)


def test_until_decided_goes_on_with_fresh_pairs() -> None:
    comparison = Comparison(1.03, spread=0.06, until_decided=True)
    report = comparison.run()
    assert report.looks > 1
    assert max(len(row.confirm) for row in report.rows) == 8 * report.looks
    assert set(verdicts(report)) == {Verdict.PASS}


def test_until_decided_gives_up_on_what_cannot_be_decided() -> None:
    report = Comparison(1.05, spread=0.03, until_decided=True).run()
    assert (report.looks, report.ended) == (8, COMPLETE)
    assert max(len(row.confirm) for row in report.rows) == 8 * 8


@pytest.mark.parametrize("until_decided", [False, True])
def test_all_devices_and_looks_together_spend_the_promised_levels_and_decisions_are_final(
    until_decided: bool,  # noqa: FBT001 - pytest passes it by name
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent, previous = [0.0, 0.0], dict[int, tuple[Judgement, ...]]()

    def watched(screen: Pairs, confirm: Pairs, **rule: Any) -> tuple[Judgement, ...]:  # noqa: ANN401 - its options
        looks = rule["looks"]
        if looks:
            share = 1 / looks if rule["last_look"] else 1 / (looks * (looks + 1))
            spent[0] += rule["error_level"] * share
            spent[1] += rule["pass_level"] / 2 * share
        else:
            spent[1] += rule["pass_level"] / 2
        assert looks == 0 or tuple(rule["earlier"]) == previous[len(screen)]
        previous[len(screen)] = gate_pairs(screen, confirm, **rule)
        return previous[len(screen)]

    monkeypatch.setattr(live_comparison, "gate_pairs", watched)
    comparison = Comparison(1.05, spread=0.03, until_decided=until_decided)
    have_all(comparison.baseline)
    have_all(comparison.candidate)
    # The engine graph runs on CUDA alone, so the two devices are told apart by their numbers of configurations.
    request = dataclasses.replace(
        REQUEST, devices=("cpu", "cuda"), engines=("eager", "graph"), skip_unsupported=True, batch_sizes=(64, 256)
    )
    comparison.live.plan(request)
    assert comparison.live.run({"cpu": None, "cuda": None}) == COMPLETE
    assert spent == pytest.approx([ERROR_LEVEL, PASS_LEVEL])


def test_every_round_visits_all_configurations_before_any_a_second_time() -> None:
    comparison = Comparison()
    prepared: list[int] = []

    def note(request: Request) -> None:
        if request["do"] == "prepare":
            prepared.append(request["trial"]["configuration"]["batch_size"])

    comparison.baseline.on = note
    comparison.run()
    assert all({*prepared[at : at + 2]} == {64, 256} for at in range(0, 10, 2))
    assert [(stage.number, stage.total) for stage in comparison.stages] == [(number, 10) for number in range(1, 11)]


def test_a_budget_ends_the_measuring_and_undecided_rows_are_inconclusive() -> None:
    clock = itertools.count()
    report = Comparison(1.10, budget_seconds=7.5, clock=lambda: float(next(clock))).run()
    assert (report.ended, report.exit_code) == (BUDGET, ExitCode.INCONCLUSIVE)
    assert [(len(row.screen), len(row.confirm)) for row in report.rows] in ([(4, 0), (3, 0)], [(3, 0), (4, 0)])
    assert all("% slower at the screen" in row.judgement.reason for row in report.rows)


def test_a_budget_that_is_spent_between_two_rounds_starts_and_judges_no_further_round() -> None:
    now, renewals = [0.0], list[float]()
    comparison = Comparison(1.10)
    comparison.live = LiveComparison(
        (ARMS[0], ARMS[1]),
        (comparison.baseline, comparison.candidate),
        dataclasses.replace(OPTIONS, budget_seconds=9.5),
        renew=lambda: renewals.append(now[0]),
        clock=lambda: now[0],
    )

    def pass_a_second(_stage: Stage) -> None:
        now[0] += 1  # 10 pairs in the screen

    comparison.live.plan(REQUEST)
    ended = comparison.live.run({"cpu": None}, pass_a_second)
    report = comparison.live.report(ended)
    assert (ended, report.looks, len(renewals)) == (BUDGET, 0, 4)
    assert all("% slower at the screen" in row.judgement.reason for row in report.rows)


def test_once_the_budget_is_spent_no_hosts_are_started_for_a_further_pass() -> None:
    now, renewals = [0.0], list[float]()
    comparison = Comparison(1.10)
    comparison.live = LiveComparison(
        (ARMS[0], ARMS[1]),
        (comparison.baseline, comparison.candidate),
        dataclasses.replace(OPTIONS, budget_seconds=3.5),
        renew=lambda: renewals.append(now[0]),
        clock=lambda: now[0],
    )

    def pass_a_second(_stage: Stage) -> None:
        now[0] += 1

    comparison.live.plan(REQUEST)
    assert comparison.live.run({"cpu": None}, pass_a_second) == BUDGET
    assert [len(row.screen) for row in comparison.live.report(BUDGET).rows] == [2, 2]
    assert renewals == [2.0]


def test_a_budget_that_ends_within_the_last_look_is_said_to_have_ended_it() -> None:
    clock = itertools.count()
    report = Comparison(1.045, spread=0.02, budget_seconds=30.5, clock=lambda: float(next(clock))).run()
    assert 8 < max(len(row.confirm) for row in report.rows) < 16
    assert (report.looks, report.ended) == (2, BUDGET)


def test_every_pass_but_the_first_has_fresh_hosts() -> None:
    renewed: list[int] = []
    comparison = Comparison(1.10)
    comparison.live = LiveComparison(
        (ARMS[0], ARMS[1]),
        (comparison.baseline, comparison.candidate),
        OPTIONS,
        renew=lambda: renewed.append(comparison.baseline.started),
    )
    started_for_the_plan = 2  # one process describes the machine, one verifies the data
    report = comparison.run()
    assert [len(row.confirm) for row in report.rows] == [8, 8]
    assert renewed == [started_for_the_plan + 2 * passes for passes in range(1, 13)]


def test_a_budget_spent_before_the_first_pair_leaves_every_row_open() -> None:
    clock = itertools.count(step=100)
    report = Comparison(budget_seconds=1.0, clock=lambda: float(next(clock))).run()
    assert verdicts(report) == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]
    assert "no round of pairs was completed" in report.rows[0].judgement.reason


@pytest.mark.parametrize("answer", [die(), fail_trial(FailureKind.OUT_OF_MEMORY, "no more")])
def test_a_failing_arm_fails_its_configuration_and_the_other_goes_on(answer: dict[str, Any]) -> None:
    comparison = Comparison()
    prepared: list[int] = []

    def respond(request: Request) -> dict[str, Any] | None:
        if request["do"] == "prepare":
            prepared.append(request["trial"]["configuration"]["batch_size"])
        return answer if request["do"] == "stretch" and prepared[-1] == 64 else None

    comparison.candidate.on = respond
    report = comparison.run()
    assert verdicts(report) == [Verdict.FAILED, Verdict.PASS]
    assert "candidate" in report.rows[0].judgement.reason
    assert report.exit_code is ExitCode.FAILED_TRIAL
    assert len(report.rows[0].screen) == 0  # not tried again and again


def test_a_configuration_that_fails_after_good_pairs_stays_failed() -> None:
    comparison = Comparison()
    prepared: list[int] = []

    def respond(request: Request) -> dict[str, Any] | None:
        if request["do"] == "prepare":
            prepared.append(request["trial"]["configuration"]["batch_size"])
        return die() if request["do"] == "stretch" and prepared[-1] == 64 and prepared.count(64) == 3 else None

    comparison.candidate.on = respond
    report = comparison.run()
    assert verdicts(report) == [Verdict.FAILED, Verdict.PASS]
    assert [len(row.screen) for row in report.rows] == [2, 5]


def test_fresh_pairs_of_a_configuration_that_failed_are_not_said_to_be_of_an_interrupted_round() -> None:
    comparison = Comparison(1.10)
    prepared: list[int] = []

    def respond(request: Request) -> dict[str, Any] | None:
        if request["do"] == "prepare":
            prepared.append(request["trial"]["configuration"]["batch_size"])
        return die() if request["do"] == "stretch" and prepared[-1] == 64 and prepared.count(64) == 8 else None

    comparison.candidate.on = respond
    report = comparison.run()
    assert verdicts(report) == [Verdict.FAILED, Verdict.REGRESSION]
    assert [(len(row.screen), len(row.confirm), row.unjudged) for row in report.rows] == [(5, 2, 0), (5, 8, 0)]


def test_an_interruption_keeps_every_pair() -> None:
    comparison = Comparison()
    comparison.live.plan(REQUEST)

    def interrupt(stage: Stage) -> None:
        if stage.number == 8:
            raise InterruptedRunError("SIGINT")

    with pytest.raises(InterruptedRunError):
        comparison.live.run({"cpu": None}, interrupt)
    report = comparison.live.report(INTERRUPTED)
    assert sum(len(row.screen) for row in report.rows) == 7
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, ExitCode.INTERRUPTED)


def test_of_many_configurations_that_were_not_measured_the_first_are_named() -> None:
    comparison = Comparison()
    comparison.live.plan(dataclasses.replace(REQUEST, batch_sizes=tuple(range(1, 41))))
    text = " ".join(render_table(comparison.live.report(INTERRUPTED), 9_999).split())
    assert text.count("no round of pairs was completed") == 4
    assert "inconclusive: cpu 784-128-10 batch 3: no round of pairs was completed" in text
    assert "inconclusive: 37 others: no round of pairs was completed" in text


def test_an_interruption_of_fresh_pairs_reports_how_many_are_not_judged() -> None:
    comparison = Comparison(1.10)
    comparison.live.plan(REQUEST)

    def interrupt(stage: Stage) -> None:
        if (stage.name, stage.number) == ("confirm", 8):
            raise InterruptedRunError("SIGINT")

    with pytest.raises(InterruptedRunError):
        comparison.live.run({"cpu": None}, interrupt)
    report = comparison.live.report(INTERRUPTED)
    assert sum(row.unjudged for row in report.rows) == sum(len(row.confirm) for row in report.rows) == 7
    text = " ".join(render_table(report).split())
    assert "7 confirming pairs of the interrupted round are neither judged" in text
    assert "judged by those alone" not in text
    assert "5+" not in text


def test_a_budget_that_ends_when_all_is_decided_cut_nothing_short() -> None:
    clock = itertools.count()
    report = Comparison(budget_seconds=8.5, clock=lambda: float(next(clock))).run()
    assert sum(len(row.screen) for row in report.rows) < 10
    assert (verdicts(report), report.ended) == ([Verdict.PASS, Verdict.PASS], COMPLETE)


def test_the_budget_and_the_time_taken_begin_with_the_measuring() -> None:
    now = [0.0]
    comparison = Comparison(budget_seconds=60.0, clock=lambda: now[0])
    comparison.live.plan(REQUEST)
    now[0] = 3600.0  # another run held the device
    report = comparison.live.report(comparison.live.run({"cpu": None}))
    assert (report.ended, report.wall_seconds) == (COMPLETE, 0)


@pytest.mark.parametrize(
    ("options", "factor", "floor", "words"),
    [
        ({}, 1.045, 0.0, "; more pairs: --until-decided --budget 10m"),
        ({"until_decided": True, "spread": 0.08}, 1.035, 0.0, "; more pairs: a larger --confirm-pairs"),
        ({"budget_seconds": 14.5}, 1.045, 0.0, "decided; more pairs: a larger --budget"),
        ({"budget_seconds": 2.5}, 1.045, 0.0, "decided; more pairs: a larger --budget"),  # one pair each
        ({}, 1.10, 0.2, " s)"),  # equal code may do that here
    ],
)
def test_more_pairs_are_advised_only_where_they_would_help(
    options: dict[str, Any], factor: float, floor: float, words: str
) -> None:
    clock = itertools.count()
    ticking = (lambda: float(next(clock))) if "budget_seconds" in options else (lambda: 0.0)
    report = Comparison(factor, clock=ticking, **{"spread": 0.02, **options}).run(floor=floor)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert result(report).endswith(words)


def test_sides_have_the_commits_of_their_arms_and_not_of_the_copies() -> None:
    comparison = Comparison()
    arms = tuple(
        dataclasses.replace(arm, commit=commit * 40, dirty=dirty)
        for arm, commit, dirty in zip(ARMS, "ab", (False, True), strict=True)
    )
    comparison.live = LiveComparison((arms[0], arms[1]), (comparison.baseline, comparison.candidate), OPTIONS)
    report = comparison.run()
    assert (report.candidate.software.git_commit, report.candidate.software.git_dirty) == ("b" * 40, True)
    assert (
        "differs, baseline / candidate, in git commit: aaaaaaaaaa / bbbbbbbbbb; git dirty: False / True"
        in heading(report)[1]
    )


@pytest.mark.parametrize(
    ("labels", "torch", "words"),
    [
        (
            ("python:python", "python:python"),
            "2.99.0",
            "time of python:python (torch 2.99.0) over python:python (torch TORCH)",
        ),
        (
            ("python:python", "python:python"),
            None,
            "time of python:python (candidate) over python:python (baseline)",
        ),
        (("python:a", "python:b"), "2.99.0", "time of python:b over python:a"),
        ((".", "."), None, "time of . over ."),
    ],
)
def test_the_heading_tells_interpreters_of_one_name_apart(
    labels: tuple[str, str], torch: str | None, words: str
) -> None:
    comparison = Comparison()
    place = comparison.candidate.place
    if torch is not None:
        software = dataclasses.replace(place.software, torch=torch)
        comparison.candidate.place = dataclasses.replace(place, software=software)
    first, second = (dataclasses.replace(arm, label=label) for arm, label in zip(ARMS, labels, strict=True))
    comparison.live = LiveComparison((first, second), (comparison.baseline, comparison.candidate), OPTIONS)
    assert heading(comparison.run())[0] == words.replace("TORCH", place.software.torch) + " on cpu"


def test_a_dataset_that_an_arm_cannot_read_names_the_arm() -> None:
    comparison = Comparison()
    failing = fail_trial(FailureKind.CRASH, "TypeError: load() takes 1 argument")
    comparison.baseline.on = lambda request: failing if request["do"] == "dataset" else None
    with pytest.raises(WorkerError, match=r"baseline rev:main: .*TypeError"):
        comparison.run()


def test_arms_that_compute_different_losses_do_not_train_alike() -> None:
    comparison = Comparison()
    comparison.candidate.first_loss = 2.31
    assert [row.trains_alike for row in comparison.run().rows] == [False, False]
    comparison = Comparison()
    comparison.candidate.first_loss = 2.3 * (1 + 1e-6)
    assert [row.trains_alike for row in comparison.run().rows] == [True, True]


def test_arms_that_read_different_data_are_incomparable() -> None:
    comparison = Comparison()
    comparison.candidate.dataset = dataclasses.replace(comparison.candidate.dataset, sha256="0" * 64)
    with pytest.raises(IncomparableError, match="different data"):
        comparison.run()


def test_an_arm_that_cannot_start_is_incomparable_and_named_with_what_helps() -> None:
    comparison = Comparison()
    comparison.baseline.broken = True
    with pytest.raises(
        IncomparableError, match=r"baseline rev:main does not work with this harness.*; name a revision"
    ):
        comparison.run()
    comparison = Comparison()
    comparison.candidate.broken = True
    with pytest.raises(IncomparableError, match=r"candidate \. does not work with this harness.*; repair this tree$"):
        comparison.run()


def test_an_arm_whose_python_cannot_start_is_not_blamed_on_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_ranks: int = 1) -> NoReturn:
        raise HostError("No module named 'torch'; install it")

    comparison = Comparison()
    monkeypatch.setattr(comparison.baseline, "start", fail)
    with pytest.raises(IncomparableError, match=r"^baseline rev:main does not work .* 'torch'; install it$"):
        comparison.run()


def have_all(arm: FakeLauncher) -> None:
    available = tuple(dataclasses.replace(status, available=True) for status in arm.place.devices)
    arm.place = dataclasses.replace(arm.place, devices=available)


@pytest.mark.parametrize(("having", "lacking"), [("baseline", r"candidate \."), ("candidate", "baseline rev:main")])
def test_a_device_that_only_one_arm_has_is_refused(having: str, lacking: str) -> None:
    comparison = Comparison()
    have_all(getattr(comparison, having))
    with pytest.raises(BadInputError, match=rf"{lacking}: .*cuda"):
        comparison.run(dataclasses.replace(REQUEST, devices=("cpu", "cuda")))


def test_different_settings_of_the_arms_are_incomparable() -> None:
    comparison = Comparison()
    comparison.candidate.on = prepare_with_other_threads
    report = comparison.run()
    assert verdicts(report) == [Verdict.INCOMPARABLE, Verdict.INCOMPARABLE]
    assert report.exit_code is ExitCode.INCOMPARABLE


def prepare_with_other_threads(request: Request) -> dict[str, Any] | None:
    if request["do"] != "prepare":
        return None
    answer = FakeLauncher().respond(request)
    answer["answer"]["settings"]["threads"] += 1
    return answer


@pytest.mark.slow
def test_planted_work_is_a_regression_through_real_processes_and_equal_arms_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A pair of these varies by some 10 %, with which four find the doubled work; whole ones take three seconds each.
    monkeypatch.setattr(live_comparison, "measure_pair", functools.partial(measure_pair, blocks=3, turn_seconds=0.05))
    plant_slowdown(tmp_path, 1.0)
    request = plan.Request(models=("784-256-10",), batch_sizes=(256,), repeats=1, dataset="synthetic", threads=(1,))
    arms = [(sys.executable, None), (sys.executable, tmp_path)]
    (own, planted), _ = make_arm_launchers(arms)
    with contextlib.closing(own):
        options = dataclasses.replace(OPTIONS, screen_pairs=2, confirm_pairs=4)
        for candidate, verdict in ((planted, Verdict.REGRESSION), (own, None)):
            live = LiveComparison((ARMS[0], ARMS[1]), (own, candidate), options)
            live.plan(request)
            report = live.report(live.run({"cpu": None}))
            (row,) = report.rows
            assert row.trains_alike
            if verdict is None:
                assert row.judgement.verdict is not Verdict.REGRESSION
            else:
                assert row.judgement.verdict is verdict, row.judgement
                assert row.judgement.estimate is not None
                assert row.judgement.estimate.value > 0.2
