"""Efficiencies of several ranks, and the terms fitted to them."""

import csv
import dataclasses
import json
import statistics

import numpy as np
import pytest
from bench_builders import (
    make_configuration,
    make_epochs,
    make_exchange,
    make_failure,
    make_measurement,
    make_record,
    make_run,
)
from scipy import stats
from stored_runs import shuffled

from bench.analysis.rank_scaling import fit_ranks, ring_share
from bench.analysis.ranks_view import render_ranks
from bench.errors import BadInputError
from bench.records import Configuration, Measurement, Run, TrialRecord
from bench.tables.show import render_run
from bench.tables.summary import summarise

SERIAL, PARALLEL, EXCHANGE = 0.5, 4.0, 0.25


def model_seconds(ranks: int) -> float:
    return SERIAL + PARALLEL / ranks + EXCHANGE * ring_share(ranks)


def trial(ranks: int, repeat: int, seconds: float | None = None, **changes: int | str) -> TrialRecord:
    """A trial whose epochs take what the terms say, its exchange of gradients that term's share."""
    taken = model_seconds(ranks) if seconds is None else seconds
    exchanged = EXCHANGE * ring_share(ranks) / model_seconds(ranks)
    exchange = make_exchange(together_seconds=(1.0,), apart_seconds=(1 - exchanged,)) if ranks > 1 else None
    epochs = tuple(dataclasses.replace(epoch, train_seconds=taken) for epoch in make_epochs())
    return make_record(
        make_configuration(world_size=ranks, **changes),
        repeat=repeat,
        outcome=make_measurement(epochs=epochs, exchange=exchange),
    )


def run_of(*records: TrialRecord) -> Run:
    run = make_run()
    configurations = tuple(dict.fromkeys(record.trial.configuration for record in records))
    plan = dataclasses.replace(run.header.plan, configurations=configurations)
    return dataclasses.replace(run, header=dataclasses.replace(run.header, plan=plan), records=records)


def test_in_a_ring_each_rank_sends_nearly_twice_the_gradients() -> None:
    assert [ring_share(ranks) for ranks in (1, 2, 4, 8)] == [0.0, 1.0, 1.5, 1.75]


def test_the_order_of_the_records_does_not_matter() -> None:
    records = [trial(ranks, repeat, 4.0 / ranks + 0.01 * repeat) for repeat in range(3) for ranks in (1, 2, 4)]
    expected = fit_ranks(records)
    assert all(fit_ranks(shuffled(records, seed)) == expected for seed in range(20))


def test_the_terms_that_made_the_times_are_found_and_predict_more_ranks() -> None:
    (found,) = fit_ranks([trial(ranks, repeat) for ranks in (1, 2, 4) for repeat in range(3)])
    assert found.configuration == make_configuration(world_size=1)
    assert found.serial_seconds.mean == pytest.approx(SERIAL)
    assert found.parallel_seconds.mean == pytest.approx(PARALLEL)
    assert found.exchange_seconds.mean == pytest.approx(EXCHANGE)
    assert list(found.predicted) == [1, 2, 4, 8, 16]
    for ranks, seconds in found.predicted.items():
        assert seconds.mean == pytest.approx(model_seconds(ranks))
        assert found.efficiencies[ranks].mean == pytest.approx(model_seconds(1) / ranks / model_seconds(ranks))


def test_the_interval_is_over_repeats_and_there_is_none_of_one() -> None:
    slower = [trial(ranks, 1, 1.2 * model_seconds(ranks)) for ranks in (1, 2)]
    quick = [trial(ranks, 0) for ranks in (1, 2)]
    (both,) = fit_ranks([*quick, *slower])
    seconds = both.predicted[4]
    assert seconds.mean == pytest.approx(1.1 * model_seconds(4))
    assert seconds.low is not None
    assert seconds.high is not None
    assert seconds.low < model_seconds(4) < 1.2 * model_seconds(4) < seconds.high
    # A machine that is slower as a whole is not less efficient.
    assert both.efficiencies[4].high == pytest.approx(both.efficiencies[4].low)
    (alone,) = fit_ranks(quick)
    assert (alone.predicted[4].low, alone.predicted[4].high) == (None, None)


def test_the_interval_is_students() -> None:
    times = [1.0, 1.1, 1.4]
    (found,) = fit_ranks(
        [trial(ranks, repeat, slower * model_seconds(ranks)) for ranks in (1, 2) for repeat, slower in enumerate(times)]
    )
    seconds = [each * model_seconds(4) for each in times]
    low, high = stats.t.interval(0.95, 2, loc=statistics.fmean(seconds), scale=stats.sem(seconds))
    assert (found.predicted[4].low, found.predicted[4].high) == pytest.approx((low, high))


@pytest.mark.parametrize("repeats", [3, 15])
def test_intervals_hold_where_nothing_is_serial(repeats: int) -> None:
    random, covered = np.random.default_rng(1), np.zeros(3)
    together = 2 / (1 - EXCHANGE * ring_share(2) / model_seconds(2))
    for _ in range(100):
        noise = np.exp(0.05 * random.standard_normal((repeats, 2)))
        records = [
            trial(ranks, repeat, seconds * noise[repeat, ranks - 1])
            for repeat in range(repeats)
            for ranks, seconds in ((1, 4.0), (2, together))
        ]
        (found,) = fit_ranks(records)
        told = ((found.efficiencies[2], 2 / together), (found.predicted[4], 1 + 1.5 * (together - 2)))
        for place, (spread, truth) in enumerate((*told, (found.serial_seconds, 0.0))):
            assert spread.low is not None
            assert spread.high is not None
            assert spread.low >= 0
            covered[place] += spread.low <= truth <= spread.high
    assert covered.min() >= 89  # in each repeat fitted with no negative term: 27, 42 and 20 for 15 repeats


def test_a_repeat_of_which_a_world_size_failed_is_left_out() -> None:
    whole = [trial(ranks, 0) for ranks in (1, 2, 4)]
    part = [trial(ranks, 1, 9.0) for ranks in (1, 2)]
    failed = make_record(make_configuration(world_size=4), 1, outcome=make_failure())
    (found,) = fit_ranks([*whole, *part, failed])
    assert (dataclasses.replace(found, left_out=0),) == fit_ranks(whole)
    note = "1 repeat left out, of which a number of ranks was not measured"
    assert note in render_ranks(run_of(*whole, *part, failed), "markdown", 80)
    assert note not in render_ranks(run_of(*whole), "markdown", 80)


def test_the_efficiency_of_a_measured_number_of_ranks_is_as_measured_and_a_bad_fit_is_called_so() -> None:
    # Two ranks do twice as much as one because their parts fit into the caches, which no term says.
    times = {1: 4.0, 2: 1.9, 4: 1.05}
    records = [trial(ranks, repeat, times[ranks]) for ranks in times for repeat in range(3)]
    (found,) = fit_ranks(records)
    for ranks in (2, 4):
        assert found.efficiencies[ranks].mean == pytest.approx(4.0 / ranks / times[ranks])
    assert found.worst[0] == 1
    assert found.worst[1] == pytest.approx(found.predicted[1].mean / 4.0)
    text = render_ranks(run_of(*records), "markdown", 80)
    assert f"the fit misses the time of 1 rank by {100 * (1 - found.worst[1]):.2f} %: do not rely on its terms" in text
    right = [trial(ranks, repeat) for ranks in (1, 2, 4) for repeat in range(3)]
    assert "the fit misses" not in render_ranks(run_of(*right), "markdown", 80)


def test_no_interval_of_an_efficiency_goes_below_zero_and_that_of_one_rank_needs_none() -> None:
    (found,) = fit_ranks([trial(1, 0, 1.0), trial(2, 0, 0.1), trial(1, 1, 1.0), trial(2, 1, 9.0)])
    assert (found.efficiencies[1].low, found.efficiencies[1].high) == (None, None)
    assert found.efficiencies[2].low == 0
    assert found.efficiencies[2].high is not None


def test_fits_are_in_the_order_of_other_tables() -> None:
    records = [trial(ranks, 0, batch_size=size) for size in (256, 64, 1024) for ranks in (2, 1)]
    assert [each.configuration.batch_size for each in fit_ranks(records)] == [64, 256, 1024]


def test_steps_that_are_faster_with_exchange_than_without_have_none() -> None:
    odd = trial(2, 0, 2.0)
    exchange = make_exchange(together_seconds=(1.0,), apart_seconds=(1.2,))
    assert isinstance(odd.outcome, Measurement)
    odd = dataclasses.replace(odd, outcome=dataclasses.replace(odd.outcome, exchange=exchange))
    (found,) = fit_ranks([trial(1, 0, 4.0), odd])
    assert found.exchange_seconds.mean == 0
    assert found.predicted[2].mean == pytest.approx(2.0)


def test_terms_are_never_negative() -> None:
    superlinear = [trial(1, 0, 4.0), trial(2, 0, 1.0)]
    (found,) = fit_ranks(superlinear)
    assert found.serial_seconds.mean == 0.0


@pytest.mark.parametrize(
    "records",
    [
        [],
        [trial(1, 0)],
        [trial(2, 0), trial(4, 0)],
        [trial(1, 0), trial(2, 1)],
        [trial(1, 0), make_record(make_configuration(world_size=2), outcome=make_failure())],
        [trial(1, 0, batch_size=64), trial(2, 0, batch_size=128)],
    ],
    ids=["nothing", "one process", "no single process", "other seeds", "failed ranks", "other batch sizes"],
)
def test_without_one_process_and_several_ranks_of_one_seed_nothing_is_fitted(records: list[TrialRecord]) -> None:
    assert fit_ranks(records) == ()
    with pytest.raises(BadInputError, match="--world-size 1,2"):
        render_ranks(run_of(*records), "table", 80)


def efficiencies(*records: TrialRecord) -> dict[Configuration, list[float | None]]:
    """Return each configuration's strong and weak efficiency."""
    samples = {each.configuration: (each.strong_efficiency, each.weak_efficiency) for each in summarise(records)}
    return {key: [None if each is None else each.median for each in both] for key, both in samples.items()}


def test_efficiency_is_throughput_over_that_many_times_one_process() -> None:
    records = [trial(1, 0, 4.0, batch_size=64), trial(1, 0, 6.0, batch_size=32), trial(2, 0, 2.5, batch_size=64)]
    found = efficiencies(*records)
    assert found[records[0].trial.configuration] == [None, None]
    assert found[records[2].trial.configuration] == pytest.approx([4.0 / 2.5 / 2, 6.0 / 2.5 / 2])


def test_efficiency_compares_trials_of_one_seed() -> None:
    records = [trial(1, 0, 4.0), trial(1, 1, 8.0), trial(2, 0, 2.0), trial(2, 1, 4.0), trial(2, 2, 100.0)]
    (summary,) = [each for each in summarise(records) if each.configuration.world_size == 2]
    assert summary.strong_efficiency is not None
    assert (summary.strong_efficiency.low, summary.strong_efficiency.high, summary.strong_efficiency.n) == (1, 1, 2)


def test_a_table_of_ranks_shows_efficiency_and_exchange_and_others_do_not() -> None:
    text = render_run(run_of(trial(1, 0), trial(2, 0)), format="markdown")
    assert "|   ranks |" in text
    assert "strong efficiency" in text
    assert "exchange share" in text
    assert "weak efficiency" not in text
    alone = render_run(run_of(trial(1, 0)), format="markdown")
    assert "rank" not in alone


def test_title_counts_one_repeat_as_one() -> None:
    assert "(1 repeat)" in render_ranks(run_of(trial(1, 0), trial(2, 0)), "table", 100)


def test_every_format_tells_the_same_terms() -> None:
    run = run_of(*(trial(ranks, repeat) for ranks in (1, 2) for repeat in range(2)))
    table = render_ranks(run, "table", 100)
    assert "exchange: 250 ms" in table
    assert render_ranks(run, "markdown", 80).count("|---") >= 1
    (found,) = json.loads(render_ranks(run, "json", 80))
    assert found["exchange_seconds"]["mean"] == pytest.approx(EXCHANGE)
    header, *rows = render_ranks(run, "csv", 80).splitlines()
    assert len(rows) == 4
    assert header.startswith("device,model,batch_size")


def test_two_pipelines_are_told_apart_in_csv() -> None:
    chosen = [(pipeline, ranks) for pipeline in ("resident", "dataloader") for ranks in (1, 2)]
    records = [trial(ranks, repeat, pipeline=pipeline) for pipeline, ranks in chosen for repeat in range(2)]
    rows = csv.DictReader(render_ranks(run_of(*records), "csv", 80).splitlines())
    assert {(row["pipeline"], row["engine"], row["ranks"]) for row in rows} == {
        (pipeline, "eager", str(ranks)) for pipeline in ("resident", "dataloader") for ranks in (1, 2, 4, 8)
    }
