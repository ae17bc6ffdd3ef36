"""The Python API: fit, evaluate, predict, and the arguments that are refused."""

import copy
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from workload_builders import RECIPE, bars

import mnist_mlp
from mnist_mlp import MLP, RECIPES, Classifier, Epoch, Trainer, customise, find_recipe, load_model, prepare_image
from mnist_mlp.archive import CheckpointError
from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError, NonFiniteLossError
from mnist_mlp.recipes import Recipe
from mnist_mlp.train import Training

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return bars()


def make(dataset: Dataset, recipe: Recipe | str = RECIPE, **options: Any) -> Trainer:  # noqa: ANN401 - Trainer's own
    return Trainer(recipe, dataset=dataset, **{"device": "cpu", "seed": 1, **options})


def weights(trainer: Trainer) -> list[bytes]:
    return [value.detach().numpy().tobytes() for value in trainer.model.network.parameters()]


def test_fit_learns_and_its_last_epoch_is_what_evaluate_finds(dataset: Dataset) -> None:
    trainer = make(dataset)
    history = trainer.fit()
    evaluation = trainer.evaluate()
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert history[-1].test_accuracy == evaluation.accuracy > 0.95
    assert history[-1].test_loss == evaluation.loss
    assert history[-1].train_loss < history[0].train_loss
    assert evaluation.samples == 70


def test_objects_have_a_readable_repr(dataset: Dataset) -> None:
    trainer = make(dataset)
    trainer.fit(epochs=2)
    assert "seed 1, device 'cpu', 2 epochs" in repr(trainer)
    assert repr(RECIPE.name) in repr(trainer)
    assert repr(RECIPE.name) in repr(trainer.model)
    assert f"{len(dataset.train_labels)} training and {len(dataset.test_labels)} test images" in repr(dataset)
    assert "tensor" not in repr(dataset)


def test_final_training_accuracy_is_that_of_the_final_weights(dataset: Dataset) -> None:
    trainer = make(dataset)
    history = trainer.fit(1)
    evaluation = trainer.evaluate("train")
    by_hand = (trainer.predict(dataset.train_images) == dataset.train_labels).double().mean()
    assert evaluation.accuracy == float(by_hand) > history[0].train_accuracy
    assert evaluation.samples == 200


def test_fitting_twice_goes_on_where_the_first_stopped(dataset: Dataset) -> None:
    at_once, in_parts = make(dataset), make(dataset)
    at_once.fit(3)
    in_parts.fit(1)
    assert list(in_parts.fit(2)) == list(at_once.history)
    assert weights(in_parts) == weights(at_once)


def test_no_epoch_is_trained_after_the_end_of_a_schedule(dataset: Dataset) -> None:
    trainer = make(dataset, replace(RECIPE, schedule="one_cycle"))
    trainer.fit(2)
    before = weights(trainer)
    with pytest.raises(InvalidValueError, match="2 epochs after 2 are more than the 3"):
        trainer.fit(2)
    assert (weights(trainer), len(trainer.history)) == (before, 2)
    trainer.fit(1)
    assert weights(trainer) != before


class Interruption:
    """Raises KeyboardInterrupt at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self._left = step

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


def test_schedule_is_not_continued_after_an_interrupted_epoch(dataset: Dataset) -> None:
    trainer = make(dataset, replace(RECIPE, schedule="one_cycle"))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(on_step=Interruption(15))  # ten steps an epoch
    before = weights(trainer)
    with pytest.raises(InvalidValueError, match=r"epoch 2 was interrupted, so schedule one_cycle .*: start again"):
        trainer.fit(1)
    assert (weights(trainer), len(trainer.history)) == (before, 1)


def test_schedule_continues_after_an_interruption_between_two_epochs(dataset: Dataset) -> None:
    trainer, whole = (make(dataset, replace(RECIPE, schedule="one_cycle")) for _ in range(2))

    def interrupt(_: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(on_epoch=interrupt)
    assert list(trainer.fit(2)) == list(whole.fit())


def test_constant_rate_continues_after_an_interrupted_epoch(dataset: Dataset) -> None:
    trainer = make(dataset)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(on_step=Interruption(15))
    before = weights(trainer)
    assert [epoch.epoch for epoch in trainer.fit(2)] == [1, 2, 3]
    assert weights(trainer) != before


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_batch_larger_than_any_memory_is_the_whole_training_set(dataset: Dataset, engine: str) -> None:
    losses = [
        Trainer(replace(RECIPE, batch_size=size), dataset=dataset, device="cpu", engine=engine).fit(2)[-1].test_loss
        for size in (2**62, len(dataset.train_labels))
    ]
    assert losses[0] == losses[1]


def test_fit_is_the_low_level_training_with_a_new_order_each_epoch(dataset: Dataset) -> None:
    trainer = make(dataset)
    history = trainer.fit(2)
    training = Training(RECIPE, dataset, device=torch.device("cpu"), seed=1)
    losses = [training.train(training.order(epoch)).read().loss for epoch in range(2)]
    assert [epoch.train_loss for epoch in history] == losses


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_torchs_default_device_does_not_matter(dataset: Dataset, engine: str) -> None:
    picture, outcomes = dataset.test_images[0].numpy(), []
    for device in ("cpu", "meta"):
        with torch.device(device):
            trainer = make(dataset, engine=engine, validation_split=0.1)
            outcomes.append((trainer.fit(1)[-1], trainer.predict(picture).tolist()))
    assert outcomes[1] == outcomes[0]


@pytest.fixture
def restored_default_dtype() -> Iterator[None]:
    default = torch.get_default_dtype()
    yield
    torch.set_default_dtype(default)


@pytest.mark.usefixtures("restored_default_dtype")
@pytest.mark.parametrize(("engine", "precision"), [("eager", "fp32"), ("eager", "bf16"), ("fused", "fp32")])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_torchs_default_dtype_does_not_matter(dataset: Dataset, engine: str, optimizer: str, precision: str) -> None:
    recipe, outcomes = replace(RECIPE, optimizer=optimizer, schedule="one_cycle"), []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        trainer = make(dataset, recipe, engine=engine, precision=precision)
        epochs, probabilities = list(trainer.fit()), trainer.probabilities(dataset.test_images)
        outcomes.append((epochs, weights(trainer), probabilities.dtype, probabilities.tolist()))
    assert outcomes[1] == outcomes[0]


@pytest.mark.parametrize(("engine", "precision"), [("eager", "fp32"), ("eager", "bf16"), ("fused", "fp32")])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
def test_torchs_modes_around_a_training_do_not_matter(
    dataset: Dataset, mode: Callable[[], AbstractContextManager[None]], engine: str, precision: str
) -> None:
    undisturbed = make(dataset, engine=engine, precision=precision)
    undisturbed.fit(2)
    with mode():
        trainer = make(dataset, engine=engine, precision=precision)
        trainer.fit(1)
        assert trainer.evaluate().loss == trainer.history[-1].test_loss
    assert trainer.fit(1) == undisturbed.history
    assert weights(trainer) == weights(undisturbed)


def freeze(network: MLP) -> None:
    network[0].requires_grad_(requires_grad=False)


def add_dropout(network: MLP) -> None:
    network.insert(2, torch.nn.Dropout())


def exchange_activation(network: MLP) -> None:
    network[1] = torch.nn.Tanh()


def exchange_layer(network: MLP) -> None:
    network[2] = copy.deepcopy(network[2])


def assign_weights(network: MLP) -> None:
    network.load_state_dict(copy.deepcopy(network).state_dict(), assign=True)


def convert_twice(network: MLP) -> None:
    network.double().float()


@pytest.mark.parametrize(
    "edit", [freeze, add_dropout, exchange_activation, exchange_layer, assign_weights, convert_twice]
)
def test_edits_that_engine_fused_would_leave_out_are_refused(dataset: Dataset, edit: Callable[[MLP], None]) -> None:
    trainer = make(dataset, engine="fused")
    trainer.fit(1)
    edit(trainer.model.network)
    with pytest.raises(InvalidValueError, match=r"model was edited.*engine eager"):
        trainer.fit(1)


@pytest.mark.parametrize("edit", [exchange_layer, assign_weights])
def test_parameters_that_the_optimizer_does_not_have_are_refused(dataset: Dataset, edit: Callable[[MLP], None]) -> None:
    trainer = make(dataset)
    edit(trainer.model.network)
    with pytest.raises(InvalidValueError, match=r"2\.weight, 2\.bias were replaced .* in place"):
        trainer.fit(1)


@pytest.mark.parametrize("edit", [freeze, add_dropout, exchange_activation, convert_twice])
def test_engine_eager_trains_an_edited_model(dataset: Dataset, edit: Callable[[MLP], None]) -> None:
    trainer, plain = make(dataset), make(dataset)
    edit(trainer.model.network)
    before = weights(trainer)
    trainer.fit(1)
    assert [old == new for old, new in zip(before, weights(trainer), strict=True)][:2] == [edit is freeze] * 2
    assert (trainer.history == plain.fit(1)) == (edit is convert_twice)


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_weights_copied_in_are_trained(dataset: Dataset, engine: str) -> None:
    trainer, other = make(dataset, engine=engine), make(dataset, engine=engine, seed=2)
    other.model.network.load_state_dict(trainer.model.network.state_dict())
    assert weights(other) == weights(trainer)
    other.fit(1)
    assert weights(other) != weights(trainer)


@pytest.mark.parametrize("edit", [add_dropout, exchange_activation, torch.nn.Module.double])
def test_edited_model_that_would_be_loaded_as_another_is_not_saved(
    dataset: Dataset, tmp_path: Path, edit: Callable[[MLP], None]
) -> None:
    trainer = make(dataset)
    edit(trainer.model.network)
    with pytest.raises(CheckpointError, match="would be loaded as its recipe"):
        trainer.save(tmp_path / "m.pth")
    assert not (tmp_path / "m.pth").exists()


@pytest.mark.parametrize("name", ["model", "recipe", "seed"])
def test_what_a_training_was_built_from_cannot_be_exchanged(dataset: Dataset, name: str) -> None:
    trainer = make(dataset)
    with pytest.raises(AttributeError, match="no setter"):
        setattr(trainer, name, getattr(make(dataset, seed=2), name))
    with pytest.raises(AttributeError, match="no setter"):
        trainer.model.network = make(dataset).model.network  # type: ignore[misc]  # what is tested


def test_callbacks_come_after_every_step_and_every_epoch_and_nothing_is_printed(
    dataset: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[int] = []
    epochs: list[Epoch] = []
    trainer = make(dataset, validation_split=0.06)
    trainer.fit(2, on_epoch=epochs.append, on_step=lambda: steps.append(1))
    assert epochs == list(trainer.history)
    assert trainer.steps_per_epoch == 10  # 188 samples in batches of 20
    assert len(steps) == 2 * trainer.steps_per_epoch
    assert capfd.readouterr() == ("", "")


def test_probabilities_are_the_softmax_of_the_logits_whatever_the_output(dataset: Dataset) -> None:
    images = dataset.test_images[:7]
    rows = []
    for output, loss in (("logits", "cross_entropy"), ("log_softmax", "nll"), ("softmax", "nll_of_log")):
        trainer = make(dataset, replace(RECIPE, output=output, loss=loss))
        rows.append(trainer.probabilities(images))
        assert torch.allclose(rows[-1].sum(dim=1), torch.ones(7))
    # The same seed gives the same initial weights.
    assert torch.allclose(rows[0], rows[1], atol=1e-6)
    assert torch.allclose(rows[0], rows[2], atol=1e-6)
    assert trainer.predict(images).tolist() == rows[2].argmax(dim=1).tolist()


def test_probabilities_that_are_not_numbers_are_refused(dataset: Dataset) -> None:
    model = make(dataset).model
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1e25)
    with pytest.raises(InvalidValueError, match="probabilities are not numbers"):
        model.probabilities(dataset.test_images)


def test_one_picture_and_numpy_pictures_are_classified_like_a_batch_of_tensors(dataset: Dataset) -> None:
    model = make(dataset).model
    images = dataset.test_images[:3]
    expected = model.probabilities(images)
    assert torch.allclose(model.probabilities(images[1]), expected[1:2])
    assert torch.equal(model.probabilities(images.numpy()), expected)


def test_prepared_picture_is_classified_by_its_pixels(dataset: Dataset) -> None:
    model = make(dataset).model
    prepared = prepare_image(Image.fromarray(dataset.test_images[0].numpy()))
    assert torch.equal(model.probabilities(prepared), model.probabilities(prepared.pixels))


def test_arrays_that_torch_cannot_share_are_classified_like_their_copies(dataset: Dataset) -> None:
    model = make(dataset).model
    images = dataset.test_images[:3].numpy()
    mirrored, locked = images[:, :, ::-1], images.copy()
    locked.setflags(write=False)
    assert torch.equal(model.probabilities(mirrored), model.probabilities(mirrored.copy()))
    assert torch.equal(model.probabilities(locked), model.probabilities(images))


@pytest.mark.parametrize("images", ["digit.png", Path("digit.png"), None, [[1, 2], [3]], np.array([1j, None])])
def test_anything_but_an_array_of_numbers_is_refused(dataset: Dataset, images: Any) -> None:  # noqa: ANN401 - anything
    with pytest.raises(InvalidValueError, match=r"images of .*type .* cannot be classified: .*prepare_image"):
        make(dataset).predict(images)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(28, 28), torch.zeros((1, 27, 28), dtype=torch.uint8), torch.zeros((0, 28, 28), dtype=torch.uint8)],
    ids=["float", "27 rows", "none"],
)
def test_pictures_of_another_shape_or_type_are_refused(dataset: Dataset, images: torch.Tensor) -> None:
    with pytest.raises(InvalidValueError, match=r"\(n, 28, 28\) uint8"):
        make(dataset).predict(images)


def test_classifier_and_trainer_evaluate_alike(dataset: Dataset) -> None:
    trainer = make(dataset, validation_split=0.1)
    trainer.fit(1)
    assert Classifier(trainer.recipe, trainer.model.network).evaluate(dataset) == trainer.evaluate()


def test_validation_split_is_held_out_measured_and_decided_by_the_seed(dataset: Dataset) -> None:
    trainer, again, other = (make(dataset, validation_split=0.25, seed=seed) for seed in (4, 4, 5))
    history = trainer.fit(1)
    assert (trainer.train_samples, trainer.validation_samples) == (150, 50)
    assert history[0].validation_loss == trainer.evaluate("validation").loss
    assert history[0].validation_accuracy == trainer.evaluate("validation").accuracy
    assert trainer.evaluate("validation").samples == 50
    again.fit(1)
    assert weights(again) == weights(trainer)
    assert again.evaluate("validation").class_counts == trainer.evaluate("validation").class_counts
    assert other.evaluate("validation").class_counts != trainer.evaluate("validation").class_counts


def test_a_seeds_validation_split_is_the_same_in_every_version(dataset: Dataset) -> None:
    held_out = make(dataset, validation_split=0.05, seed=4)._held_out  # noqa: SLF001 - figures tell it only roughly
    assert held_out is not None
    assert held_out.tolist() == [3, 21, 27, 37, 38, 69, 71, 102, 129, 194]


def test_without_a_split_nothing_is_validated(dataset: Dataset) -> None:
    trainer = make(dataset)
    history = trainer.fit(1)
    assert history[0].validation_loss is history[0].validation_accuracy is None
    with pytest.raises(InvalidValueError, match="validation_split above 0"):
        trainer.evaluate("validation")


@pytest.mark.parametrize("split", [-0.1, 1.0, float("nan"), 0.001, 0.999])
def test_validation_split_that_leaves_a_side_empty_is_refused(dataset: Dataset, split: float) -> None:
    with pytest.raises(InvalidValueError, match=f"validation split {split}"):
        make(dataset, validation_split=split)


def test_seed_is_the_given_one_or_the_recipes_or_zero(dataset: Dataset) -> None:
    assert make(dataset, replace(RECIPE, seed=42), seed=0).seed == 0
    assert make(dataset, replace(RECIPE, seed=42), seed=None).seed == 42
    assert make(dataset, seed=None).seed == 0


def test_diverged_training_names_the_loss_the_epoch_and_the_learning_rate(dataset: Dataset) -> None:
    trainer = make(dataset, replace(RECIPE, learning_rate=1e30, optimizer="sgd"))
    with pytest.raises(
        NonFiniteLossError, match=r"loss became (nan|inf) in epoch 1, so .*: lower the learning rate.*1e\+30"
    ):
        trainer.fit()
    assert len(trainer.history) == 0


def test_diverged_training_with_momentum_names_that_too(dataset: Dataset) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, optimizer="sgd", momentum=1.5)
    with pytest.raises(NonFiniteLossError, match=r"lower the learning rate.*, or the momentum, which is 1\.5$"):
        make(dataset, recipe).fit()


def test_a_model_that_could_not_be_loaded_is_not_saved(dataset: Dataset, tmp_path: Path) -> None:
    trainer = make(dataset, replace(RECIPE, learning_rate=1e30, optimizer="sgd"))
    with pytest.raises(NonFiniteLossError):
        trainer.fit()
    with pytest.raises(
        CheckpointError, match=r"was not written: some weights .* train again with a lower learning rate"
    ):
        trainer.save(tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_training_that_diverges_in_its_last_step_is_detected_by_the_test_loss(dataset: Dataset) -> None:
    one_step = replace(RECIPE, learning_rate=1e30, optimizer="sgd", batch_size=200)
    with pytest.raises(NonFiniteLossError, match=r"the test loss became (nan|inf)"):
        make(dataset, one_step).fit(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "mlp_129"}, "did you mean 'mlp_128'"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1.5}, r"seed 1\.5 is of type float: give a whole number"),
        ({"seed": -1, "validation_split": 0.5}, "seed -1"),
        ({"workers": -1}, "workers -1"),
        ({"pipeline": "residant"}, "did you mean 'resident'"),
        ({"workers": "2"}, "workers '2' is of type str: give a whole number"),
        ({"validation_split": "0.1"}, "validation split '0.1' is out of range"),
        ({"engine": None}, "engine None is unknown: use one of eager"),
        ({"recipe": (784, 100, 10)}, "of type tuple: give a recipe's name"),
        ({"device": "gpu"}, "device 'gpu' is unknown: use auto, cpu, cuda"),
        ({"device": 0}, "device 0 is of type int: give its name"),
    ],
)
def test_bad_argument_is_named(dataset: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make(dataset, **options)


def test_dataset_none_is_refused() -> None:
    nothing: Any = None
    with pytest.raises(
        InvalidValueError, match="dataset None is of type NoneType: give the name of a dataset, or a Dataset"
    ):
        make(nothing)


def test_model_trained_on_custom_data_is_saved_and_loaded(dataset: Dataset, tmp_path: Path) -> None:
    trainer = make(replace(dataset, name="our class", sha256=""))
    trainer.fit(1)
    trainer.save(tmp_path / "m.pth")
    loaded = load_model(tmp_path / "m.pth")
    assert torch.equal(loaded.probabilities(dataset.test_images), trainer.probabilities(dataset.test_images))


def test_noise_is_not_trained_on(dataset: Dataset) -> None:
    with pytest.raises(InvalidValueError, match="nothing to learn"):
        make(replace(dataset, name="synthetic"))


def test_fewer_epochs_than_one_and_unknown_parts_are_refused(dataset: Dataset) -> None:
    trainer = make(dataset)
    with pytest.raises(InvalidValueError, match="epochs 0"):
        trainer.fit(0)
    with pytest.raises(InvalidValueError, match="did you mean 'test'"):
        trainer.evaluate("tests")  # type: ignore[arg-type]  # the mistake


def test_dataset_may_be_named() -> None:
    trainer = Trainer("784-16-10", dataset="digits", device="cpu")
    assert trainer.dataset.name == "digits"
    assert trainer.recipe == find_recipe("784-16-10")


def test_loaded_dataset_is_not_exchanged_for_the_files_that_a_dataloader_finds(tiny: Dataset, tiny_root: Path) -> None:
    for root in (None, tiny_root):
        with pytest.raises(InvalidValueError, match="cannot use the loaded dataset 'mnist': give the dataset's name"):
            make(tiny, pipeline="dataloader", data_root=root)


def test_dataset_that_is_named_may_come_through_a_dataloader(
    tiny: Dataset, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_mlp.trainer.load", lambda *_: tiny)  # the real one insists on the genuine files
    trainers = [
        Trainer(RECIPE, dataset="mnist", device="cpu", pipeline=pipeline, data_root=root)
        for pipeline, root in (("dataloader", str(tiny_root)), ("resident", tiny_root))
    ]
    assert trainers[0].fit(1)[0] == trainers[1].fit(1)[0]


def test_customised_recipe_carries_the_claims_only_while_it_is_the_published_one() -> None:
    published = find_recipe("mlp_512_256")
    assert customise("mlp_512_256", epochs=5, learning_rate=None) == published
    changed = customise(published, epochs=6)
    assert (changed.epochs, changed.name, changed.claims, changed.departures) == (6, "mlp_512_256", (), "")
    assert customise("mlp_512_256", width=128, shuffle=False).layers == (784, 128, 64, 10)
    with pytest.raises(InvalidValueError, match=r"momentum 0\.5 applies to sgd only"):
        customise("mlp_128", momentum=0.5)


def test_unknown_ingredient_is_answered_with_the_known_ones() -> None:
    misspelt: dict[str, Any] = {"learning_rat": 0.1}
    with pytest.raises(InvalidValueError, match=r"'learning_rat' is unknown \(did you mean 'learning_rate'\?\): use"):
        customise("mlp_128", **misspelt)
    with pytest.raises(InvalidValueError, match=r"ingredient 'lr' is unknown: use one of width, output, .*shuffle"):
        customise("mlp_128", lr=None)  # type: ignore[call-arg]  # the mistake


def test_numpys_numbers_train_and_are_saved_like_plain_ones(dataset: Dataset, tmp_path: Path) -> None:
    one: Any = np.int64(1)
    trainer = make(dataset, replace(RECIPE, batch_size=20 * one), seed=one)
    assert list(trainer.fit(one)) == list(make(dataset).fit(1))
    trainer.save(tmp_path / "model.pth")
    assert load_model(tmp_path / "model.pth").recipe == RECIPE


def test_device_of_a_trainer_can_be_used_for_another_and_for_its_saved_model(dataset: Dataset, tmp_path: Path) -> None:
    trainer = make(dataset, device=torch.device("cpu"))
    trainer.save(tmp_path / "model.pth")
    assert load_model(tmp_path / "model.pth", device=trainer.device).device == trainer.device
    assert make(dataset, device=trainer.model.device).device == trainer.device


@pytest.mark.parametrize(("precision", "setting"), [("fp32", "highest"), ("tf32", "high")])
def test_products_have_the_trainers_precision_whatever_torch_is_set_to(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str, setting: str
) -> None:
    monkeypatch.setattr("mnist_mlp.train.check_supported", lambda **_: None)  # without a GPU there is no TF32
    trainer = make(dataset, precision=precision)
    seen = []
    trainer.model.network.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("medium")
    try:
        trainer.fit(1)
        fitted = len(seen)
        trainer.evaluate()
        assert set(seen) == {setting}
        assert len(seen) > fitted > trainer.steps_per_epoch
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_tf32_is_refused_on_a_gpu_that_is_too_old(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(InvalidValueError, match=r"needs compute capability 8\.0"):
        make(dataset, device="cuda", precision="tf32")


def test_importing_the_package_and_its_recipes_imports_no_torch() -> None:
    code = (
        "import sys, mnist_mlp, mnist_mlp.recipes, mnist_mlp.cli, mnist_mlp.tables; from mnist_mlp import find_recipe; "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own


def test_every_public_name_resolves_and_others_do_not() -> None:
    assert set(mnist_mlp.__all__) <= set(dir(mnist_mlp))
    for name in mnist_mlp.__all__:
        assert getattr(mnist_mlp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Trianer'"):
        _ = mnist_mlp.Trianer


@pytest.mark.mnist
@pytest.mark.slow
def test_five_lines_reach_ninety_six_percent_on_mnist(mnist: Dataset) -> None:
    trainer = Trainer("mlp_512_256", dataset=mnist, seed=42, device="cpu")
    history = trainer.fit(1)
    assert history[0].test_accuracy > 0.95
    assert np.mean(trainer.predict(mnist.test_images[:1000]).numpy() == mnist.test_labels[:1000].numpy()) > 0.93


def test_model_and_data_root_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    trainer = Trainer(RECIPE, dataset=bars(), device="cpu")
    trainer.save("~/m.pth")
    assert (tmp_path / "m.pth").is_file()
    assert load_model("~/m.pth").recipe == RECIPE
    roots: list[Path] = []

    def load(_name: str, root: Path) -> Dataset:
        roots.append(root)
        return bars()

    monkeypatch.setattr("mnist_mlp.trainer.load", load)
    Trainer(RECIPE, data_root="~/data", device="cpu")
    assert roots == [tmp_path / "data"]


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_copy_of_a_training_goes_on_learning_alone(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr("mnist_mlp.support.has_compiler", lambda _device: True)
    trainer, whole = (Trainer(RECIPE, dataset=bars(), device="cpu", engine=engine) for _ in range(2))
    trainer.fit(1)
    before = weights(trainer)
    assert copy.deepcopy(trainer).fit(1) == whole.fit(2)
    assert weights(trainer) == before


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_of_any_recipe_can_be_pickled_and_goes_on_learning(name: str) -> None:
    recipe = customise(name, width=16, epochs=2)
    trainer, whole = (Trainer(recipe, dataset=bars(), device="cpu") for _ in range(2))
    trainer.fit(1)
    copied = pickle.loads(pickle.dumps(trainer))  # noqa: S301 - made by this test
    assert copied.fit(1) == whole.fit(2)


def test_a_training_on_engine_fused_cannot_be_copied() -> None:
    fused = Trainer(RECIPE, dataset=bars(), device="cpu", engine="fused")
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(InvalidValueError, match=r"engine fused or graph cannot be copied or pickled.*engine eager"):
            duplicate(fused)
