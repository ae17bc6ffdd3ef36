import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError
from bench.tables.prices import Prices, cost_of, format_cost, parse_prices


def test_one_price_is_that_of_every_device_and_side() -> None:
    prices = parse_prices("2.5")
    assert prices.of("cpu") == prices.of("cuda:1") == prices.of("mps", "baseline") == 2.5


def test_a_device_has_its_own_price_or_that_of_its_kind_or_none() -> None:
    prices = parse_prices("cuda=2.5, cuda:1=3, cpu=0.1")
    assert [prices.of(device) for device in ("cuda", "cuda:0", "cuda:1", "cpu", "mps")] == [2.5, 2.5, 3.0, 0.1, None]


def test_accelerators_that_train_together_have_the_price_each() -> None:
    assert parse_prices("2.5").of("cuda", devices=4) == parse_prices("cuda=2.5").of("cuda:1", devices=4) == 10
    assert parse_prices("baseline=2,candidate=3", has_sides=True).of("cuda", "candidate", devices=2) == 6
    assert parse_prices("cpu=1").of("cuda", devices=2) is None


def test_a_side_has_its_price_whatever_its_device() -> None:
    prices = parse_prices("baseline=0.5,candidate=2", has_sides=True)
    assert prices.of("cpu", "baseline") == 0.5
    assert prices.of("cuda:1", "candidate") == 2.0
    assert prices.of("cpu") is None


@given(st.integers(1, 10**8), st.integers(0, 999))
def test_a_price_is_read_as_it_is_written(whole: int, thousandths: int) -> None:
    text = f"{whole}.{thousandths:03}"
    assert parse_prices(text).of("cpu") == float(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "contains '', which is not a price above 0"),
        ("free", "contains 'free', which is not a price above 0"),
        ("0", "contains '0', which is not a price above 0"),
        ("-1", "contains '-1'"),
        ("$2.5", "contains '$2.5'"),
        ("nan", "contains 'nan'"),
        ("1e3", "contains '1e3'"),
        ("inf", "contains 'inf'"),
        ("٣", "contains '٣'"),
        ("1,5", "has two prices for everything"),
        ("cuda=2.5,", "contains ''"),
        ("cuda=", "contains ''"),
        ("=2", "has a price without a name"),
        ("cuda=2,cuda=3", "has two prices for 'cuda'"),
        ("2,cuda=3", "combines a price for everything with others"),
        ("baseline=2,candidate=3", "names a baseline, which a single run does not have"),
    ],
)
def test_invalid_price_is_refused_with_value_rule_and_remedy(text: str, rule: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_prices(text)
    assert str(caught.value).startswith(f"--price-per-hour {text!r} {rule}")
    assert "without a currency, such as 2.5, or one for each device: cuda=2.5,cpu=0.1" in str(caught.value)


@pytest.mark.parametrize("text", ["baseline=2", "candidate=2", "baseline=2,candidate=3,cpu=1"])
def test_sides_have_a_price_each_and_nothing_else_has_one(text: str) -> None:
    with pytest.raises(BadInputError, match=r"must have a price for each side and for nothing else: .*baseline=2\.5"):
        parse_prices(text, has_sides=True)


def test_a_hostile_price_does_not_reach_the_terminal() -> None:
    with pytest.raises(BadInputError) as caught:
        parse_prices("\x1b[2J\u202e" + "9" * 500)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_price_of_a_device_that_nothing_was_measured_on_is_refused() -> None:
    parse_prices("cuda=2,cpu=1").check_devices(["cpu", "cuda:1"])
    parse_prices("2").check_devices([])
    parse_prices("baseline=2,candidate=1", has_sides=True).check_devices(["cpu"])
    with pytest.raises(BadInputError, match=r"names 'cdua', .* \(did you mean 'cuda:1'\?\): name 'cpu' or 'cuda:1'"):
        parse_prices("cpu=1,cdua=2").check_devices(["cpu", "cuda:1"])


def test_an_hour_costs_its_price() -> None:
    assert cost_of(3600.0, 2.5) == 2.5
    assert cost_of(1.0, 3.6) == pytest.approx(0.001)
    assert cost_of(None, 2.5) is None
    assert cost_of(1.0, None) is None


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (0.0013888, "0.00139"),
        (12.0, "12.0"),
        (123.4, "123"),
        (999.9, "1000"),
        (5230.4, "5230"),
        (1.3888e-6, "1.39e-06"),
    ],
)
def test_costs_have_three_significant_digits(cost: float, text: str) -> None:
    assert format_cost(cost) == text


def test_note_says_what_is_included_and_the_prices() -> None:
    assert parse_prices("2.50").note().endswith("that train together are paid for; price per hour: 2.5")
    assert Prices(by_name={"cuda": 2.5, "cpu": 0.1}).note().endswith("price per hour: cuda 2.5, cpu 0.1")
    assert "training time only" in parse_prices("1").note()
