from bench_builders import make_configuration
from hypothesis import given
from hypothesis import strategies as st

from bench.tables.ordering import configuration_key, natural_key


def test_numbers_in_names_sort_by_size() -> None:
    names = ["784-1024-10", "784-128-10", "cuda:10", "cuda:2", "cuda", "mlp_128", "784-0128-10", "784-0099-10"]
    assert sorted(names, key=natural_key) == [
        "784-0099-10",
        "784-128-10",
        "784-0128-10",
        "784-1024-10",
        "cuda",
        "cuda:2",
        "cuda:10",
        "mlp_128",
    ]


def test_configurations_sort_by_device_model_layers_batch_size_and_the_rest() -> None:
    ordered = [
        make_configuration(device="cpu", model="a", layers=(784, 16, 10), batch_size=256),
        make_configuration(device="cpu", model="a", layers=(784, 128, 10), batch_size=64, threads=4),
        make_configuration(device="cpu", model="a", layers=(784, 128, 10), batch_size=1024, threads=1),
        make_configuration(device="cpu", model="a", layers=(784, 128, 10), batch_size=1024, threads=2),
        make_configuration(device="cpu", model="b", layers=(784, 16, 10), batch_size=16),
        make_configuration(device="cuda:2", model="a", layers=(784, 16, 10), batch_size=16),
        make_configuration(device="cuda:10", model="a", layers=(784, 16, 10), batch_size=16),
    ]
    ordered_keys = [configuration_key(each) for each in ordered]
    assert ordered_keys == sorted(ordered_keys)


@given(st.text(), st.text())
def test_every_pair_of_names_can_be_ordered(one: str, other: str) -> None:
    assert (natural_key(one) < natural_key(other)) + (natural_key(one) >= natural_key(other)) == 1
