"""The command ``mnist_mlp data``, after its arguments are parsed."""

from pathlib import Path
from typing import Any, Literal

import click
from tabulate import tabulate
from torch import Tensor

from mnist_mlp.data import Dataset, check_root_is_used, default_root, load
from mnist_mlp.files import check_writable_folder
from mnist_mlp.recipes import CLASSES, TORCHVISION_DATASETS
from mnist_mlp.tables import to_json, written_lines


def describe(name: str, *, data_root: Path | None, plots: Path | None, layout: Literal["text", "json"]) -> None:
    """Print where the dataset is kept, what was verified, and what it contains; fetch it if it is missing."""
    check_root_is_used(name, data_root)
    if plots is not None:
        check_writable_folder(plots)
    dataset = load(name, data_root)
    folder = _folder(name, data_root)
    tensors = {
        "train images": dataset.train_images,
        "train labels": dataset.train_labels,
        "test images": dataset.test_images,
        "test labels": dataset.test_labels,
    }
    facts: dict[str, Any] = {
        "dataset": name,
        "source": dataset.source,
        "folder": None if folder is None else click.format_filename(folder),
        "sha256": dataset.sha256,
        "verified": _verification(name),
        "tensors": {part: _tensor_facts(tensor) for part, tensor in tensors.items()},
        "train_class_counts": dataset.train_labels.bincount(minlength=CLASSES).tolist(),
        "test_class_counts": dataset.test_labels.bincount(minlength=CLASSES).tolist(),
    }
    click.echo(to_json(facts) if layout == "json" else _as_text(facts))
    if plots is not None:
        written = _write_samples(dataset, plots)
        if layout == "text":
            click.echo(written_lines(written))


def _folder(name: str, data_root: Path | None) -> Path | None:
    """Return the folder that holds the dataset's files; None for a dataset without files."""
    if name not in TORCHVISION_DATASETS:
        return None
    return (data_root or default_root()) / TORCHVISION_DATASETS[name] / "raw"


def _verification(name: str) -> str:
    if name == "mnist":
        return "each of the four files has the SHA-256 of the genuine one"
    if name == "fashion-mnist":
        return "the four files are well-formed; their SHA-256 is not known in advance, so it was not compared"
    return "generated here, so there is no file to verify"


def _tensor_facts(tensor: Tensor) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "min": int(tensor.min()),
        "max": int(tensor.max()),
        "mean": float(tensor.double().mean()),
    }


def _as_text(facts: dict[str, Any]) -> str:
    lines = [(label, facts[label] or "none") for label in ("dataset", "source", "folder", "sha256", "verified")]
    tensors = [
        (part, "x".join(map(str, tensor["shape"])), tensor["dtype"], tensor["min"], tensor["max"], tensor["mean"])
        for part, tensor in facts["tensors"].items()
    ]
    counts = [
        (label, train, test)
        for label, (train, test) in enumerate(zip(facts["train_class_counts"], facts["test_class_counts"], strict=True))
    ]
    return "\n\n".join(
        (
            tabulate(lines, tablefmt="plain", disable_numparse=True),
            tabulate(tensors, headers=("tensor", "shape", "dtype", "min", "max", "mean"), floatfmt=".2f"),
            tabulate(counts, headers=("class", "train images", "test images")),
        )
    )


def _write_samples(dataset: Dataset, folder: Path) -> list[Path]:
    from mnist_mlp import plots  # noqa: PLC0415 - matplotlib takes half a second

    title = f"{dataset.name}: the first training images of each class"
    figure = plots.sample_grid(dataset.train_images.numpy(), dataset.train_labels.numpy(), title=title)
    return plots.save_figures(folder, [("samples", figure)])
