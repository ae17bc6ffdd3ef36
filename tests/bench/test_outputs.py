from pathlib import Path

from bench.outputs import remove_abandoned, write_atomically


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run[1].csv"
    write_atomically(path, "whole")
    for name in (".run[1].csv.0a1b2c3d.tmp", ".run1.csv.0a1b2c3d.tmp", ".run[1].csv.lock", "run[1].csv.tmp"):
        (tmp_path / name).touch()
    remove_abandoned(path)
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {"run[1].csv", ".run1.csv.0a1b2c3d.tmp", ".run[1].csv.lock", "run[1].csv.tmp"}


def test_a_missing_folder_holds_nothing_to_remove(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "missing" / "run.csv")
