"""Checks of values that come from outside. A failed check raises `InvalidValueError`. No torch."""

import math
import reprlib
from numbers import Integral, Real
from typing import Final

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.spelling import did_you_mean

MAX_NAME_CHARACTERS: Final = 512
"""Longest name of a recipe or dataset: a list of 64 layers, each a million units wide, still fits."""


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that `value` is one of `choices`; the message suggests the nearest one."""
    if value in choices:
        return
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise InvalidValueError(f"{what} {value!r} is unknown{hint}: use one of {', '.join(choices)}")


def check_type(what: str, value: object, kind: type, remedy: str) -> None:
    """Check that `value` is an instance of `kind`; the message ends with `remedy`, which completes "give ..."."""
    if not isinstance(value, kind):
        raise InvalidValueError(f"{what} {reprlib.repr(value)} is of type {type(value).__name__}: give {remedy}")


def check_name(what: str, value: str) -> None:
    """Check that `value` is printable text of at most `MAX_NAME_CHARACTERS`, so that a checkpoint can hold it."""
    check_type(what, value, str, "text")
    if len(value) > MAX_NAME_CHARACTERS or not value.isprintable():
        raise InvalidValueError(
            f"{what} {reprlib.repr(value)} cannot be stored: "
            f"use at most {MAX_NAME_CHARACTERS} characters, all of them printable"
        )


def check_whole(what: str, value: int) -> int:
    """Check that `value` is a whole number, NumPy's included; return it as an int."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidValueError(f"{what} {value!r} is of type {type(value).__name__}: give a whole number")
    return int(value)


def check_positive_int(what: str, value: int) -> int:
    """Check that `value` is a whole number from 1 to 2**63 - 1, torch's largest; return it as an int."""
    number = check_whole(what, value)
    if not 1 <= number < 2**63:
        raise InvalidValueError(
            f"{what} {value} is out of range: it must be a whole number of at least 1 and below 2**63"
        )
    return number


def check_seed(value: int) -> int:
    """Check that `value` is a whole number from 0 to 2**63 - 1; return it as an int."""
    number = check_whole("seed", value)
    if not 0 <= number < 2**63:
        raise InvalidValueError(f"seed {number} is out of range: use a whole number from 0 to 2**63 - 1")
    return number


def check_rate(what: str, value: float, *, zero: bool) -> float:
    """Check that `value` is a finite number above 0, or 0 itself where `zero` is true; return it as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidValueError(f"{what} {value!r} is of type {type(value).__name__}: give a number")
    try:
        number = float(value)
    except OverflowError:  # an int beyond the largest float
        number = math.inf
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        least = "at least" if zero else "above"
        raise InvalidValueError(f"{what} {number} is out of range: it must be finite and {least} 0")
    return number
