"""The teaching notebook runs from a clean kernel, what it says holds, and what is committed came from this code."""

import json
import math
import re
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

_REPOSITORY: Final = Path(__file__).parent.parent
_NOTEBOOK: Final = _REPOSITORY / "docs" / "walkthrough.ipynb"
_MAX_BYTES: Final = 600_000
_CELL_TIMEOUT_S: Final = 600

Notebook: TypeAlias = Any
"""nbformat's, which has no types."""

# Runs after the notebook's own cells: what they left in variables, as JSON.
_PROBE: Final = """
import json
print(json.dumps({
    "baseline": baseline,
    "same": [same_parameters, same_logits, plain_restored, loaded_same],
    "loss": [by_hand.item(), initial_loss.item(), loss_after_step.item()],
    "moving_loss": moving_loss,
    "settled_loss": settled_loss,
    "hand_validation_accuracy": hand_validation_accuracy,
    "validation_accuracies": [epoch.validation_accuracy for epoch in history],
    "train_losses": [epoch.train_loss for epoch in history],
    "test_accuracy": result.accuracy,
    "mistakes": int(mistakes.sum()),
    "claim": claim.value,
    "seed_accuracies": accuracies,
    "drawn_answers": drawn_answers,
    "exchanged_accuracy": exchanged_accuracy,
}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.mnist]
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: install the dependency group notebook")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: install the dependency group notebook")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: install the dependency group notebook")


@pytest.fixture(scope="module")
def committed() -> Notebook:
    """The notebook as it lies in the repository."""
    return nbformat.read(_NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook is executed."""
    return tmp_path_factory.mktemp("walkthrough")


@pytest.fixture(scope="module")
def executed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    """The notebook with fresh outputs and the probe's cell, from a kernel that reads no settings of the user's."""
    notebook = nbformat.read(_NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(_PROBE, id="probe"))
    settings = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(settings / variable.lower()))
        patch.setenv("PYTHONPATH", str(_REPOSITORY))
        nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=_CELL_TIMEOUT_S,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    return notebook


@pytest.fixture(scope="module")
def values(executed: Notebook) -> dict[str, Any]:
    """What the probe printed."""
    found: dict[str, Any] = json.loads(_printed(executed, "probe"))
    return found


def _code(notebook: Notebook) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.id != "probe"]


def _printed(notebook: Notebook, cell_id: str) -> str:
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def _kinds(notebook: Notebook) -> dict[str, list[tuple[str, list[str]]]]:
    """Return for each cell what it put out: stream names and media types."""
    return {
        cell.id: [
            (output.output_type, sorted([output.get("name", ""), *output.get("data", {})])) for output in cell.outputs
        ]
        for cell in _code(notebook)
    }


def test_committed_notebook_is_valid_small_and_generic(committed: Notebook) -> None:
    nbformat.validate(committed)
    assert (committed.nbformat, committed.nbformat_minor) == (4, 5)
    assert committed.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert _NOTEBOOK.stat().st_size < _MAX_BYTES


def test_committed_notebook_was_executed_once_from_top_to_bottom(committed: Notebook) -> None:
    counts = [cell.execution_count for cell in _code(committed)]
    assert counts == list(range(1, len(counts) + 1))


def test_committed_outputs_hold_no_error_no_warning_and_no_path(committed: Notebook) -> None:
    for cell in _code(committed):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
            texts = [output.get("text", "")]
            texts += [str(text) for kind, text in output.get("data", {}).items() if kind != "image/png"]
            for text in texts:
                assert re.search(r"/home/|/root\b|/Users/|/tmp/|/work/|[A-Za-z]:\\", text) is None, cell.id


def test_no_cell_fails_or_warns(executed: Notebook) -> None:
    outputs = [output for cell in _code(executed) for output in cell.outputs]
    assert outputs
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


def test_execution_leaves_no_file_behind(executed: Notebook, folder: Path) -> None:
    assert executed.cells
    assert list(folder.iterdir()) == []


def test_committed_outputs_are_of_the_same_kinds_as_fresh_ones(committed: Notebook, executed: Notebook) -> None:
    assert _kinds(committed) == _kinds(executed)


@pytest.mark.parametrize(
    "cell_id", ["tensor-shape", "tensor-arithmetic", "load", "pixels", "counts", "recipe", "customise", "same", "split"]
)
def test_committed_text_that_no_rounding_changes_equals_fresh_text(
    committed: Notebook,
    executed: Notebook,
    cell_id: str,
) -> None:
    assert _printed(committed, cell_id) == _printed(executed, cell_id)


def test_committed_first_epoch_is_this_codes(committed: Notebook, values: dict[str, Any]) -> None:
    # Another processor rounds otherwise, which moves the first epoch's loss far less than another seed does.
    first_row = _printed(committed, "fit").splitlines()[1].split()
    assert float(first_row[1]) == pytest.approx(values["train_losses"][0], abs=1e-3)


def test_hand_written_parts_equal_the_packages(values: dict[str, Any]) -> None:
    assert values["same"] == [True, True, True, True]
    assert values["hand_validation_accuracy"] == pytest.approx(values["validation_accuracies"][0], abs=0.02)


def test_loss_starts_near_that_of_guessing_and_falls_with_a_step(values: dict[str, Any]) -> None:
    by_hand, initial, after_step = values["loss"]
    assert by_hand == pytest.approx(initial, rel=1e-5)
    assert initial == pytest.approx(math.log(10), abs=0.1)
    assert after_step < initial


def test_training_loss_measured_while_weights_move_is_higher(values: dict[str, Any]) -> None:
    assert values["moving_loss"] > values["settled_loss"]


def test_network_has_learnt(values: dict[str, Any]) -> None:
    assert values["baseline"] == pytest.approx(0.1135)
    assert len(values["validation_accuracies"]) == 10
    assert values["train_losses"][-1] < values["train_losses"][0] / 5
    assert values["validation_accuracies"][-1] > 0.965
    assert values["test_accuracy"] > 0.97
    assert values["mistakes"] == round(10_000 * (1 - values["test_accuracy"]))


def test_seeds_differ_but_lie_near_the_claim(values: dict[str, Any]) -> None:
    accuracies = values["seed_accuracies"]
    assert len(set(accuracies)) > 1
    assert accuracies == pytest.approx(len(accuracies) * [values["claim"]], abs=0.01)


def test_drawn_digit_is_recognised_in_both_polarities_and_needs_preparation(values: dict[str, Any]) -> None:
    assert values["drawn_answers"] == [3, 3]
    assert values["exchanged_accuracy"] < 0.5
