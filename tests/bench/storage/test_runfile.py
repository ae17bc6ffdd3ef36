"""Reading stored runs: whole, damaged, and written by others."""

import dataclasses
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from bench_builders import (
    make_configuration,
    make_division,
    make_epoch,
    make_exchange,
    make_failure,
    make_fingerprint,
    make_footer,
    make_header,
    make_machine,
    make_measurement,
    make_plan,
    make_record,
    make_run,
)
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import store

from bench.errors import BadInputError, ExitCode
from bench.records import SCHEMA_VERSION, Division, Failure, FailureKind, Peak, Run, TrialRecord, TrialWarning
from bench.storage import runfile
from bench.storage.runfile import skim
from bench.storage.store import RunWriter, read_run

RECORDS: Final = (make_record(repeat=0), make_record(repeat=1, outcome=make_failure()), make_record(repeat=2))
RUN: Final = make_run(records=RECORDS)


def write_run(path: Path, run: Run = RUN) -> bytes:
    return store(run, path).read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        read_run(path)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


# Round trip


def test_a_stored_run_reads_back_as_it_was(tmp_path: Path) -> None:
    write_run(tmp_path / "deep" / "run.jsonl")
    assert read_run(tmp_path / "deep" / "run.jsonl") == RUN
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.jsonl"]


def test_each_line_has_one_member_that_names_its_kind(tmp_path: Path) -> None:
    lines = write_run(tmp_path / "run.jsonl").splitlines()
    assert [line[: line.index(b":")] for line in lines] == [b'{"header"', *[b'{"trial"'] * 3, b'{"footer"']


def test_a_growing_run_can_be_read(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run.jsonl", RUN.header) as writer:
        assert read_run(tmp_path / "run.jsonl") == dataclasses.replace(RUN, records=(), footer=None)
        writer.append(RECORDS[0])
        assert read_run(tmp_path / "run.jsonl").records == RECORDS[:1]


finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, max_value=1e300)
counts = st.integers(min_value=0, max_value=2**63 - 1)
peaks = st.none() | st.builds(Peak, bytes=counts, method=st.text())
epochs = st.builds(make_epoch, train_seconds=positive, train_loss=finite, test_correct=st.none() | counts)
outcomes = st.builds(Failure, kind=st.sampled_from(FailureKind), message=st.text()) | st.builds(
    make_measurement,
    epochs=st.lists(epochs, min_size=1, max_size=3).map(tuple),
    host_baseline_bytes=st.none() | counts,
    device_allocated_peak=peaks,
)
records = st.builds(
    make_record,
    outcome=outcomes,
    warnings=st.lists(st.sampled_from(TrialWarning)).map(tuple),
    started_at=st.text(),
    wall_seconds=finite,
)


@given(records)
def test_any_record_reads_back_as_it_was(record: TrialRecord) -> None:
    line = runfile.encode(record)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert runfile.decode(line) == record


# Damage


def test_a_file_cut_at_any_byte_reads_as_a_prefix_or_is_refused(tmp_path: Path) -> None:
    # One epoch, then a failure: every byte of their lines is cut at, and each reads the whole file before it.
    records = (make_record(outcome=make_measurement(epochs=(make_epoch(),))), RECORDS[1])
    small = dataclasses.replace(RUN, header=make_header(command=(), plan=make_plan()), records=records)
    whole = write_run(tmp_path / "whole.jsonl", small)
    header_end = whole.index(b"\n") + 1
    cut = tmp_path / "cut.jsonl"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        if length < header_end:
            assert "is not a stored run" in refusal(cut)
            continue
        run = read_run(cut)
        complete = whole[:length].count(b"\n") - 1
        assert run.header == small.header
        assert run.records == records[:complete]
        assert run.footer is None
        assert bool(run.warnings) == (not whole[:length].endswith(b"\n"))


def test_a_torn_last_line_is_reported_in_words(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "run.jsonl")
    (tmp_path / "run.jsonl").write_bytes(whole[:-30])
    (warning,) = read_run(tmp_path / "run.jsonl").warnings
    assert re.fullmatch(r"line 5, the last one, was cut off: its \d+ bytes are dropped", warning)


@pytest.mark.parametrize("tail", [b"\n", b'{"trial":{\n', b"\0" * 512, b"\0" * 512 + b"\n", b"\xff\n"])
def test_a_last_line_that_is_not_json_counts_as_torn(tmp_path: Path, tail: bytes) -> None:
    whole = write_run(tmp_path / "run.jsonl")
    (tmp_path / "run.jsonl").write_bytes(whole + tail)
    run = read_run(tmp_path / "run.jsonl")
    assert (run.records, run.footer, len(run.warnings)) == (RECORDS, RUN.footer, 1)


@given(data=st.data())
def test_flipped_bytes_raise_nothing_but_bad_input(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.jsonl"
    whole = bytearray(b"".join(runfile.encode(item) for item in (RUN.header, *RECORDS, make_footer())))
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        run = read_run(path)
    except BadInputError:
        return
    assert len(run.records) <= len(RECORDS)


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_bad_input(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    refusal(path)


def replaced(number: int, line: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines[: number - 1], line, *lines[number:]]


# Fast and exact reading


def outcome_of_reading(path: Path) -> Run | str:
    try:
        return read_run(path)
    except BadInputError as error:
        return str(error)


def outcome_of_exact_reading(path: Path) -> Run | str:
    """Read without the fast way, every line by `runfile.decode`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runfile, "_canonical_reader", lambda *_: lambda _line: None)
        return outcome_of_reading(path)


@given(data=st.data())
def test_damaged_lines_read_or_are_refused_in_the_same_words_as_in_the_exact_way(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    lines = [runfile.encode(item) for item in (RUN.header, *RECORDS, make_footer())]
    number = data.draw(st.integers(0, 3))
    line = lines[number]
    start, taken, length = data.draw(
        st.tuples(st.integers(0, len(line)), st.integers(0, len(line)), st.integers(0, 40))
    )
    piece = data.draw(
        st.sampled_from(
            [b"", b" ", b"\n", b"1", b",", b"}", b"]", b'"', b"1e999", b"NaN", b"null", b"\xc3\xa9", b"\xff"]
        )
        | st.just(line[taken : taken + length])
    )
    lines[number] = line[:start] + piece + line[start + data.draw(st.sampled_from([0, 1, length])) :]
    path.write_bytes(b"".join(lines[: data.draw(st.sampled_from([number + 1, len(lines)]))]))
    assert outcome_of_reading(path) == outcome_of_exact_reading(path)


@pytest.mark.parametrize(
    ("place", "written", "changed"),
    [
        (0, b'"repeats":3', b'"repeats": 3'),
        (0, b'"learning_rate":0.001', b'"learning_rate":1e-3'),
        (0, b'"cpu_model":"', b'"cpu_model":"\\u0041'),
        (2, b'"seed":43,"repeat":1', b'"repeat":1,"seed":43'),
        (2, b'"seed":43', b'"seed": 43'),
        (2, b"}\n", b"}\r\n"),
        (2, b'"wall_seconds":9.5', b'"wall_seconds":9'),
        (2, b"9 GiB wanted", "9 GiB wanted, \N{SNOWMAN}".encode()),
        (2, b"9 GiB wanted", b"9 \\u0047iB wanted"),
        (2, b'"learning_rate":0.001', b'"learning_rate":1e-3'),
        (2, b'"momentum":0.0', b'"momentum":0'),
    ],
)
def test_a_line_written_by_another_program_is_read_too(
    tmp_path: Path, place: int, written: bytes, changed: bytes
) -> None:
    path = tmp_path / "run.jsonl"
    lines = write_run(path).splitlines(keepends=True)
    assert written in lines[place]
    lines[place] = lines[place].replace(written, changed)
    path.write_bytes(b"".join(lines))
    run = read_run(path)
    assert run.records[::2] == RECORDS[::2]
    assert run.records[1].trial == RECORDS[1].trial
    assert all(record.trial.configuration is run.header.plan.configurations[0] for record in run.records)
    assert run == outcome_of_exact_reading(path)


def test_lines_as_they_are_written_are_read_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run.jsonl")
    decoded: list[object] = []

    def decode(line: bytes) -> runfile.Item:
        decoded.append(original(line))
        return original(line)

    original = runfile.decode
    monkeypatch.setattr(runfile, "decode", decode)
    monkeypatch.delattr(runfile, "_read_header")
    assert read_run(tmp_path / "run.jsonl") == RUN
    assert decoded == [RUN.footer]


def test_records_share_the_plans_configurations(tmp_path: Path) -> None:
    configurations = (make_configuration(), make_configuration(batch_size=7))
    write_run(tmp_path / "run.jsonl", make_run(configurations))
    run = read_run(tmp_path / "run.jsonl")
    assert len(run.records) == 6
    for record in run.records:
        assert any(record.trial.configuration is chosen for chosen in run.header.plan.configurations)


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_the_garbage_collector_as_it_was(tmp_path: Path, *, enabled: bool) -> None:
    write_run(tmp_path / "run.jsonl")
    (tmp_path / "broken.jsonl").write_bytes((tmp_path / "run.jsonl").read_bytes() + b"{}\n")
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        read_run(tmp_path / "run.jsonl")
        assert gc.isenabled() == enabled
        refusal(tmp_path / "broken.jsonl")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


BROKEN: Final = {
    "a line of no JSON": (replaced(3, b"torn"), "line 3: not valid JSON.*--resume"),
    "an empty line": (replaced(3, b""), "line 3: not valid JSON"),
    "a line of another kind": (
        replaced(3, b'{"epoch":{}}'),
        "line 3: a line must be .* one of header, fingerprint, trial, footer",
    ),
    "a line of two kinds": (replaced(3, b'{"trial":{},"footer":{}}'), "line 3: a line must be"),
    "a line that is a list": (replaced(3, b"[1]"), "line 3: a line must be"),
    "a record without members": (replaced(3, b'{"trial":{}}'), "line 3: trial lacks trial, outcome"),
    "a last line with NaN": (replaced(5, b'{"footer":NaN}'), "line 5: not valid JSON: NaN"),
    "a last line with an unknown member": (replaced(5, b'{"footer":{"x":1}}'), "line 5: footer lacks"),
    "a second header": (replaced(3, runfile.encode(RUN.header)[:-1]), "line 3: a second header"),
    "a line that ends otherwise": (
        replaced(3, runfile.encode(make_record(repeat=1))[:-2] + b"]"),
        "line 3: not valid JSON",
    ),
    "a trial twice": (replaced(3, runfile.encode(RECORDS[0])[:-1]), "line 3: .*repeat 0 is stored already"),
    "a trial outside of the plan": (
        replaced(3, runfile.encode(make_record(make_configuration(batch_size=7)))[:-1]),
        "line 3: .* is not in the plan: 1 configurations, 3 repeats, seeds from 42",
    ),
    "a repeat too many": (replaced(3, runfile.encode(make_record(repeat=3))[:-1]), "repeat 3, seed 45 is not in"),
    "another seed": (
        replaced(3, runfile.encode(make_record()).replace(b'"seed":42', b'"seed":7')[:-1]),
        "repeat 0, seed 7 is not in",
    ),
    "a measurement of no epoch": (
        replaced(3, runfile.encode(make_record(repeat=1, outcome=make_measurement(epochs=())))[:-1]),
        "line 3: a measurement needs at least one epoch",
    ),
    "an epoch of no time": (
        replaced(3, runfile.encode(make_record(repeat=1)).replace(b'"train_seconds":2.0', b'"train_seconds":0')[:-1]),
        "line 3: an epoch's train_seconds.* above 0",
    ),
    "a trial of a place that is not told": (
        replaced(3, runfile.encode(make_record(repeat=1, fingerprint=1))[:-1]),
        "line 3: it refers to fingerprint 1, but only 1 precede it",
    ),
    "a fingerprint twice": (
        replaced(3, runfile.encode(make_fingerprint())[:-1]),
        "line 3: a fingerprint that the file has already",
    ),
    "a header with an unknown member": (
        lambda lines: [lines[0].replace(b'"run_id"', b'"x":1,"run_id"'), *lines[1:]],
        "line 1: header has unknown 'x'; restore",
    ),
    "a header with an impossible version": (
        lambda lines: [lines[0].replace(b'"schema_version":%d' % SCHEMA_VERSION, b'"schema_version":0'), *lines[1:]],
        "its schema_version is 0, but versions are whole numbers from 1",
    ),
}


@pytest.mark.parametrize(
    "division",
    [
        dataclasses.replace(make_division((1,)), held=()),
        make_division((1, 1), of=2),
        dataclasses.replace(make_division((1,)), shards=0),
        dataclasses.replace(make_division((1,)), configurations=0),
        make_division((2, -1)),
        dataclasses.replace(make_division((1, 0)), held=make_division((1, 0)).held[::-1]),
        dataclasses.replace(
            make_division((1, 0)),
            held=tuple(dataclasses.replace(each, number=2) for each in make_division((1, 0)).held),
        ),
    ],
)
def test_a_division_that_could_not_be_is_refused(tmp_path: Path, division: Division) -> None:
    write_run(tmp_path / "run.jsonl", make_run(division=division))
    assert re.search("line 1: header.division has .*; restore", refusal(tmp_path / "run.jsonl"))


def test_a_machine_without_memory_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", make_run(machine=make_machine(memory_bytes=0)))
    assert "line 1: machine.memory_bytes is 0, but must be above 0; restore" in refusal(tmp_path / "run.jsonl")
    with pytest.raises(BadInputError, match=r"machine\.memory_bytes is 0"):
        skim(tmp_path / "run.jsonl")


def test_a_plan_without_configurations_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", make_run([], 1, records=[]))
    assert "line 1: header.plan has no configurations; restore" in refusal(tmp_path / "run.jsonl")


@pytest.mark.parametrize("layers", [(), (784,)])
def test_a_model_without_input_and_output_is_refused(tmp_path: Path, layers: tuple[int, ...]) -> None:
    header = make_header(plan=make_plan(configurations=(make_configuration(layers=layers),)))
    (tmp_path / "run.jsonl").write_bytes(runfile.encode(header))
    assert "line 1: header.plan has a configuration with fewer than two layers" in refusal(tmp_path / "run.jsonl")


@pytest.mark.parametrize("name", ["together_seconds", "apart_seconds"])
def test_an_exchange_of_no_time_is_refused(tmp_path: Path, name: str) -> None:
    exchange = make_exchange(**{name: (0.0,)})
    run = make_run(records=[make_record(outcome=make_measurement(exchange=exchange))])
    (tmp_path / "run.jsonl").write_text("".join(runfile.lines_of(run)), encoding="utf-8")
    assert f"{name} must sum to more than 0" in refusal(tmp_path / "run.jsonl")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_refused_with_its_number_the_rule_and_a_remedy(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    lines = write_run(tmp_path / "run.jsonl").splitlines()
    (tmp_path / "run.jsonl").write_bytes(b"".join(line + b"\n" for line in change(lines)))
    assert re.search(message, refusal(tmp_path / "run.jsonl"))


def test_a_newer_schema_is_refused_before_its_unknown_members(tmp_path: Path) -> None:
    newer = SCHEMA_VERSION + 1
    (tmp_path / "run.jsonl").write_text(f'{{"header":{{"schema_version":{newer},"new":[]}}}}\n{{"new":{{}}}}\n')
    message = f"has schema version {newer}, but this bench reads versions up to {SCHEMA_VERSION}: upgrade bench"
    assert message in refusal(tmp_path / "run.jsonl")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "its first line is not valid JSON"),
        (b"run_id,device\n1,cpu\n", "its first line is not valid JSON"),
        (b'{"a":1}\n', "its first line is not a header"),
        (b'{"header":[]}\n', "its first line is not a header"),
        (b'["header"]\n', "its first line is not a header"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b"{", "its first line is cut off, or is not a header"),
    ],
)
def test_another_file_is_refused_with_a_remedy(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file").write_bytes(content)
    message = refusal(tmp_path / "file")
    assert message.startswith(f"{tmp_path / 'file'} is not a stored run: ")
    assert reason in message
    assert message.endswith("name a file that `python -m bench run` wrote")


def test_anything_but_an_ordinary_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "it is not an ordinary file" in refusal(tmp_path / "pipe")
    assert "it is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing.jsonl")
    assert "null" in refusal(tmp_path / "\0")
    assert "too long" in refusal(tmp_path / ("x" * 999))


def test_a_line_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfile, "MAX_LINE_BYTES", 100)
    (tmp_path / "run.jsonl").write_bytes(b"x" * 101)
    assert "line 1 is longer than 100 bytes" in refusal(tmp_path / "run.jsonl")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run.jsonl")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # the tests may run as root, whom no mode stops
    assert "it cannot be read: Permission denied" in refusal(tmp_path / "run.jsonl")
