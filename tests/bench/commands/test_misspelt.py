"""Every closed set of names answers a misspelt one with the name that was meant."""

from pathlib import Path

import pytest
from bench_builders import make_run
from click.testing import CliRunner, Result
from stored_runs import store

from bench.cli import cli

pytestmark = pytest.mark.usefixtures("elsewhere")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="bench")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("shw latest", "show"),
        ("caliberate", "calibrate"),
        ("run --devicse cpu", "--devices"),
        ("run --preset quik", "quick"),
        ("ab . . --preset standrad", "standard"),
        ("run --models mlp_129", "mlp_128"),
        ("run --models speedrum", "speedrun"),
        ("predict latest --layers mlp_129 --batch-size 3", "mlp_128"),
        ("run --devices cqu", "cpu"),
        ("run --devices cdua", "cuda"),
        ("run --devices atuo", "auto"),
        ("selftest --devices cqu", "cpu"),
        ("run --engines fusd", "fused"),
        ("run --pipelines dataloder", "dataloader"),
        ("run --precisions bf61", "bf16"),
        ("run --dataset minst", "mnist"),
        ("selftest --dataset digit", "digits"),
        ("check latest latest --gate acurracy", "accuracy"),
        ("show latest --format tbale", "table"),
        ("show latst", "latest"),
        ("show latest --columns devise", "device"),
        ("show latest --sort -epoch_second", "epoch_seconds"),
        ("show latest --filter batchsize=64", "batch_size"),
        ("show latest --price-per-hour cqu=1", "cpu"),
        ("compare latest --between devise=cpu,cuda", "device"),
        ("compare latest --between engine=eagre,eager", "eager"),
    ],
)
def test_misspelt_name_is_answered_with_the_one_that_was_meant(line: str, meant: str, tmp_path: Path) -> None:
    store(make_run(), tmp_path / "results" / "run.jsonl")
    result = bench(*line.split())
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert f"did you mean {meant}?" in result.stderr.lower().replace("'", "")  # click before 8.4 quotes no option
    assert result.stdout == ""


def test_what_comes_near_nothing_is_answered_without_a_guess() -> None:
    for arguments in (("xyzzy",), ("show", "--format", "xyzzy")):
        result = bench(*arguments)
        assert result.exit_code == 2
        assert "'xyzzy'" in result.stderr
        assert "did you mean" not in result.stderr.lower()
