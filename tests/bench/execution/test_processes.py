import pytest

from bench.errors import WorkerError
from bench.execution.processes import Log, describe_end


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (3, "exit status 3"), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-200, "200")]
)
def test_end_of_a_process_is_described_in_words(status: int, words: str) -> None:
    assert words in describe_end(status)


def test_no_place_for_temporary_files_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_mode: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", no_room)
    with pytest.raises(WorkerError, match=r"cannot be created: No space left on device; .*TMPDIR"):
        Log()
