"""Names that are nearly right."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'fused'?)"`` with the one of `choices` that `name` comes near; nothing if none does.

    One that begins with `name`, as no other does, comes nearest.
    """
    plain = {choice.casefold(): choice for choice in choices}
    begun = [choice for choice in plain if name and choice.startswith(name.casefold())]
    near = begun if len(begun) == 1 else difflib.get_close_matches(name.casefold(), plain, n=1)
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""
