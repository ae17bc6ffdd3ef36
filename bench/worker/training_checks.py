"""Examinations of what is trained: precision, first losses, warm-up, pipelines and scores. Worker only."""

import math
from collections.abc import Sequence
from typing import Final

import torch

from bench.worker.examination import (
    SEED,
    Finding,
    Parts,
    not_applicable,
    passed_if,
    prepared_trial,
    small_recipe,
    stretch,
)
from bench.worker.reference_steps import Adam, Layer, Optimizer, Sgd, first_losses
from mnist_mlp.recipes import CLASSES, ENGINES, INPUT_FEATURES, TORCHVISION_DATASETS, TRANSFORMS, Recipe
from mnist_mlp.support import why_unsupported
from mnist_mlp.train import Training

PRODUCT_SIZE: Final = 1024
"""Large enough for libraries to use the device's matrix units, see `bench.worker.settings`."""

LAYERS: Final = (INPUT_FEATURES, 100, 50, CLASSES)
"""Outputs that are no multiple of a vector's length: libraries compute the last ones by other code than the rest."""

STEPS: Final = 8
LOSS_TOLERANCE: Final = 2 * INPUT_FEATURES**0.5 * 2.0**-24
"""Relative, 3.3e-6: twice the error that independent roundings (2^-24 each) add up to in the longest sum, 784 terms.

Measured on x86_64-2c-1e6182e1 over 60 trainings by each engine (MNIST and digits, Adam and SGD, 15 seeds): at most
2.2e-7 in float32. With the operands of all of eager's products rounded to TF32, the larger of Adam's and SGD's was at
least 7e-5.
"""


def examine_precision(parts: Parts) -> Finding:
    """Set full float32, read the setting back, and pass random bits through a product that must not lose any.

    A product with a permutation matrix sums one value and zeros: in float32 every bit of the value is preserved, in
    whatever order the sum is taken; TF32, bfloat16 and float16 keep 11 or fewer of the 24.
    """
    settings = parts.apply_settings(parts.threads, parts.device.torch_device)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(PRODUCT_SIZE, PRODUCT_SIZE, generator=generator)
    order = torch.randperm(PRODUCT_SIZE, generator=generator)
    permutation = torch.eye(PRODUCT_SIZE)[:, order]
    product = parts.multiply(values.to(parts.device.torch_device), permutation.to(parts.device.torch_device)).cpu()
    kept = (product == values[:, order]).double().mean().item()
    is_set = settings.float32_matmul_precision == "highest" and not (settings.tf32_matmul or settings.tf32_cudnn)
    return passed_if(
        f"TF32 {'off' if is_set else 'ON'} in settings; {100 * kept:.4g} % of products exact",
        sound=is_set and kept == 1,
    )


def examine_first_losses(parts: Parts) -> Finding:
    """Compare the losses of each engine's first steps in a trial with the same steps in float64 without torch."""
    worst: dict[str, float] = {}
    for optimizer, reference, changes in (
        ("adam", Adam(1e-3), {"learning_rate": 1e-3}),
        ("sgd", Sgd(0.05, 0.9), {"learning_rate": 0.05, "momentum": 0.9}),
    ):
        recipe = small_recipe(name="784-100-50-10", layers=LAYERS, optimizer=optimizer, **changes)
        expected = _float64_losses(parts, recipe, reference)
        for engine in _engines(parts.device.name):
            difference = _largest_difference(_session_losses(parts, recipe, engine), expected)
            worst[engine] = max(difference, worst.get(engine, 0.0))
    found = ", ".join(f"{engine} {difference:.1e}" for engine, difference in worst.items())
    return passed_if(f"largest relative difference: {found}", sound=max(worst.values()) <= LOSS_TOLERANCE)


def _engines(device: str) -> list[str]:
    return [
        engine
        for engine in ENGINES
        if engine != "compiled"  # compiling takes longer than all checks together
        and why_unsupported(device=device, engine=engine, precision="fp32", pipeline="resident") is None
    ]


def examine_warm_up(parts: Parts) -> Finding:
    """Compare the losses of a warmed-up trial with those of a training without any warm-up."""
    recipe = small_recipe()
    warmed_up = _session_losses(parts, recipe)  # first, because it sets the threads and the precision for both
    return compare_losses(warmed_up, _training_losses(parts, recipe, "resident"), exactly=parts.on_host)


def examine_pipelines(parts: Parts) -> Finding:
    """Compare the losses with batches from the dataloader pipeline with those from the resident one."""
    if parts.dataset.name not in TORCHVISION_DATASETS:
        return not_applicable(f"torchvision has no reader for {parts.dataset.name}")
    resident, loaded = (_training_losses(parts, small_recipe(), pipeline) for pipeline in ("resident", "dataloader"))
    return compare_losses(loaded, resident, exactly=parts.on_host)


def compare_losses(losses: Sequence[float], expected: Sequence[float], *, exactly: bool) -> Finding:
    """Compare losses: `exactly` on the CPU; on accelerators the order of a sum may differ each time."""
    worst = _largest_difference(losses, expected)
    sound = worst <= (0 if exactly else LOSS_TOLERANCE)
    difference = "equal bit for bit" if worst == 0 else f"largest relative difference {worst:.1e}"
    return passed_if(f"{len(losses)} losses: {difference}", sound=sound)


def _largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Return the largest relative difference; infinite if any loss is not finite."""
    differences = [abs(loss - other) / abs(other) for loss, other in zip(losses, expected, strict=True)]
    return max(difference if math.isfinite(difference) else math.inf for difference in differences)


def examine_scores(parts: Parts) -> Finding:
    """Have a model always predict one class, each in turn: its score must be that class's share of the test set."""
    training = _training(parts, small_recipe(), "resident")
    silent = {name: torch.zeros_like(value) for name, value in training.snapshot().items()}
    *_, last_bias = silent
    wrong = []
    for class_ in range(CLASSES):
        training.restart({**silent, last_bias: torch.eye(CLASSES, device=parts.device.torch_device)[class_]})
        score = training.evaluate().read()
        expected = int((parts.dataset.test_labels == class_).sum())
        if (score.correct, score.samples) != (expected, len(parts.dataset.test_labels)):
            wrong.append(f"class {class_}: {score.correct} of {score.samples} instead of {expected}")
    return passed_if(wrong[0] if wrong else f"all {CLASSES} classes' shares exact", sound=not wrong)


def _training(parts: Parts, recipe: Recipe, pipeline: str) -> Training:
    return parts.make_training(
        recipe, parts.dataset, device=parts.device.torch_device, seed=SEED, pipeline=pipeline, root=parts.root
    )


def _training_losses(parts: Parts, recipe: Recipe, pipeline: str) -> list[float]:
    """Return the first steps' losses of a training outside any trial."""
    training = _training(parts, recipe, pipeline)
    batches = training.order(0).split(recipe.batch_size)[:STEPS]
    return [training.train(batch).read().loss for batch in batches]


def _session_losses(parts: Parts, recipe: Recipe, engine: str = "eager") -> list[float]:
    """Return the first steps' losses as a trial reports them."""
    session = prepared_trial(parts, recipe, engine=engine)
    return [stretch(session, step, step + 1).train_loss for step in range(STEPS)]


def _float64_losses(parts: Parts, recipe: Recipe, optimizer: Optimizer) -> list[float]:
    """Return the first steps' losses for the same weights and batches, computed in float64."""
    training = _training(parts, recipe, "resident")
    arrays = [value.cpu().double().numpy() for value in training.snapshot().values()]
    layers = [Layer(weight=weight, bias=bias) for weight, bias in zip(arrays[::2], arrays[1::2], strict=True)]
    mean, deviation = TRANSFORMS[recipe.transform]
    images = ((parts.dataset.train_images.flatten(1).double() / 255 - mean) / deviation).numpy()
    labels = parts.dataset.train_labels.numpy()
    batches = [batch.numpy() for batch in training.order(0).split(recipe.batch_size)[:STEPS]]
    return first_losses(layers, ((images[batch], labels[batch]) for batch in batches), optimizer)
