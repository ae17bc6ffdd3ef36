import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mnist_mlp
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import (
    LOSSES,
    MAX_LAYER_WIDTH,
    MAX_LAYERS,
    OUTPUTS,
    RECIPES,
    TRANSFORMS,
    TUTORIALS,
    Recipe,
    check_layers,
    custom_recipe,
    find_recipe,
    parse_layers,
    scale_width,
)

# The five tutorials' facts as published, written down apart from the code.
FACTS: dict[str, dict[str, object]] = {
    "mlp_100_100": {
        "layers": (784, 100, 100, 10),
        "activation": "relu",
        "output": "softmax",
        "loss": "nll_of_log",
        "optimizer": "sgd",
        "learning_rate": 0.001,
        "momentum": 0,
        "weight_decay": 0,
        "batch_size": 16,
        "test_batch_size": 16,
        "epochs": 5,
        "transform": "unit",
        "shuffle": False,
        "seed": None,
    },
    "mlp_120_84": {
        "layers": (784, 120, 84, 10),
        "activation": "relu",
        "output": "log_softmax",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.001,
        "momentum": 0,
        "weight_decay": 0,
        "batch_size": 100,
        "test_batch_size": 500,
        "epochs": 10,
        "transform": "unit",
        "shuffle": True,
        "seed": 101,
    },
    "mlp_512_256": {
        "layers": (784, 512, 256, 10),
        "activation": "relu",
        "output": "logits",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.001,
        "momentum": 0,
        "weight_decay": 0,
        "batch_size": 64,
        "test_batch_size": 64,
        "epochs": 5,
        "transform": "mnist",
        "shuffle": True,
        "seed": 42,
    },
    "mlp_128_90_50": {
        "layers": (784, 128, 90, 50, 10),
        "activation": "relu",
        "output": "logits",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.0005,
        "momentum": 0,
        "weight_decay": 0,
        "batch_size": 64,
        "test_batch_size": 64,
        "epochs": 15,
        "transform": "half",
        "shuffle": True,
        "seed": None,
    },
    "mlp_128": {
        "layers": (784, 128, 10),
        "activation": "relu",
        "output": "logits",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.001,
        "momentum": 0,
        "weight_decay": 0,
        "batch_size": 64,
        "test_batch_size": 64,
        "epochs": 10,
        "transform": "unit",
        "shuffle": True,
        "seed": None,
    },
}

# Recipe → metric → (value, who states it).
CLAIMS: dict[str, dict[str, tuple[float, str]]] = {
    "mlp_100_100": {"test_accuracy": (0.8846, "run")},
    "mlp_120_84": {"test_accuracy": (0.9773, "run")},
    "mlp_512_256": {
        "test_accuracy": (0.9787, "README"),
        "test_loss": (0.0732, "README"),
        "train_accuracy": (0.9881, "README"),
        "train_loss": (0.0370, "README"),
    },
    "mlp_128_90_50": {"test_accuracy": (0.9726, "README")},
    "mlp_128": {"test_accuracy": (0.9783, "README")},
}


def changed(**field: Any) -> Recipe:  # noqa: ANN401 - a field of any type, right or wrong
    return replace(custom_recipe((784, 32, 10)), **field)


def test_importing_recipes_imports_no_torch() -> None:
    script = "import sys, mnist_mlp.recipes; print(sorted({'torch', 'torchvision'} & sys.modules.keys()))"
    result = subprocess.run(  # noqa: S603 - this interpreter and the script above
        [sys.executable, "-c", script],
        cwd=Path(mnist_mlp.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[]\n"


def test_there_are_five_tutorials_and_our_own_under_their_own_names() -> None:
    assert tuple(FACTS) == TUTORIALS
    assert list(RECIPES) == [*FACTS, "speedrun", "canary_adam", "canary_sgd"]
    assert all(name == recipe.name for name, recipe in RECIPES.items())


@pytest.mark.parametrize("name", FACTS)
def test_recipe_has_its_tutorials_facts(name: str) -> None:
    facts = {field.name: getattr(RECIPES[name], field.name) for field in fields(Recipe)}
    apart = {"name", "claims", "departures"}
    found = {key: value for key, value in facts.items() if key not in apart}
    assert found == FACTS[name] | {"schedule": "constant"}  # no tutorial moves its learning rate


@pytest.mark.parametrize("name", CLAIMS)
def test_recipe_claims_what_its_tutorial_claims(name: str) -> None:
    claims = RECIPES[name].claims
    assert {claim.metric: claim.value for claim in claims} == {
        metric: value for metric, (value, _) in CLAIMS[name].items()
    }
    assert len(claims) == len(CLAIMS[name])
    assert all(CLAIMS[name][claim.metric][1] in claim.source for claim in claims)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mlp_100_100", ["50 epochs", "93 %", "88.46 %"]),
        ("mlp_120_84", ["harmless", "last batch"]),
        ("mlp_512_256", ["un-normalises", "wrong constants"]),
        ("mlp_128_90_50", ["48 000", "12 000", "output layer", "another model"]),
        ("mlp_128", ["inferred"]),
    ],
)
def test_recipe_notes_where_the_original_departs_from_its_text(name: str, words: list[str]) -> None:
    assert all(word in RECIPES[name].departures for word in words)


def test_transforms_are_the_documented_means_and_deviations() -> None:
    assert TRANSFORMS == {"unit": (0.0, 1.0), "mnist": (0.1307, 0.3081), "half": (0.5, 0.5)}


def test_recipes_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        RECIPES["mlp_128"].epochs = 1  # type: ignore[misc]  # that it is refused is the test
    with pytest.raises(TypeError):
        RECIPES["mine"] = RECIPES["mlp_128"]  # type: ignore[index]  # likewise


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("784-10", (784, 10)),
        ("784-128-10", (784, 128, 10)),
        ("784-0128-10", (784, 128, 10)),
        ("784-1-10", (784, 1, 10)),
        (f"784-{MAX_LAYER_WIDTH}-10", (784, MAX_LAYER_WIDTH, 10)),
        ("784-" + "8-" * (MAX_LAYERS - 2) + "10", (784, *[8] * (MAX_LAYERS - 2), 10)),
    ],
)
def test_layer_list_is_parsed(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    ("text", "rule", "remedy"),
    [
        ("", "neither a recipe", "write one like 784-128-10"),
        ("784", "neither a recipe", "write one like 784-128-10"),
        ("784-", "neither a recipe", "write one like 784-128-10"),
        ("784--10", "neither a recipe", "write one like 784-128-10"),
        ("784 - 10", "neither a recipe", "write one like 784-128-10"),
        ("784-10\n", "neither a recipe", "write one like 784-128-10"),
        ("784-+5-10", "neither a recipe", "write one like 784-128-10"),
        ("784-1_0-10", "neither a recipe", "write one like 784-128-10"),
        ("784-12.5-10", "neither a recipe", "write one like 784-128-10"),
        ("784-１２８-10", "neither a recipe", "write one like 784-128-10"),  # noqa: RUF001 - digits that int() would read
        ("784-" + "9" * 5000 + "-10", "neither a recipe", "write one like 784-128-10"),
        ("785-10", "must start at 784 (pixels) and end at 10 (classes)", "write them like 784-128-10"),
        ("784-11", "must start at 784 (pixels) and end at 10 (classes)", "write them like 784-128-10"),
        ("10-784", "must start at 784 (pixels) and end at 10 (classes)", "write them like 784-128-10"),
        ("784-0-10", "out of range", "use 1 to 1000000 units"),
        ("784-1000001-10", "out of range", "use 1 to 1000000 units"),
    ],
)
def test_bad_layer_list_is_refused_with_value_rule_and_remedy(text: str, rule: str, remedy: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_layers(text)
    assert repr(text) in str(caught.value)
    assert rule in str(caught.value)
    assert remedy in str(caught.value)


def test_too_many_layers_are_refused_with_their_number() -> None:
    with pytest.raises(InvalidValueError, match=r"65 of them are more than the 64 allowed: use fewer"):
        parse_layers("784-" + "8-" * (MAX_LAYERS - 1) + "10")


def test_no_layers_at_all_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="must start at 784"):
        check_layers(())


@given(st.text() | st.text("0123456789-") | st.from_regex(r"784-[0-9-]{0,20}-10", fullmatch=True))
def test_any_text_is_a_valid_layer_list_or_an_invalid_value(text: str) -> None:
    for read in (parse_layers, lambda model: find_recipe(model).layers):
        try:
            layers = read(text)
        except InvalidValueError as error:
            assert re.search("write (one|them) like|: use ", str(error))  # noqa: PT017 - any text may be refused
        else:
            check_layers(layers)
            assert layers == tuple(int(part) for part in text.split("-"))


@given(st.lists(st.integers(1, MAX_LAYER_WIDTH), max_size=5))
def test_name_of_a_custom_recipe_reads_back_as_the_same_recipe(hidden: list[int]) -> None:
    recipe = custom_recipe((784, *hidden, 10))
    assert find_recipe(recipe.name) == recipe


def test_custom_recipe_is_trained_in_the_documented_way() -> None:
    recipe = custom_recipe((784, 32, 10))
    assert recipe.name == "784-32-10"
    assert (recipe.optimizer, recipe.learning_rate, recipe.loss) == ("adam", 0.001, "cross_entropy")
    assert (recipe.batch_size, recipe.epochs, recipe.claims) == (64, 5, ())


@pytest.mark.parametrize("name", FACTS)
def test_recipe_is_found_by_its_name(name: str) -> None:
    assert find_recipe(name) is RECIPES[name]


@pytest.mark.parametrize(
    ("misspelt", "meant"), [("mlp_512_265", "mlp_512_256"), ("mpl_128", "mlp_128"), ("mlp_512", "mlp_512_256")]
)
def test_misspelt_recipe_is_answered_with_the_nearest_one(misspelt: str, meant: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        find_recipe(misspelt)
    message = str(caught.value)
    assert f"{misspelt!r} is unknown (did you mean {meant!r}?)" in message
    assert all(name in message for name in RECIPES)
    assert "784-128-10" in message


@pytest.mark.parametrize("model", ["", "resnet", "-784-10"])
def test_name_unlike_any_other_gets_no_suggestion_but_the_list(model: str) -> None:
    with pytest.raises(InvalidValueError, match="use a recipe") as caught:
        find_recipe(model)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "width", "layers"),
    [
        ("mlp_512_256", 1024, (784, 1024, 512, 10)),
        ("mlp_512_256", 32, (784, 32, 16, 10)),
        ("mlp_512_256", 5, (784, 5, 3, 10)),
        ("mlp_512_256", 3, (784, 3, 2, 10)),
        ("mlp_512_256", 1, (784, 1, 1, 10)),
        ("mlp_120_84", 1000, (784, 1000, 700, 10)),
        ("mlp_120_84", 101, (784, 101, 71, 10)),
        ("mlp_128_90_50", 256, (784, 256, 180, 100, 10)),
        ("mlp_128_90_50", 1, (784, 1, 1, 1, 10)),
        ("mlp_128", 7, (784, 7, 10)),
    ],
)
def test_width_scales_hidden_layers_in_proportion_rounding_to_nearest(
    name: str, width: int, layers: tuple[int, ...]
) -> None:
    assert scale_width(RECIPES[name], width).layers == layers


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=4),
    st.integers(1, 500),
)
def test_scaled_widths_are_at_most_half_a_unit_from_proportion(hidden: list[int], width: int) -> None:
    first, *scaled, last = scale_width(custom_recipe((784, *hidden, 10)), width).layers
    assert (first, last) == (784, 10)
    assert scaled[0] == width
    for units, new in zip(hidden, scaled, strict=True):
        # Whole numbers, so that the half is exact; a layer never vanishes.
        assert new == 1 or 2 * abs(new * hidden[0] - units * width) <= hidden[0]


@pytest.mark.parametrize("name", FACTS)
def test_native_width_is_the_recipe_itself(name: str) -> None:
    recipe = RECIPES[name]
    assert scale_width(recipe, recipe.layers[1]) is recipe


def test_scaled_recipe_keeps_its_training_but_not_its_name_and_claims() -> None:
    recipe = RECIPES["mlp_100_100"]
    assert scale_width(recipe, 50) == replace(
        recipe, name="784-50-50-10", layers=(784, 50, 50, 10), claims=(), departures=""
    )


def test_model_without_hidden_layer_cannot_be_scaled() -> None:
    with pytest.raises(InvalidValueError, match=r"'784-10' has no hidden layer to widen: leave the width out"):
        scale_width(custom_recipe((784, 10)), 64)


@pytest.mark.parametrize("width", [0, -1])
def test_width_below_one_is_refused(width: int) -> None:
    with pytest.raises(InvalidValueError, match=rf"width {width} is out of range: it must be .* at least 1"):
        scale_width(RECIPES["mlp_128"], width)


def test_width_that_makes_a_layer_too_wide_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"layer width 2000000 .* out of range: use 1 to 1000000"):
        scale_width(custom_recipe((784, 10, 20, 10)), MAX_LAYER_WIDTH)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_accepted_with_the_outputs_it_applies_to_only(loss: str, output: str) -> None:
    pairs = {
        ("cross_entropy", "logits"),
        ("cross_entropy", "log_softmax"),
        ("nll", "log_softmax"),
        ("nll_of_log", "softmax"),
    }
    if (loss, output) in pairs:
        assert changed(loss=loss, output=output).output == output
    else:
        with pytest.raises(InvalidValueError, match=rf"loss '{loss}' needs output .*, not '{output}': change one"):
            changed(loss=loss, output=output)


@pytest.mark.parametrize("field", ["activation", "output", "loss", "optimizer", "transform"])
def test_unknown_word_in_a_field_is_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"{field} 'wrong' is unknown: use one of ") as caught:
        changed(**{field: "wrong"})
    assert getattr(changed(), field) in str(caught.value)


@pytest.mark.parametrize("rate", ["learning_rate", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9])
def test_rate_that_is_not_finite_or_negative_is_refused(rate: str, value: float) -> None:
    with pytest.raises(InvalidValueError, match=f"{rate} {value} is out of range: it must be finite and "):
        changed(optimizer="sgd", **{rate: value})


def test_learning_rate_of_zero_is_refused_while_momentum_and_weight_decay_may_be_zero() -> None:
    with pytest.raises(InvalidValueError, match=r"learning_rate 0\.0 is out of range: .* above 0"):
        changed(learning_rate=0.0)
    assert changed(optimizer="sgd", momentum=0.0, weight_decay=0.0).momentum == 0


@pytest.mark.parametrize(
    ("field", "value", "remedy"), [("shuffle", "no", "True or False"), ("shuffle", 1, "True"), ("name", 3, "text")]
)
def test_name_and_shuffle_of_another_type_are_refused(field: str, value: object, remedy: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"{field} .* is of type \w+: give {remedy}"):
        changed(**{field: value})


def test_model_that_is_not_text_is_refused_with_the_way_to_write_it() -> None:
    layers: Any = (784, 100, 10)
    with pytest.raises(InvalidValueError, match=r"model \(784, 100, 10\) is of type tuple: .* like '784-128-10'"):
        find_recipe(layers)
    with pytest.raises(InvalidValueError, match=r"model \(784, 100, 10\) is of type tuple"):
        mnist_mlp.customise(layers, epochs=2)


def test_names_in_capitals_are_recognised() -> None:
    with pytest.raises(InvalidValueError, match=r"'MLP_128' is unknown \(did you mean 'mlp_128'\?\)"):
        find_recipe("MLP_128")


def test_momentum_is_for_sgd_only() -> None:
    assert changed(optimizer="sgd", momentum=0.9).momentum == 0.9
    with pytest.raises(InvalidValueError, match=r"momentum 0\.9 applies to sgd only.* adam: .*optimizer sgd"):
        changed(momentum=0.9)


@pytest.mark.parametrize("count", ["batch_size", "test_batch_size", "epochs"])
@pytest.mark.parametrize("value", [0, -64, 2**63])
def test_count_below_one_or_beyond_64_bits_is_refused(count: str, value: int) -> None:
    with pytest.raises(InvalidValueError, match=rf"{count} {value} is out of range: it must be a whole .* at least 1"):
        changed(**{count: value})


@pytest.mark.parametrize("layers", [(784, 10, 11), (1, 10), (784, 0, 10)])
def test_recipe_of_bad_layers_is_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValueError, match=r"layers|layer width"):
        changed(layers=layers)


def test_lists_and_numpys_numbers_are_kept_as_plain_ones() -> None:
    given: Any = [784, np.int32(32), 10]
    recipe = changed(name="mine", layers=given, batch_size=np.int64(32), learning_rate=np.float64(0.5), seed=np.int8(7))
    assert recipe == replace(custom_recipe((784, 32, 10)), name="mine", batch_size=32, learning_rate=0.5, seed=7)
    assert hash(recipe)
    assert [type(width) for width in recipe.layers] == [int] * 3
    assert (type(recipe.batch_size), type(recipe.learning_rate), type(recipe.seed)) == (int, float, int)
    assert custom_recipe(given) == custom_recipe((784, 32, 10))
    width: Any = np.int64(64)
    assert [type(units) for units in scale_width(recipe, width).layers] == [int] * 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 32.0, r"batch_size 32\.0 is of type float: give a whole number"),
        ("epochs", "5", "epochs '5' is of type str: give a whole number"),
        ("epochs", True, "epochs True is of type bool: give a whole number"),
        ("seed", 1.5, r"seed 1\.5 is of type float: give a whole number"),
        ("learning_rate", "0.1", r"learning_rate '0\.1' is of type str: give a number"),
        ("layers", (784, 32.5, 10), r"layer width 32\.5 is of type float: give a whole number"),
        ("layers", "784-10", r"layers '784-10' are of type str: give them like \(784, 128, 10\)"),
        ("layers", 784, "layers 784 are of type int: give them like"),
        ("name", None, "recipe name None is of type NoneType: give text"),
    ],
)
def test_value_of_a_wrong_type_is_refused_as_such(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{message}"):
        changed(**{field: value})
