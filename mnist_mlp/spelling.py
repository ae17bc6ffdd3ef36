"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'fused'?)"`` with the nearest of `choices`, or an empty text if none is near.

    If exactly one of them begins with `name`, that one is the nearest.
    """
    plain = {choice.casefold(): choice for choice in choices}
    begun = [choice for choice in plain if name and choice.startswith(name.casefold())]
    near = begun if len(begun) == 1 else difflib.get_close_matches(name.casefold(), plain, n=1)
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""
