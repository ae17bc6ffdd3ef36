"""How stored runs are named, and found by path, by the beginning of their id, or as the latest."""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_builders import make_header, make_run
from stored_runs import store

from bench.errors import BadInputError
from bench.records import Header, Run
from bench.storage.references import new_run_id, resolve, run_path


def stored(directory: Path, run_id: str, created_at: str, name: str = "x") -> Path:
    header: Header = make_header(run_id=run_id, created_at=created_at, name=name)
    path = run_path(directory, header)
    store(Run(header=header, records=(), footer=None), path)
    return path


def test_latest_is_a_published_run_only_where_there_is_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published, own = tmp_path / "reference" / "box" / "quick.jsonl", tmp_path / "box" / "own.jsonl"
    for path in (own, published):
        path.parent.mkdir(parents=True)
    store(make_run(), published)
    assert resolve("latest", tmp_path) == published
    assert "a published run: there are none of your own under" in capsys.readouterr().err
    store(make_run(), own)
    os.utime(own, (0, 0))
    assert resolve("latest", tmp_path) == own
    assert capsys.readouterr().err == ""


def test_a_reference_is_a_path_or_the_beginning_of_an_id_or_latest(tmp_path: Path) -> None:
    older = stored(tmp_path, "aa01beef", "2026-11-21T03:15:00Z", name="zzz")
    newer = stored(tmp_path / "deeper", "aa02beef", "2026-11-21T04:30:00+01:00", name="aaa")
    assert resolve(str(older), tmp_path / "elsewhere") == older
    assert resolve("aa01", tmp_path) == older
    assert resolve("aa02beef", tmp_path) == newer
    assert resolve("latest", tmp_path) == newer


def test_the_run_before_the_latest_and_those_before_it_have_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = stored(tmp_path / "reference", "cc01beef", "2026-11-21T03:15:30Z")
    paths = [stored(tmp_path, f"aa0{minute}beef", f"2026-11-21T03:1{minute}:00Z") for minute in (5, 6, 7)]
    assert [resolve(f"latest~{number}", tmp_path) for number in (1, 2)] == [paths[1], paths[0]]
    assert capsys.readouterr().err == ""
    with pytest.raises(BadInputError, match="latest~3 is before the first of the 3 runs of your own under"):
        resolve("latest~3", tmp_path)
    for path in paths:
        path.unlink()
    stored(tmp_path / "reference", "cc02beef", "2026-11-21T03:16:30Z")
    assert resolve("latest~1", tmp_path) == published
    assert "latest~1 is" in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["latest~0", "latest~", "latest~x", "latest~-1", "latest~\u0661", "latest^"])
def test_other_words_after_latest_are_refused(tmp_path: Path, reference: str) -> None:
    stored(tmp_path, "aa01beef", "2026-11-21T03:15:00Z")
    with pytest.raises(BadInputError, match="nor latest~1 "):
        resolve(reference, tmp_path)


@pytest.fixture
def ahead_of_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "NPT-05:45")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(sys.platform == "win32", reason="there, a process cannot have a time zone of its own")
@pytest.mark.usefixtures("ahead_of_utc")
def test_a_time_without_zone_counts_as_utc(tmp_path: Path) -> None:
    stored(tmp_path, "aa01beef", "2026-11-21T03:15:00Z")
    newer = stored(tmp_path, "aa02beef", "2026-11-21T03:16:00")
    assert resolve("latest", tmp_path) == newer


def test_an_ambiguous_reference_lists_the_candidates_newest_first(tmp_path: Path) -> None:
    older = stored(tmp_path, "aa01beef", "2026-11-21T03:15:00Z")
    newer = stored(tmp_path, "aa02beef", "2026-11-21T03:16:00Z")
    stored(tmp_path, "bb01beef", "2026-11-21T03:17:00Z")
    with pytest.raises(BadInputError) as caught:
        resolve("aa", tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 run ids start with 'aa': give more digits, or a path. The newest candidates:"
    assert lines[1:] == [f"  aa02beef  {newer}", f"  aa01beef  {older}"]


@pytest.mark.parametrize("reference", ["cc", "", "AA01", "aa01beef0", "x" * 300])
def test_a_reference_to_nothing_lists_what_there_is(tmp_path: Path, reference: str) -> None:
    for index in range(12):
        stored(tmp_path, f"aa{index:02}beef", f"2026-11-21T03:{index:02}:00Z")
    with pytest.raises(
        BadInputError, match="neither a file, the beginning of a run id, latest, nor latest~1"
    ) as caught:
        resolve(reference, tmp_path)
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == [
        f"aa{i:02}beef" for i in range(11, 1, -1)
    ]


def test_a_path_to_nothing_is_refused(tmp_path: Path) -> None:
    for reference in ("missing.jsonl", str(tmp_path)):
        with pytest.raises(BadInputError, match="is not a file: name a stored run"):
            resolve(reference, tmp_path)


def test_without_stored_runs_the_remedy_is_to_make_one(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInputError, match=r"there are no stored runs under .*python -m bench run"):
            resolve("latest", directory)


def test_runs_behind_linked_folders_are_found_once(tmp_path: Path) -> None:
    results, disk = tmp_path / "results", tmp_path / "disk"
    path = stored(disk, "aa01beef", "2026-11-21T03:15:00Z")
    results.mkdir()
    (results / "box").symlink_to(disk / path.parent.name)
    (results / "again").symlink_to(disk / path.parent.name)
    (disk / path.parent.name / "loop").symlink_to(results)
    found = resolve("latest", results)
    assert found.samefile(path)
    assert resolve("aa01", results) == found


def test_files_that_are_not_runs_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "b.jsonl").write_text("other\n")
    (tmp_path / "c.jsonl").write_text('{"header":{"created_at":7,"run_id":"aa"}}\n')
    (tmp_path / "d.jsonl").write_text('{"header":{"created_at":"2026-11-21","run_id":7}}\n')
    only = stored(tmp_path, "aa01beef", "2026-11-21T03:15:00Z")
    assert resolve("latest", tmp_path) == only


def test_a_newer_schemas_run_is_found_so_that_reading_it_can_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"header":{"schema_version":2,"created_at":"2026-11-21","run_id":"aa"}}\n')
    assert resolve("aa", tmp_path) == path


def test_a_runs_path_contains_machine_time_name_and_id(tmp_path: Path) -> None:
    header = make_header(created_at="2026-11-21T04:15:00+01:00")
    expected = tmp_path / header.machine.id / "20261121T031500Z-nightly-0a1b2c3d.jsonl"
    assert run_path(tmp_path, header) == expected


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "a b", "x" * 49, "a\n", "a\0"])
def test_a_name_that_fits_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="cannot be part of a file name"):
        run_path(tmp_path, make_header(name=name))


@pytest.mark.parametrize("created_at", ["", "yesterday", "0001-01-01T00:00:00+14:00"])
def test_an_invalid_time_of_creation_is_refused(tmp_path: Path, created_at: str) -> None:
    with pytest.raises(BadInputError, match="must be an ISO 8601 time"):
        run_path(tmp_path, make_header(created_at=created_at))


def test_run_ids_are_eight_random_digits_that_no_program_takes_for_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{8}", run_id) for run_id in ids)
    drawn = iter(["12345678", "1234e567", "1234f567"])
    monkeypatch.setattr("secrets.token_hex", lambda _size: next(drawn))
    assert new_run_id() == "1234f567"
