"""Tables as text: what fits the terminal, and how."""

import pytest
from checkout import REFERENCE
from click.testing import CliRunner

from bench.cli import cli
from bench.tables.layout import WordTable, draw_word_tables, escape, json_text, range_text, shortened, text_table


def test_table_without_a_width_keeps_every_cell_on_one_line() -> None:
    table = text_table(("what", "why"), [("x" * 50, "word " * 30)], (False, False))
    assert len(table.splitlines()) == 3


def test_cells_of_the_widest_columns_are_broken_between_words_to_fit() -> None:
    rows = [("cpu", "yes", "host processor"), ("cuda", "no", "this build of torch has no CUDA: install one that has")]
    assert text_table(("device", "is", "why"), rows, (False,) * 3, 40).splitlines() == [
        "device  is   why",
        "------  ---  --------------------------",
        "cpu     yes  host processor",
        "cuda    no   this build of torch has no",
        "             CUDA: install one that has",
    ]


def test_number_and_unit_stay_together_and_right_columns_right() -> None:
    table = text_table(("rate", "range"), [("92.9 GFLOP/s ±3.6 %", "87.83 % to 88.45 %")], (True, True), 24)
    assert table.splitlines() == [
        "        rate       range",
        "------------  ----------",
        "92.9 GFLOP/s  87.83 % to",
        "      ±3.6 %     88.45 %",
    ]


def test_table_that_cannot_fit_is_as_narrow_as_its_words_let_it_be() -> None:
    table = text_table(("a", "b"), [("x" * 20, "one two")], (False, False), 5)
    assert max(map(len, table.splitlines())) == 20 + 2 + 3


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "line",
    [
        "show quick.jsonl",
        "show quick.jsonl --price-per-hour 2",
        "show taxes.jsonl",
        "show taxes.jsonl --taxes",
        "show threads.jsonl",
        "show scaling.jsonl",
        "show recipes.jsonl --claims",
        "compare either-side.jsonl either-side.jsonl",
        "compare scaling.jsonl --between engine=eager,fused",
        "compare quick.jsonl quick.jsonl --price-per-hour 2",
        "predict scaling.jsonl",
        "predict threads.jsonl",
        "predict scaling.jsonl --layers mlp_512_256 --batch-size 64",
        "list --results .",
    ],
)
def test_every_table_of_the_reference_runs_fits_the_terminal(
    line: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REFERENCE)
    for command in ("show", "compare", "predict", "list"):
        monkeypatch.setattr(f"bench.commands.{command}.terminal_width", lambda: width)
    result = CliRunner().invoke(cli, line.split(), prog_name="bench")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= width, result.stdout


def test_nothing_around_a_markdown_table_is_taken_for_more_than_text() -> None:
    table = WordTable(title="a[b](c)", headers=("n",), rows=[("1",)], numeric=(True,), notes=["<script>", "*d*"])
    text = draw_word_tables(["run `x`"], [table], "markdown", 80)
    assert "run \\`x\\`" in text
    assert "a\\[b\\](c)" in text
    assert text.endswith("- \\<script>\n- \\*d\\*")


def test_entities_strikethrough_formulas_and_emphasis_are_escaped_but_not_names() -> None:
    assert escape("&lt; ~x~ $y$") == "\\&lt; \\~x\\~ \\$y\\$"
    assert escape("_z_ and __init__") == "\\_z\\_ and \\_\\_init\\_\\_"
    assert escape("mlp_512_256 at 3.5 %") == "mlp_512_256 at 3.5 %"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_holds_only_numbers_that_every_reader_takes(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"seconds": number})


@pytest.mark.parametrize(
    ("low", "high", "text"), [(1.0, 2.0, "1 to 2"), (None, 2.0, ""), (1.0, None, ""), (None, None, "")]
)
def test_an_interval_without_a_bound_is_empty(low: float | None, high: float | None, text: str) -> None:
    assert range_text(low, high, "{:g}".format) == text


def test_many_of_a_kind_are_listed_three_times_and_then_counted() -> None:
    items = ["a1", "b1", "a2", "c1", "a3", "a4", "c2", "a5", "a6", "c3", "c4", "c5"]
    found = list(shortened(items, lambda item: None if item[0] == "c" else item[0]))
    listed = [(item, 1) for item in ("a1", "b1", "a2", "c1", "a3")]
    assert found == [*listed, ("a4", 3), ("c2", 1), ("c3", 1), ("c4", 1), ("c5", 1)]
