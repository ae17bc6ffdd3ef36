from hypothesis import given
from hypothesis import strategies as st

from bench.tables.ordering import natural_key


def test_numbers_in_names_sort_by_size() -> None:
    names = ["784-1024-10", "784-128-10", "cuda:10", "cuda:2", "cuda", "mlp_128", "784-0128-10"]
    assert sorted(names, key=natural_key) == [
        "784-128-10",
        "784-0128-10",
        "784-1024-10",
        "cuda",
        "cuda:2",
        "cuda:10",
        "mlp_128",
    ]


@given(st.text(), st.text())
def test_every_pair_of_names_can_be_ordered(one: str, other: str) -> None:
    assert (natural_key(one) < natural_key(other)) + (natural_key(one) >= natural_key(other)) == 1
