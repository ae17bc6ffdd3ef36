"""Which configurations of two runs are paired, in which order, and what is left over."""

from bench_builders import make_configuration
from stored_runs import side

from bench.compare.matching import match, varying_dimensions
from bench.compare.trials import Trials, gather
from bench.records import Configuration
from bench.tables.machines import on_machine


def measured(*chosen: Configuration) -> tuple[Trials, ...]:
    return gather(side(dict.fromkeys(chosen, 2.0), repeats=1))


def threads_of(trials: Trials) -> int:
    assert isinstance(trials.subject, Configuration)
    return trials.subject.threads


def test_configurations_that_could_be_paired_in_two_ways_are_not_paired() -> None:
    ours = measured(*(make_configuration(threads=threads) for threads in (1, 2)))
    theirs = measured(*(make_configuration(threads=threads) for threads in (4, 8)))
    matching = match(ours, theirs, ignoring=("threads",))
    assert matching.pairs == ()
    assert (matching.baseline_only, matching.candidate_only) == (ours, theirs)


def test_what_differs_in_an_ignored_member_is_paired_in_its_place_and_no_longer_left_over() -> None:
    sizes = (64, 256, 1024)
    ours = measured(*(make_configuration(batch_size=size, threads=8 if size == 64 else 2) for size in sizes))
    theirs = measured(*(make_configuration(batch_size=size, threads=2) for size in sizes))
    matching = match(ours, theirs, ignoring=("threads",))
    assert [(threads_of(one), threads_of(other)) for one, other in matching.pairs] == [(8, 2), (2, 2), (2, 2)]
    assert [one.subject for one, _ in matching.pairs] == [trials.subject for trials in ours]
    assert (matching.baseline_only, matching.candidate_only) == ((), ())


def test_the_machine_tells_configurations_apart_only_where_there_are_several() -> None:
    eager, fused = make_configuration(), make_configuration(engine="fused")
    assert varying_dimensions([on_machine(eager, "a"), on_machine(fused, "a")]) == ("engine",)
    assert varying_dimensions([on_machine(eager, "a"), on_machine(fused, "b")]) == ("machine_id", "engine")
