import pytest

from mnist_mlp.checks import (
    MAX_NAME_CHARACTERS,
    check_choice,
    check_name,
    check_positive_int,
    check_rate,
    check_seed,
)
from mnist_mlp.errors import InvalidValueError


def test_values_at_the_edge_of_their_rule_are_accepted() -> None:
    check_choice("fruit", "fig", ("apple", "fig"))
    check_name("fruit", "f" * MAX_NAME_CHARACTERS)
    assert (check_positive_int("figs", 1), check_positive_int("figs", 2**63 - 1)) == (1, 2**63 - 1)
    assert (check_seed(0), check_seed(2**63 - 1)) == (0, 2**63 - 1)
    assert check_rate("momentum", 0, zero=True) == 0.0


def test_unknown_choice_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(
        InvalidValueError, match=r"fruit 'aple' is unknown \(did you mean 'apple'\?\): use one of apple, fig"
    ):
        check_choice("fruit", "aple", ("apple", "fig"))


@pytest.mark.parametrize("name", ["two\nlines", "f" * (MAX_NAME_CHARACTERS + 1)])
def test_name_that_a_checkpoint_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^fruit '.*' cannot be stored: use at most 512 characters"):
        check_name("fruit", name)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_outside_of_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(InvalidValueError, match=f"^seed {seed} is out of range: use a whole number from 0 to"):
        check_seed(seed)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 10**400])
def test_rate_that_is_not_finite_and_positive_is_refused(rate: float) -> None:
    with pytest.raises(InvalidValueError, match=r"^learning_rate .* is out of range: it must be finite and above 0"):
        check_rate("learning_rate", rate, zero=False)
