"""The command line: every verb, what it prints where, and how it ends."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch
from PIL import Image
from rich.console import Console
from workload_builders import CommandLine

from mnist_mlp import Epoch, Trainer, checkpoint, load_dataset, load_model
from mnist_mlp.cli import EXIT_CODES, cli
from mnist_mlp.data import Dataset
from mnist_mlp.progress import StepBar
from mnist_mlp.recipes import RECIPES

DIGITS = ("--dataset", "digits", "--device", "cpu")
SMALL = ("784-16-10", *DIGITS, "--epochs", "2", "--batch-size", "32")

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def model(run: CommandLine, tmp_path: Path) -> Path:
    path = tmp_path / "mnist_model.pth"
    assert run("train", *SMALL, "--save", path)[0] == 0
    return path


def test_recipes_lists_all_with_what_the_tutorials_claim(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    code, out, err = run("recipes")
    assert (code, err) == (0, "")
    for recipe in RECIPES.values():
        (line,) = (line for line in out.splitlines() if line.startswith(f"{recipe.name} "))
        assert "-".join(map(str, recipe.layers)) in line
        claimed = f"{100 * recipe.claims[0].value:.2f} %" if recipe.claims else "-"
        assert claimed in line.split("  ")[-1]
    assert "535,818" in out
    cells = {line.split("  ")[0]: line for line in out.splitlines()}
    assert " sgd 0.001, batch 16 not shuffled, 5 epochs; softmax, nll_of_log; unit " in cells["mlp_100_100"]
    assert " adam 0.01 (one_cycle), batch 256, 4 epochs; logits, cross_entropy; mnist " in cells["speedrun"]
    assert " sgd 0.1, momentum 0.9, batch 256, 3 epochs; log_softmax, nll; mnist " in cells["canary_sgd"]


def test_recipes_fit_a_narrow_terminal_and_keep_every_word(run: CommandLine) -> None:
    lines = run("recipes")[1].splitlines()
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 80
    begin = table[0].index("training")
    training = " ".join(
        line[begin : line.index("  ", begin)] if "  " in line[begin:] else line[begin:] for line in table
    )
    assert "sgd 0.001, batch 16 not shuffled, 5 epochs; softmax, nll_of_log; unit" in training


def test_recipes_come_as_markdown_and_as_json_with_every_hyperparameter(run: CommandLine) -> None:
    assert run("recipes", "--format", "markdown")[1].startswith("| recipe")
    first, *_ = json.loads(run("recipes", "--format", "json")[1])
    assert (first["name"], first["parameters"], first["claimed_test_accuracy"]) == ("mlp_100_100", 89610, 0.8846)
    assert first["shuffle"] is False
    assert first["departures"]


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
        "train loss", "train accuracy", "val. loss", "val. accuracy", "test loss", "test accuracy",
    ]  # fmt: skip
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
    assert "cannot be written" in err


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


@pytest.mark.parametrize("figure", ["confusion_matrix.png", "predictions.png"])
def test_model_that_a_figure_would_overwrite_is_refused(run: CommandLine, tmp_path: Path, figure: str) -> None:
    assert run("train", *SMALL, "--save", tmp_path / figure)[0] == 0
    saved = (tmp_path / figure).read_bytes()
    code, out, err = run("evaluate", tmp_path / figure, "--plots", tmp_path)
    assert (code, out) == (2, "")
    assert "would be overwritten by a figure of --plots" in err
    assert (tmp_path / figure).read_bytes() == saved


def test_model_too_large_to_be_saved_is_refused_before_training(run: CommandLine, tmp_path: Path) -> None:
    code, out, err = run("train", "784-100000-10", *DIGITS, "--save", tmp_path / "m.pth")
    assert (code, out) == (2, "")
    assert "narrower layers, or do not save it" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "mlp_129"), "did you mean 'mlp_128'"),
        (("train", *SMALL, "--workers", "2"), "only apply to pipeline dataloader"),
        (("train", "784-10-11", *DIGITS), "must start at 784"),
        (("train", *SMALL, "--momentum", "0.9"), "momentum 0.9 applies to sgd only"),
        (("train", *SMALL, "--learning-rate", "nan"), "learning_rate nan is out of range"),
        (("train", *SMALL, "--loss", "nll"), "needs output log_softmax"),
        (("train", *SMALL, "--width", "0"), "width 0"),
        (("train", *SMALL, "--seed", "-1"), "seed -1 is out of range"),
        (("train", *SMALL, "--validation-split", "1"), "validation split 1.0"),
        (("train", *SMALL, "--pipeline", "dataloader"), "cannot read dataset 'digits'"),
        (("train", *SMALL, "--device", "cpu", "--engine", "graph"), "engine 'graph' replays CUDA graphs"),
        (("train", *SMALL, "--device", "cpu", "--precision", "tf32"), "precision 'tf32' is a format of NVIDIA's"),
        (("train", *SMALL, "--device", "cuda:99"), "device 'cuda:99' is not available"),
        (("train", *SMALL, "--device", "cuda:00"), "device 'cuda:00' is not the name of a device"),
        (("evaluate", "nix.pth"), "there is no such file"),
        (("predict", "nix.pth", "a.png"), "there is no such file"),
        (("predict", "nix.pth", "a.png", "--show", "--format", "json"), "--show prints pictures"),
        (("predict", "nix.pth", "a.png", "--dataset", "digits"), "choose some with --index"),
        (
            ("train", *SMALL, "--data-root", "data"),
            "--data-root 'data' only applies to datasets that are kept in files",
        ),
        (("data", "--dataset", "synthetic", "--data-root", "data"), "'synthetic' is generated: leave it out"),
        (("data", "--dataset", "digits", "--plots", f"{__file__}/plots"), "cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_two(run: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("mnist-mlp: ")
    assert message in err
    assert err.count("\n") == 1


def test_data_root_that_would_be_ignored_is_refused_for_saved_models(run: CommandLine, model: Path) -> None:
    for arguments in (("evaluate", model), ("predict", model, "--index", "0")):
        code, out, err = run(*arguments, "--data-root", "data")
        assert (code, out) == (2, "")
        assert "'digits' is generated: leave it out" in err


def test_bad_usage_is_exit_code_two(run: CommandLine, model: Path) -> None:
    for arguments in (("train",), ("train", *SMALL, "--threads", "0"), ("predict", model), ("train", "--wat")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Error: " in err


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


@pytest.mark.parametrize("command", ["train mlp_129", "train mlp_128", "evaluate m.pth", "predict m.pth a.png", "data"])
def test_missing_torch_is_one_message(command: str) -> None:
    code = (
        f"import sys\nsys.modules['torch'] = None\nsys.argv = ['mnist-mlp', *{command.split()}]\n"
        "from mnist_mlp.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)  # noqa: S603 - ours
    if command == "train mlp_129":
        assert (done.returncode, done.stdout) == (2, "")
        assert "did you mean 'mlp_128'?" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (4, "")
        assert re.fullmatch(
            r"mnist-mlp: a package that this command needs cannot be imported \(.*torch.*\): run `uv sync`.*\n",
            done.stderr,
        )


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_torchvision_that_was_built_for_another_torch_is_one_message(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(f"mnist_mlp.{'training_command' if command == 'train' else 'model_commands'}.{command}", fail)
    code, out, err = run(command, "mlp_128")
    assert (code, out) == (4, "")
    assert "cannot be imported (operator torchvision::nms does not exist): run `uv sync`" in err


def test_mistakes_in_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("mnist_mlp.training_command.Trainer", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        cli(["train", *SMALL])


def test_broken_import_within_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mnist_mlp.training_command", None)
    with pytest.raises(ImportError, match=r"mnist_mlp\.training_command"):
        cli(["train", *SMALL])


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
    command += ["--device", "cpu", "--save", str(tmp_path / "m.pth")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own program
        assert process.stdout is not None
        assert process.stderr is not None
        while "1/99999" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == "mnist-mlp: interrupted\n"
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
    code, _, _ = run("train", *SMALL, "--history", tmp_path / "h.csv", "--save", tmp_path / "m.pth")
    assert code == 130
    header, *rows = (tmp_path / "h.csv").read_text().splitlines()
    assert header.startswith("epoch,")
    assert [row.split(",")[0] for row in rows] == ["1"]
    assert not (tmp_path / "m.pth").exists()


def test_interrupt_within_this_process_is_exit_code_130(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnist_mlp.trainer.Trainer.fit", interrupt)
    code, _, err = run("train", *SMALL)
    assert (code, err) == (130, "mnist-mlp: interrupted\n")


def test_evaluate_prints_accuracy_classes_and_confusion_and_writes_pictures(
    run: CommandLine, model: Path, tmp_path: Path
) -> None:
    code, out, err = run("evaluate", model, "--plots", tmp_path / "plots")
    assert (code, err) == (0, "")
    assert re.search(r"digits test set +accuracy \d\d\.\d\d % \(\d+ of 360\), loss \d\.\d{4}\n", out)
    assert "trained on digits: epochs 2, seed 0" in out
    rows = re.findall(r"^ +\d(?: +(?:\d+|\.)){10}$", out, flags=re.MULTILINE)
    assert sum(int(cell) for row in rows for cell in row.split()[1:] if cell != ".") == 360
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["confusion_matrix.png", "predictions.png"]
    assert out.count("written: ") == 2


def test_evaluate_as_json_is_only_json_and_agrees_with_the_training(run: CommandLine, tmp_path: Path) -> None:
    _, trained, _ = run("train", *SMALL, "--save", tmp_path / "m.pth")
    code, out, _ = run("evaluate", tmp_path / "m.pth", "--format", "json", "--plots", tmp_path)
    values = json.loads(out)
    assert code == 0
    assert f"test set       accuracy {100 * values['accuracy']:.2f} %" in trained
    assert (values["dataset"], values["samples"], values["model"]) == ("digits", 360, "784-16-10")
    assert len(values["per_class_accuracy"]) == len(values["confusion_matrix"]) == 10


def test_model_trained_on_other_files_of_the_dataset_is_warned_of(
    run: CommandLine, model: Path, tmp_path: Path
) -> None:
    content = torch.load(model, weights_only=True)
    content["dataset"]["sha256"] = "0" * 64
    torch.save(content, tmp_path / "other.pth")
    code, _, err = run("evaluate", tmp_path / "other.pth")
    assert code == 0
    assert err == "mnist-mlp: warning: the model was trained on other files of digits than those found here\n"


def test_predict_answers_for_files_and_test_images_in_their_order(
    run: CommandLine, model: Path, tmp_path: Path, digits: Dataset
) -> None:
    path = tmp_path / "digit.png"
    Image.fromarray(255 - digits.test_images[4].numpy()).resize((280, 280)).save(path)
    code, out, err = run("predict", model, path, "--index", "4", "--index", "0", "--format", "json")
    first, second, third = json.loads(out)
    assert (code, err) == (0, "")
    assert (first["image"], first["label"]) == (str(path), None)
    assert (second["image"], second["label"]) == ("digits test 4", int(digits.test_labels[4]))
    assert (third["image"], third["label"]) == ("digits test 0", int(digits.test_labels[0]))
    for answer in (first, second, third):
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert answer["probabilities"][answer["digit"]] == answer["probability"] == max(answer["probabilities"])
    assert second["digit"] == int(load_model(model).predict(digits.test_images[4])[0])


def test_predict_prints_a_table_and_shows_the_prepared_picture(
    run: CommandLine, model: Path, tmp_path: Path, digits: Dataset
) -> None:
    path = tmp_path / "digit.png"
    Image.fromarray(digits.test_images[1].numpy()).save(path)
    code, out, _ = run("predict", model, path, "--show")
    assert code == 0
    assert f"{path}, read as light on dark:\n" in out
    assert "@@" in out
    assert re.search(rf"^{re.escape(str(path))} +\d( +\d+\.\d\d){{10}}$", out, flags=re.MULTILINE)
    assert "label" not in out
    assert "label" in run("predict", model, "--index", "1")[1]


def test_predict_shows_test_images_too(run: CommandLine, model: Path) -> None:
    out = run("predict", model, "--index", "1", "--show")[1]
    assert out.startswith("digits test 1:\n")
    assert "@@" in out


def test_predict_answers_good_pictures_and_reports_every_bad_one(
    run: CommandLine, model: Path, tmp_path: Path, digits: Dataset
) -> None:
    good, text, empty = (tmp_path / name for name in ("good.png", "text.png", "empty.jpg"))
    Image.fromarray(digits.test_images[2].numpy()).save(good)
    text.write_text("no picture")
    Image.new("L", (30, 30), 255).save(empty)
    code, out, err = run("predict", model, text, good, empty, tmp_path / "nix.png", tmp_path, "--format", "json")
    assert code == 2
    assert [answer["image"] for answer in json.loads(out)] == [str(good)]
    lines = err.splitlines()
    assert [line.startswith("mnist-mlp: picture ") for line in lines] == [True] * 4
    for line, reason in zip(
        lines, ("not in a supported format", "is empty", "does not exist", "is not a file"), strict=True
    ):
        assert reason in line


def test_predict_with_only_bad_pictures_prints_no_table(run: CommandLine, model: Path, tmp_path: Path) -> None:
    code, out, err = run("predict", model, tmp_path / "nix.png")
    assert (code, out) == (2, "")
    assert "does not exist" in err


@pytest.mark.parametrize("index", ["-1", "360"])
def test_test_image_that_does_not_exist_is_refused(run: CommandLine, model: Path, index: str) -> None:
    code, _, err = run("predict", model, "--index", index)
    assert code == 2
    assert f"test image {index} does not exist: choose one of digits, 0 to 359" in err


def test_data_describes_the_dataset_and_draws_samples(run: CommandLine, tmp_path: Path) -> None:
    code, out, err = run("data", "--dataset", "digits", "--plots", tmp_path)
    assert (code, err) == (0, "")
    assert re.search(r"^source +scikit-learn$", out, flags=re.MULTILINE)
    assert re.search(r"^folder +none$", out, flags=re.MULTILINE)
    assert re.search(r"^train images +1437x28x28 +uint8 +0 +255 ", out, flags=re.MULTILINE)
    assert re.search(r"^test labels +360 +int64 +0 +9 ", out, flags=re.MULTILINE)
    assert f"written: {tmp_path / 'samples.png'}" in out
    with Image.open(tmp_path / "samples.png") as image:
        image.verify()


def test_data_as_json_is_only_json(run: CommandLine, tmp_path: Path) -> None:
    code, out, _ = run("data", "--dataset", "digits", "--format", "json", "--plots", tmp_path)
    values = json.loads(out)
    assert code == 0
    assert sum(values["train_class_counts"]) == values["tensors"]["train images"]["shape"][0] == 1437
    assert sum(values["test_class_counts"]) == 360
    assert re.fullmatch("[0-9a-f]{64}", values["sha256"])


def test_data_names_the_folder_of_datasets_that_are_kept_in_files(
    run: CommandLine, tiny_fashion: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_mlp.data_command.load", lambda *_: tiny_fashion)
    code, out, _ = run("data", "--dataset", "fashion-mnist", "--data-root", tmp_path, "--format", "json")
    values = json.loads(out)
    assert code == 0
    assert values["folder"] == str(tmp_path / "FashionMNIST" / "raw")
    assert values["verified"].startswith("the four files are well-formed")


@pytest.mark.mnist
def test_data_verifies_mnist(run: CommandLine, mnist: Dataset) -> None:
    code, out, _ = run("data")
    assert code == 0
    assert mnist.sha256 in out
    assert "each of the four files has the SHA-256 of the genuine one" in out
    assert re.search(r"^ +7 +6265 +1028$", out, flags=re.MULTILINE)


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


def test_every_verb_has_help_with_examples_that_name_real_options(run: CommandLine) -> None:
    for name, command in cli.commands.items():
        code, out, _ = run(name, "--help")
        assert code == 0
        assert EXIT_CODES.split(":")[0] in out
        examples = [line.split() for line in out.splitlines() if line.strip().startswith("python -m mnist_mlp")]
        assert examples
        options = {option for parameter in command.params for option in parameter.opts}
        for example in examples:
            assert example[3] == name
            assert {word for word in example if word.startswith("--")} <= options


def test_help_of_the_program_needs_no_torch_and_its_examples_parse(run: CommandLine) -> None:
    _, out, _ = run("--help")
    verbs = re.findall(r"python -m mnist_mlp (\w+)", out)
    assert verbs == ["recipes", "train", "predict"]
    code = (
        "import sys\nsys.argv = ['mnist-mlp', 'recipes']\nfrom mnist_mlp.__main__ import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)  # noqa: S603 - ours
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(cli, click.Group)


def test_module_runs_as_a_program_under_its_own_name() -> None:
    done = subprocess.run([sys.executable, "-m", "mnist_mlp", "--version"], check=False, capture_output=True, text=True)
    assert done.stdout.startswith("mnist-mlp, version ")


def test_bar_is_shown_on_a_terminal_and_gives_way_to_lines(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_mlp.training_command.sys.stderr.isatty", lambda: True, raising=False)
    code, out, _ = run("train", *SMALL)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[5:7]] == ["1/2", "2/2"]


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
