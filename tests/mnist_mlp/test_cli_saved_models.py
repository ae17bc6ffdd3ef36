"""The commands `evaluate` and `predict`, on models that `train` saved."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from workload_builders import RECIPE, SMALL, CommandLine, bars

from mnist_mlp import Trainer, load_dataset, load_model
from mnist_mlp.data import Dataset
from mnist_mlp.tables import Answer, answer_table

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def model(run: CommandLine, tmp_path: Path) -> Path:
    path = tmp_path / "mnist_model.pth"
    assert run("train", *SMALL, "--save", path)[0] == 0
    return path


@pytest.mark.parametrize("figure", ["confusion_matrix.png", "predictions.png"])
def test_model_that_a_figure_would_overwrite_is_refused(run: CommandLine, tmp_path: Path, figure: str) -> None:
    assert run("train", *SMALL, "--save", tmp_path / figure)[0] == 0
    saved = (tmp_path / figure).read_bytes()
    code, out, err = run("evaluate", tmp_path / figure, "--plots", tmp_path)
    assert (code, out) == (2, "")
    assert "would be overwritten by a figure of --plots" in err
    assert (tmp_path / figure).read_bytes() == saved


def test_data_root_that_would_be_ignored_is_refused_for_saved_models(run: CommandLine, model: Path) -> None:
    for arguments in (("evaluate", model), ("predict", model, "--index", "0")):
        code, out, err = run(*arguments, "--data-root", "data")
        assert (code, out) == (2, "")
        assert "'digits' is generated: leave it out" in err


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


def test_model_trained_on_custom_data_needs_the_name_of_a_dataset(run: CommandLine, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, dataset=replace(bars(), name="mine", sha256=""), device="cpu")
    trainer.save(tmp_path / "m.pth")
    code, out, err = run("evaluate", tmp_path / "m.pth")
    assert (code, out) == (2, "")
    assert "trained on dataset 'mine', which this command cannot load: choose another with --dataset" in err
    assert run("evaluate", tmp_path / "m.pth", "--dataset", "digits")[0] == 0


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
    assert re.search(rf"^{re.escape(str(path))} +\d( +\d+(\.\d+)?){{10}}$", out, flags=re.MULTILINE)
    assert "label" not in out
    assert "label" in run("predict", model, "--index", "1")[1]


def test_predictions_have_fewer_decimals_where_the_table_would_be_wider_than_the_terminal() -> None:
    sure = Answer(image="digit.png", probabilities=(1.0, *[0.0] * 9))
    unsure = Answer(image="digit.png", probabilities=(0.1346, 0.621, 0.2444, *[0.0] * 7))
    assert " 100.00  0.00  0.00 " in answer_table([sure], 80)
    assert " 13.5  62.1  24.4  0.0 " in answer_table([unsure], 74)
    ten = answer_table(
        [
            Answer(image="digit.png", probabilities=tuple(float(digit == each) for each in range(10)))
            for digit in range(10)
        ],
        80,
    )
    assert " 100    0    0 " in ten
    assert max(map(len, ten.splitlines())) <= 80


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


def test_predict_answers_the_rest_when_a_test_image_does_not_exist(
    run: CommandLine, model: Path, tmp_path: Path, digits: Dataset
) -> None:
    path = tmp_path / "digit.png"
    Image.fromarray(digits.test_images[1].numpy()).save(path)
    code, out, err = run("predict", model, path, *("--index", "9999", "--index", "4"), "--format", "json")
    assert code == 2
    assert [answer["image"] for answer in json.loads(out)] == [str(path), "digits test 4"]
    assert err == "mnist-mlp: test image 9999 does not exist: choose one of digits, 0 to 359\n"


def test_predict_warns_of_ink_that_is_wider_than_a_digit(run: CommandLine, model: Path, tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide.png", tmp_path / "narrow.png"
    for path, ends in ((wide, (40, 132)), (narrow, (40, 100))):
        image = Image.new("L", (200, 100), 255)
        for left in ends:
            image.paste(0, (left, 30, left + 10, 70))
        image.paste(0, (ends[0], 30, ends[1], 34))  # one line connects both
        image.save(path)
    code, out, err = run("predict", model, wide, narrow, "--format", "json")
    assert code == 0
    assert [answer["image"] for answer in json.loads(out)] == [str(wide), str(narrow)]
    assert err == (
        f"mnist-mlp: warning: {wide}: the ink is 2.5 times as wide as tall; "
        "several digits are read as one: crop to one digit\n"
    )


def test_predict_warns_of_two_digits_that_are_narrow(run: CommandLine, model: Path, tmp_path: Path) -> None:
    picture = Image.new("L", (120, 120), 255)
    for left in (40, 70):
        picture.paste(0, (left, 20, left + 8, 100))
    picture.save(tmp_path / "eleven.png")
    code, _, err = run("predict", model, tmp_path / "eleven.png")
    assert code == 0
    assert err == (
        f"mnist-mlp: warning: {tmp_path / 'eleven.png'}: the ink has 2 tall parts side by side; "
        "several digits are read as one: crop to one digit\n"
    )
