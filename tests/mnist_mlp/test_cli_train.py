"""The command `train`: what it prints and writes, and how it ends."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from uncovered import without_coverage
from workload_builders import DIGITS, SMALL, CommandLine

from mnist_mlp import Epoch, Trainer, checkpoint, load_model
from mnist_mlp.data import Dataset
from mnist_mlp.progress import StepBar
from mnist_mlp.tables import epoch_header

pytestmark = pytest.mark.usefixtures("threads")


def test_train_prints_epochs_final_accuracies_and_every_class(run: CommandLine) -> None:
    code, out, err = run("train", *SMALL, "--seed", "3")
    assert (code, err) == (0, "")
    assert "784-16-10, 12,730 parameters, output logits, loss cross_entropy" in out
    assert "digits (scikit-learn): 1,437 training images, 360 test images; device cpu, seed 3" in out
    header, first, second = out.splitlines()[4:7]
    assert re.findall(r"\S+ \S+|epoch", header.strip()) == [
        "epoch", "train loss", "train accuracy", "test loss", "test accuracy",
    ]  # fmt: skip
    assert first.split()[0] == "1/2"
    loss, accuracy = second.split()[4:6]
    assert f"test set       accuracy {accuracy} %" in out
    assert f"of 360), loss {loss}" in out
    assert re.search(r"With the final weights:\n  training set   accuracy \d+\.\d\d % \([\d,]+ of 1,437\), loss", out)
    assert len(re.findall(r"^ +\d  +\d+\.\d\d %  +\d+  +\d+$", out, flags=re.MULTILINE)) == 10
    assert "recall" in out


def test_every_hyperparameter_reaches_the_training(run: CommandLine, tmp_path: Path) -> None:
    options = re.findall(
        r"\S+",
        "--width 12 --output-kind log_softmax --loss nll --optimizer sgd --learning-rate 0.05 --momentum 0.9 "
        "--weight-decay 0.001 --batch-size 50 --test-batch-size 40 --epochs 1 --transform half --no-shuffle "
        "--validation-split 0.2 --seed 9 --threads 1 --pipeline resident --workers 0 "
        "--engine fused --precision fp32",
    )
    code, out, _ = run(
        "train", "784-16-8-10", *DIGITS, *options, "--save", tmp_path / "m.pth", "--history", tmp_path / "h.csv"
    )
    assert code == 0
    recipe = load_model(tmp_path / "m.pth").recipe
    assert (recipe.layers, recipe.output, recipe.loss) == ((784, 12, 6, 10), "log_softmax", "nll")
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == ("sgd", 0.05, 0.9, 0.001)
    assert (recipe.batch_size, recipe.test_batch_size, recipe.epochs) == (50, 40, 1)
    assert (recipe.transform, recipe.shuffle) == ("half", False)
    training = checkpoint.load_checkpoint(tmp_path / "m.pth").training
    assert (training.seed, training.validation_split) == (9, 0.2)
    assert "momentum 0.9, weight decay 0.001, batches of 50 in file order, transform half" in out
    assert "1,150 training and 287 validation images" in out
    history = (tmp_path / "h.csv").read_text().splitlines()
    cells = [
        f"{100 * float(cell):.2f}" if position % 2 else f"{float(cell):.4f}"
        for position, cell in enumerate(history[1].split(",")[1:])
    ]
    header, row = out.splitlines()[4:6]
    assert re.split(r"\s{2,}", header.strip())[1:] == [
        "train loss", "train acc.", "val. loss", "val. acc.", "test loss", "test acc.",
    ]  # fmt: skip
    assert len(header) == len(row) <= 80
    assert row.replace("%", "").split()[1:] == cells
    assert re.search(r"validation set accuracy .* of 287\)", out)


def test_train_writes_model_history_and_plots_and_names_them(run: CommandLine, tmp_path: Path) -> None:
    outputs = ("--save", tmp_path / "new" / "m.pth", "--history", tmp_path / "h.csv", "--plots", tmp_path / "plots")
    code, out, _ = run("train", *SMALL, *outputs)
    assert code == 0
    written = [Path(line.removeprefix("written: ")) for line in out.splitlines() if line.startswith("written: ")]
    assert written == [
        tmp_path / "h.csv",
        tmp_path / "new" / "m.pth",
        tmp_path / "plots" / "learning_curves.png",
        tmp_path / "plots" / "predictions.png",
    ]
    assert len((tmp_path / "h.csv").read_text().splitlines()) == 3
    for path in written[2:]:
        with Image.open(path) as image:
            image.verify()


@pytest.mark.parametrize("option", ["--save", "--history", "--plots"])
def test_output_that_cannot_be_written_is_detected_before_training(
    run: CommandLine, tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").touch()
    code, out, err = run("train", *SMALL, option, tmp_path / "file" / "below")
    assert (code, out) == (2, "")
    assert err.startswith("mnist-mlp: ")
    assert "cannot be a folder, because it is a file or lies in one" in err


def test_one_path_for_two_outputs_is_refused(run: CommandLine, tmp_path: Path) -> None:
    code, out, err = run("train", *SMALL, "--save", tmp_path / "x", "--history", tmp_path / "x")
    assert (code, out) == (2, "")
    assert "give them different files" in err


@pytest.mark.parametrize(
    "options",
    [("--save", "x", "--plots", "x"), ("--history", "x", "--plots", "x/y"), ("--save", "x", "--history", "x/y.csv")],
)
def test_file_that_another_output_needs_to_be_a_folder_is_refused_before_training(
    run: CommandLine, tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, out, err = run("train", *SMALL, *(part if part.startswith("--") else tmp_path / part for part in options))
    assert (code, out) == (2, "")
    assert "needs it to be a folder" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [("--save", "predictions.png"), ("--history", "learning_curves.png")])
def test_file_that_a_figure_would_overwrite_is_refused_before_training(
    run: CommandLine, tmp_path: Path, options: tuple[str, str]
) -> None:
    option, name = options
    (tmp_path / "link").symlink_to(tmp_path / "plots")
    code, out, err = run("train", *SMALL, option, tmp_path / "link" / name, "--plots", tmp_path / "plots")
    assert (code, out) == (2, "")
    assert "would be overwritten by a figure of --plots" in err
    assert not (tmp_path / "plots").exists()


def test_model_too_large_to_be_saved_is_refused_before_training(run: CommandLine, tmp_path: Path) -> None:
    code, out, err = run("train", "784-100000-10", *DIGITS, "--save", tmp_path / "m.pth")
    assert (code, out) == (2, "")
    assert "narrower layers, or do not save it" in err


def test_diverged_training_is_exit_code_four(run: CommandLine) -> None:
    code, _, err = run("train", *SMALL, "--optimizer", "sgd", "--learning-rate", "1e30")
    assert code == 4
    assert re.fullmatch(r"mnist-mlp: the train loss became \S+ in epoch 1, so .*: lower the learning rate, .*\n", err)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Invalid buffer size: 74.51 GiB"),
    ],
)
def test_too_little_memory_is_exit_code_four(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mnist_mlp.training_command.Trainer", fail)
    code, _, err = run("train", *SMALL)
    assert code == 4
    assert err == "mnist-mlp: there is not enough memory: use narrower layers or smaller batches\n"


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Let started programs hear SIGINT, which a shell has its background jobs, and all they start, ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a signal is sent")
@pytest.mark.usefixtures("heard_interrupts")
def test_interrupt_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "mnist_mlp",
        "train",
        "784-16-10",
        "--dataset",
        "digits",
        "--epochs",
        "99999",
    ]
    command += ["--device", "cpu", "--threads", "1", "--save", str(tmp_path / "m.pth")]
    environment = without_coverage(os.environ)
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "1/99999" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = r"mnist-mlp: interrupted: [0-9]+ of 99999 epochs were completed; no model was saved to .*m\.pth\n"
        assert re.fullmatch(said, process.stderr.read())
        assert process.wait(30) == 130
    assert list(tmp_path.iterdir()) == []


def test_interrupted_training_leaves_the_history_of_its_finished_epochs(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train_epoch = Trainer._train_epoch  # noqa: SLF001 - the second one is interrupted

    def interrupt_the_second(trainer: Trainer, index: int, on_step: Callable[[], None] | None) -> Epoch:
        if index == 1:
            raise KeyboardInterrupt
        return train_epoch(trainer, index, on_step)

    monkeypatch.setattr(Trainer, "_train_epoch", interrupt_the_second)
    code, _, err = run("train", *SMALL, "--history", tmp_path / "h.csv", "--save", tmp_path / "m.pth")
    assert code == 130
    assert f"1 of 2 epochs were completed; their history is in {tmp_path / 'h.csv'}; no model was saved to " in err
    header, *rows = (tmp_path / "h.csv").read_text().splitlines()
    assert header.startswith("epoch,")
    assert [row.split(",")[0] for row in rows] == ["1"]
    assert not (tmp_path / "m.pth").exists()


def test_interrupt_within_this_process_is_exit_code_130(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnist_mlp.trainer.Trainer.fit", interrupt)
    code, _, err = run("train", *SMALL)
    assert (code, err) == (130, "mnist-mlp: interrupted: 0 of 2 epochs were completed\n")


@pytest.fixture
def interrupted_import(tmp_path: Path) -> dict[str, str]:
    """An environment whose torch is interrupted while it is imported, and turns that into an error of its own."""
    (tmp_path / "torch.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise AttributeError('half imported') from None\n"
    )
    return os.environ | {"PYTHONPATH": str(tmp_path)}


@pytest.mark.skipif(os.name != "posix", reason="a signal is sent")
@pytest.mark.usefixtures("heard_interrupts")
def test_interrupt_while_a_package_is_imported_is_one_line_and_exit_code_130(
    interrupted_import: dict[str, str],
) -> None:
    command = [sys.executable, "-m", "mnist_mlp", "train", "mlp_128"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=interrupted_import)  # noqa: S603 - ours
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mnist-mlp: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="a signal is sent")
@pytest.mark.usefixtures("heard_interrupts")
def test_interrupt_before_the_command_has_started_is_silent(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "mnist_mlp", "recipes"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)  # noqa: S603 - ours
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


class FullDisk(io.StringIO):
    """A stream that cannot be written."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lost_output_says_what_became_of_the_training_and_is_exit_code_four(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fill_the_disk(*, validation: bool) -> str:
        monkeypatch.setattr(sys, "stdout", FullDisk())
        return epoch_header(validation=validation)

    monkeypatch.setattr("mnist_mlp.training_command.epoch_header", fill_the_disk)
    code, _, err = run("train", *SMALL, "--save", tmp_path / "m.pth")
    sys.stdout.close()  # the null device, which replaced it
    assert code == 4
    assert err == (
        f"mnist-mlp: the output cannot be written: {os.strerror(errno.ENOSPC)}; make room, or redirect it elsewhere; "
        f"0 of 2 epochs were completed; no model was saved to {tmp_path / 'm.pth'}\n"
    )


def test_claim_is_shown_only_for_a_training_on_all_images(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, tiny: Dataset
) -> None:
    monkeypatch.setattr("mnist_mlp.trainer.load", lambda *_: tiny)
    assert "claimed for mlp_128" in run("train", "mlp_128", "--device", "cpu")[1]
    split = ("--validation-split", "0.5")
    assert "claimed for" not in run("train", "mlp_128", "--device", "cpu", *split)[1]


@pytest.mark.mnist
@pytest.mark.slow
def test_published_recipe_is_shown_beside_its_claim(run: CommandLine, mnist: Dataset) -> None:
    assert mnist.name == "mnist"
    code, out, _ = run("train", "mlp_120_84", "--device", "cpu", "--threads", "1")
    assert code == 0
    assert "claimed for mlp_120_84: test accuracy 97.73 %, the tutorial's own run" in out
    found = re.search(r"  test set       accuracy (\d\d\.\d\d) %", out)
    assert found is not None
    assert float(found[1]) > 97


def test_bar_is_shown_on_a_terminal_and_gives_way_to_lines(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_mlp.training_command.sys.stderr.isatty", lambda: True, raising=False)
    code, out, _ = run("train", *SMALL)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[5:7]] == ["1/2", "2/2"]


def test_dumb_terminal_gets_no_bar_which_would_leave_empty_lines(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_mlp.training_command.sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    code, _, err = run("train", *SMALL)
    assert (code, err) == (0, "")


def test_bar_counts_the_steps_of_each_epoch_anew() -> None:
    screen = io.StringIO()
    with StepBar(3, Console(file=screen, force_terminal=True)) as bar:
        for _ in range(3):
            bar.step()
        assert bar.done == 3
        with bar.paused():
            pass
        bar.step()
        assert bar.done == 1
    assert "training" in screen.getvalue()
