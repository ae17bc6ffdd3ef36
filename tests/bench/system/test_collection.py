"""The collector is off within, and afterwards as it was."""

import gc
from collections.abc import Iterator

import pytest

from bench.system.collection import garbage_collection_paused


@pytest.fixture(params=[True, False], ids=["on before", "off before"])
def was_enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


@pytest.mark.parametrize("error", [None, KeyError("planted")])
def test_nothing_is_collected_within_and_what_was_before_comes_back(
    error: Exception | None, *, was_enabled: bool
) -> None:
    seen: list[bool | None] = []
    try:
        with garbage_collection_paused():
            seen.append(gc.isenabled())
            if error is not None:
                raise error
    except KeyError:
        seen.append(None)
    assert seen == ([False] if error is None else [False, None])
    assert gc.isenabled() is was_enabled


def test_it_can_be_put_around_a_function_that_is_called_more_than_once() -> None:
    gc.enable()

    @garbage_collection_paused()
    def ask() -> bool:
        return gc.isenabled()

    assert [ask(), gc.isenabled(), ask(), gc.isenabled()] == [False, True, False, True]
