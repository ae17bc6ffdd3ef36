"""Saved models: they come back bit for bit, and no file, however made, does more than raise a `CheckpointError`."""

import io
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor
from traced_memory import peak_bytes
from workload_builders import RECIPE, bars, rewrite_archive

from mnist_mlp import Trainer, __version__, load_model
from mnist_mlp.archive import MAX_ARCHIVE_BYTES, MAX_PICKLE_BYTES
from mnist_mlp.checkpoint import CheckpointError, check_fits_checkpoint, load_checkpoint
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.files import OutputError

MIB: Final = 1024**2
SHARED: Final = torch.ones(4)
pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    trainer = Trainer(replace(RECIPE, seed=11), dataset=bars(), device="cpu", validation_split=0.1)
    trainer.fit(2)
    return trainer


@pytest.fixture
def saved(trainer: Trainer, tmp_path: Path) -> Path:
    path = tmp_path / "mnist_model.pth"
    trainer.save(path)
    return path


@pytest.mark.parametrize(("split", "seed"), [(0, 3), (np.float64(0.1), np.int64(3))])
def test_model_of_a_whole_split_or_of_numpys_numbers_can_be_loaded(tmp_path: Path, split: float, seed: int) -> None:
    Trainer(RECIPE, dataset=bars(), device="cpu", validation_split=split, seed=seed).save(tmp_path / "model.pth")
    training = load_checkpoint(tmp_path / "model.pth").training
    assert (training.validation_split, training.seed) == (split, seed)


def content_of(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    assert isinstance(content, dict)
    return content


def load_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    load_checkpoint(path)


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def with_pickle(saved: Path, pickled: bytes) -> bytes:
    return rewrite_archive(saved.read_bytes(), {"data.pkl": lambda _: pickled})


def test_saved_model_answers_exactly_as_before(trainer: Trainer, saved: Path) -> None:
    model = load_model(saved)
    images = trainer.dataset.test_images
    assert torch.equal(model.probabilities(images), trainer.probabilities(images))
    assert model.recipe == trainer.recipe
    assert model.device == torch.device("cpu")


def test_checkpoint_records_how_the_model_was_trained(trainer: Trainer, saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert (checkpoint.dataset, checkpoint.dataset_sha256) == ("digits", "1" * 64)
    assert (checkpoint.training.seed, checkpoint.training.epochs) == (11, 2)
    assert checkpoint.training.validation_split == 0.1
    assert checkpoint.training.test_loss == trainer.history[-1].test_loss
    assert checkpoint.training.test_accuracy == trainer.history[-1].test_accuracy
    assert checkpoint.library_version == __version__


def test_loaded_network_can_be_trained_further(saved: Path) -> None:
    network = load_checkpoint(saved).network
    network(torch.zeros(1, 784)).sum().backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1}, {"schedule": "one_cycle"}, {"output": "softmax", "loss": "nll_of_log"}]
)
def test_any_recipe_and_an_untrained_model_come_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    trainer = Trainer(replace(RECIPE, **changes), dataset=bars(), device="cpu")
    trainer.save(str(tmp_path / "new.pth"))
    checkpoint = load_checkpoint(tmp_path / "new.pth")
    assert checkpoint.recipe == trainer.recipe
    assert checkpoint.training.test_accuracy is None


def test_a_file_of_the_first_version_has_no_schedule(trainer: Trainer, saved: Path, tmp_path: Path) -> None:
    content = content_of(saved) | {"version": 1}
    del content["recipe"]["schedule"]
    torch.save(content, tmp_path / "old.pth")
    assert load_checkpoint(tmp_path / "old.pth").recipe == trainer.recipe
    with pytest.raises(CheckpointError, match="field recipe does not have the entries"):
        load_bytes(tmp_path, torch_bytes(content | {"version": 2}))


def test_torch_itself_loads_the_file_as_plain_cpu_weights(saved: Path) -> None:
    content = content_of(saved)
    assert content["recipe"]["layers"] == [784, 16, 10]
    assert {(value.device.type, value.dtype) for value in content["state_dict"].values()} == {("cpu", torch.float32)}
    assert all(value.untyped_storage().nbytes() == 4 * value.numel() for value in content["state_dict"].values())


def test_weights_that_share_one_large_buffer_are_saved_each_on_its_own(tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, dataset=bars(), device="cpu")
    buffer = torch.rand(2_000_000)
    start = 0
    for parameter in trainer.model.network.parameters():
        parameter.data = buffer[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    trainer.save(tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_size < 100_000
    images = trainer.dataset.test_images
    assert torch.equal(load_model(tmp_path / "model.pth").probabilities(images), trainer.probabilities(images))


def test_failed_save_leaves_the_old_file_and_nothing_else(
    trainer: Trainer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        trainer.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_model_too_large_for_a_checkpoint_is_refused_before_it_is_built() -> None:
    check_fits_checkpoint((784, 4096, 4096, 10))
    with pytest.raises(CheckpointError, match="narrower layers"):
        check_fits_checkpoint((784, 100_000, 10))


def test_model_too_large_for_a_checkpoint_is_not_saved(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_mlp.checkpoint.MAX_ARCHIVE_BYTES", MIB)
    with pytest.raises(
        CheckpointError, match="takes 50920 bytes, but a checkpoint holds at most 1048576: use narrower"
    ):
        trainer.save(tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_device_of_a_loaded_model_may_be_named(saved: Path) -> None:
    assert load_model(saved, device="auto").recipe.name == "784-16-10"
    with pytest.raises(InvalidValueError, match="device 'cudda' is unknown: use auto, cpu, cuda"):
        load_model(saved, device="cudda")


class Executed:
    """What its pickle does when it is loaded carelessly."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._marker,)


def test_nothing_that_a_file_asks_for_is_executed(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    evil = content_of(saved) | {"library_version": Executed(marker)}
    for content in (torch_bytes(evil), pickle.dumps(Executed(marker)), with_pickle(saved, pickle.dumps(evil, 4))):
        with pytest.raises(CheckpointError):
            load_bytes(tmp_path, content)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Executed(marker)))  # noqa: S301 - the proof that it would have been
    assert marker.exists()


def test_whole_pickled_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'torch.nn.modules.linear.Linear', and loading it could run code"):
        load_bytes(tmp_path, torch_bytes(torch.nn.Linear(784, 10)))


def test_bare_state_dict_is_refused_with_what_is_missing(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"bare state_dict: the weights cannot be used without their recipe \(layers, output, loss, transform\)",
    ):
        load_bytes(tmp_path, torch_bytes(trainer.model.network.state_dict()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip archive"),
        (b"this is no model", "not a zip archive"),
        (torch_bytes({"weights": torch.zeros(2, dtype=torch.float64)}), "'torch.DoubleStorage'"),
        (torch_bytes([1, 2, 3]), "does not contain a dictionary"),
        (torch_bytes({}), "is not marked as a checkpoint"),
        (torch_bytes({"weights": torch.zeros(4, 4).t()[:2]}), "smaller or larger than its record"),
        (torch_bytes({"weights": torch.ones(2, 4).t()}), "not contiguous"),
        (torch_bytes({"weights": torch.ones(4), "more": set()}), "loading it could run code"),
        (torch_bytes({"one": SHARED, "two": SHARED.view(2, 2)}), "share the record"),
    ],
    ids=["empty", "text", "double", "list", "nothing", "part", "transposed", "set", "shared"],
)
def test_foreign_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_bytes(tmp_path, content)


def test_missing_file_folder_and_impossible_name_are_refused(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nix.pth", "no such file"),
        (tmp_path, "a folder or a device"),
        (tmp_path / "a\0b", "there is no such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)


def test_unreadable_file_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        load_checkpoint(saved)


def test_reference_to_something_that_is_not_a_storage_is_refused(saved: Path, tmp_path: Path) -> None:
    reference = b"\x80\x02(X\x04\x00\x00\x00file" + 4 * b"K\x00" + b"tQ."
    with pytest.raises(CheckpointError, match="not a float32 storage"):
        load_bytes(tmp_path, with_pickle(saved, reference))


def test_errors_that_only_torch_finds_are_reported_too(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="torch cannot load it"):
        load_bytes(tmp_path, rewrite_archive(saved.read_bytes(), {"byteorder": lambda _: b"middle"}))


def test_record_marked_as_a_folder_is_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    name_in_directory = content.rindex(b"/data/0")
    entry = content.rindex(b"PK\x01\x02", 0, name_in_directory)
    content[entry + 38] |= 0x10  # the external attributes, MS-DOS's part
    with pytest.raises(CheckpointError, match="marked as a folder"):
        load_bytes(tmp_path, bytes(content))


def test_zip_without_a_pickle_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/readme", "no pickle")
    with pytest.raises(CheckpointError, match="not contain exactly one pickle"):
        load_bytes(tmp_path, buffer.getvalue())


def test_torchscript_archive_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
    with pytest.raises(CheckpointError, match="not contain exactly one pickle"):
        load_bytes(tmp_path, buffer.getvalue())


def recipe_change(**values: Any) -> Callable[[dict[str, Any]], None]:  # noqa: ANN401 - any value of a stranger's
    return lambda content: content["recipe"].update(values)


def change(part: str, **values: Any) -> Callable[[dict[str, Any]], None]:  # noqa: ANN401 - any value of a stranger's
    return lambda content: content[part].update(values)


CORRUPTIONS: Final[dict[str, tuple[Callable[[dict[str, Any]], Any], str]]] = {
    "newer version": (lambda content: content.update(version=3), "format version 3.*upgrade"),
    "version of none": (lambda content: content.update(version=0), "format version 0.*reads 1 to 2"),
    "version of another type": (lambda content: content.update(version=True), "version is not of type int"),
    "field missing": (lambda content: content.pop("dataset"), "fields are not the"),
    "field too many": (lambda content: content.update(extra=1), "fields are not the"),
    "foreign format": (lambda content: content.update(format="other"), "is not marked"),
    "library version with escapes": (
        lambda content: content.update(library_version="\x1b[2J"),
        "library_version is out",
    ),
    "endless text": (recipe_change(name="x" * 1000), "name is out of range"),
    "unknown schedule": (recipe_change(schedule="two_cycles"), "schedule 'two_cycles' is unknown"),
    "bool for a number": (recipe_change(epochs=True), "epochs is not of type int"),
    "text for a number": (recipe_change(batch_size="64"), "batch_size is not of type int"),
    "negative seed": (change("training", seed=-1), "seed is out of range"),
    "not a number": (recipe_change(learning_rate=float("nan")), "learning_rate is out of range"),
    "unknown output": (recipe_change(output="sigmoid"), "output 'sigmoid' is unknown"),
    "no list of layers": (recipe_change(layers="784-10"), "layers is not of type list"),
    "layers of text": (recipe_change(layers=[784, "16", 10]), "not a list of whole numbers"),
    "one layer": (recipe_change(layers=[784]), "not a list of whole numbers"),
    "endless layers": (recipe_change(layers=[784, *[1] * 5000, 10]), "not a list of whole numbers"),
    "terabytes of layers": (recipe_change(layers=[784, 1_000_000, 1_000_000, 10]), "narrower layers"),
    "other layers": (recipe_change(layers=[784, 17, 10]), "names and shapes that its recipe needs"),
    "recipe is no dictionary": (lambda content: content.update(recipe=[]), "field recipe does not have the entries"),
    "recipe lacks an entry": (lambda content: content["recipe"].pop("loss"), "field recipe does not have the entries"),
    "training lacks an entry": (
        lambda content: content["training"].pop("seed"),
        "field training does not have the entries",
    ),
    "no hash": (change("dataset", sha256="ABC"), "SHA-256 of its dataset is malformed"),
    "weights are no dictionary": (lambda content: content.update(state_dict=[1]), "names and shapes"),
    "a weight is a number": (change("state_dict", **{"0.bias": 1}), "names and shapes"),
    "a weight is missing": (lambda content: content["state_dict"].pop("0.bias"), "names and shapes"),
    "infinite weights": (lambda content: content["state_dict"]["0.bias"].fill_(float("inf")), "not finite numbers"),
}


@pytest.mark.parametrize(("corrupt", "message"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_every_wrong_field_is_named(
    saved: Path, tmp_path: Path, corrupt: Callable[[dict[str, Any]], Any], message: str
) -> None:
    content = content_of(saved)
    corrupt(content)
    with pytest.raises(CheckpointError, match=f"(?s)model.pth.*{message}.*Give a file that `train --save`"):
        load_bytes(tmp_path, torch_bytes(content))


def storage_claims(numbers: int) -> Callable[[bytes], bytes]:
    """Return a change of the pickle that has the last layer's bias, 10 numbers long, claim another length."""
    return lambda pickled: pickled.replace(b"K\x0at", b"J" + numbers.to_bytes(4, "little") + b"t")


def test_tensor_that_claims_more_than_its_record_holds_is_refused_before_torch_reads_it(
    saved: Path, tmp_path: Path
) -> None:
    lying = rewrite_archive(saved.read_bytes(), {"data.pkl": storage_claims(2**31 - 1)})
    assert lying != rewrite_archive(saved.read_bytes(), {})
    with pytest.raises(CheckpointError, match="not as long as it says"):
        load_bytes(tmp_path, lying)


# A pickle that calls bytearray(2**31 - 1), which weights_only=True would let it.
BYTEARRAY_BOMB: Final = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
# It uses memo number 2**31 - 1, for which the unpickler would allocate a table.
MEMO_BOMB: Final = b"\x80\x02}r\xff\xff\xff\x7f."
# One that announces a text of 2 GiB.
TEXT_BOMB: Final = b"\x80\x02X\xff\xff\xff\x7fabc."
NEWER_OPCODE_BOMB: Final = b"\x80\x05\x96" + (2**31).to_bytes(8, "little") + b"."


@pytest.mark.parametrize("bomb", [BYTEARRAY_BOMB, MEMO_BOMB, TEXT_BOMB, NEWER_OPCODE_BOMB])
def test_pickle_that_asks_for_gigabytes_is_refused_without_giving_them(
    saved: Path, tmp_path: Path, bomb: bytes
) -> None:
    content = with_pickle(saved, bomb)

    def load() -> None:
        with pytest.raises(CheckpointError):
            load_bytes(tmp_path, content)

    assert peak_bytes(load) < 20 * MIB


def test_compressed_records_long_pickles_and_long_files_are_refused_unread(saved: Path, tmp_path: Path) -> None:
    zeros = rewrite_archive(saved.read_bytes(), {"0": lambda _: bytes(50 * MIB)}, compression=zipfile.ZIP_DEFLATED)
    long_pickle = with_pickle(saved, bytes(MAX_PICKLE_BYTES + 1))
    with (tmp_path / "long.pth").open("wb") as file:
        file.truncate(MAX_ARCHIVE_BYTES + 1)

    def load() -> None:
        for content, message in ((zeros, "compressed"), (long_pickle, "not contain exactly one pickle")):
            with pytest.raises(CheckpointError, match=message):
                load_bytes(tmp_path, content)
        with pytest.raises(CheckpointError, match="larger than"):
            load_checkpoint(tmp_path / "long.pth")

    assert peak_bytes(load) < 20 * MIB


@pytest.mark.parametrize("name", ["DATA.PKL", "data.PKL", "Data/0"])
def test_record_whose_name_differs_in_case_alone_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    # torch's reader would take it for the other one.
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved.read_bytes())) as genuine, zipfile.ZipFile(buffer, "w") as archive:
        folder = genuine.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/{name}", BYTEARRAY_BOMB)
        for entry in genuine.infolist():
            archive.writestr(entry.filename, genuine.read(entry))
    with pytest.raises(CheckpointError, match="two of the same name"):
        load_bytes(tmp_path, buffer.getvalue())


def test_torch_is_given_only_what_was_screened(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[set[str]]()
    load = torch.load

    def spy(file: io.BytesIO, **options: Any) -> Any:  # noqa: ANN401 - torch's own signature
        with zipfile.ZipFile(file) as archive:
            seen.append(set(archive.namelist()))
        file.seek(0)
        return load(file, **options)

    buffer = io.BytesIO(saved.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/code/evil.py", b"x")
        archive.writestr("other/constants.pkl.txt", b"x")
    monkeypatch.setattr(torch, "load", spy)
    load_bytes(tmp_path, buffer.getvalue())
    (names,) = seen
    assert {name for name in names if not name.startswith("archive/data/")} == {
        "archive/version",
        "archive/data.pkl",
        "archive/byteorder",
    }


def test_two_records_of_the_same_name_are_refused(saved: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO(saved.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), BYTEARRAY_BOMB)
    with pytest.raises(CheckpointError, match="two of the same name"):
        load_bytes(tmp_path, buffer.getvalue())


def test_file_cut_short_anywhere_is_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for length in range(0, len(content), len(content) // 40):
        with pytest.raises(CheckpointError):
            load_bytes(tmp_path, content[:length])


def test_flipped_bits_are_found_or_harmless(trainer: Trainer, saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    images = trainer.dataset.test_images
    expected = trainer.probabilities(images)
    chance = random.Random(0)  # noqa: S311 - repeatable, not secret
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            answers: Tensor = load_model(tmp_path / "damaged.pth").probabilities(images)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(answers, expected)
    assert refused > 100


def test_file_whose_weights_are_tagged_as_lying_on_cuda_loads_without_cuda(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torch writes of tensors on a GPU; `save` itself never does, it brings them to the CPU first.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
    trainer.save(tmp_path / "tagged.pth")
    monkeypatch.undo()
    assert b"cuda:0" in (tmp_path / "tagged.pth").read_bytes()
    images = trainer.dataset.test_images
    assert torch.equal(load_model(tmp_path / "tagged.pth").probabilities(images), trainer.probabilities(images))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_model_saved_on_cuda_loads_on_the_cpu(tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, dataset=bars(), device="cuda")
    trainer.fit(1)
    trainer.save(tmp_path / "model.pth")
    images = trainer.dataset.test_images
    assert torch.allclose(
        load_model(tmp_path / "model.pth").probabilities(images), trainer.probabilities(images), atol=1e-5
    )
    assert load_model(tmp_path / "model.pth", device="cuda").device.type == "cuda"
