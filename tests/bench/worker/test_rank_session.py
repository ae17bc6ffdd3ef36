"""What one rank of several does differently, with a scripted group in place of other processes."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_builders import make_configuration, make_measurement

from bench.coding import from_json, to_json
from bench.planning.estimate import EXCHANGE_SECONDS
from bench.protocol.messages import Finished, Prepared
from bench.records import Failure, FailureKind, Peak, RankRecord, Trial
from bench.worker import rank_session
from bench.worker.rank_session import RankSession
from bench.worker.session import Session
from bench.worker.timer import Timer
from mnist_mlp.ranks import Ranks


@pytest.mark.parametrize(("first", "own"), [("cuda:0", "cuda:1"), ("cpu", "cpu")])
def test_a_rank_trains_on_the_device_with_its_number_on_its_own_host(first: str, own: str) -> None:
    group: Any = SimpleNamespace(ranks=Ranks(rank=3, world_size=4), local_rank=1)  # the second rank of the second host
    assert RankSession(group).own_device(first) == own


@pytest.mark.parametrize("name", ["torch", "workload", "harness", "dataset"])
def test_a_rank_with_other_software_or_data_than_the_first_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def exchange(traits: dict[str, str]) -> list[dict[str, str]]:
        return [traits, traits, traits | {name: "another"}]

    known: dict[str, Any] = {field: getattr(make_measurement(), field, 1) for field in Prepared.__slots__}
    monkeypatch.setattr(Session, "_prepare", lambda *_: Prepared(**known))
    group: Any = SimpleNamespace(ranks=Ranks(rank=0, world_size=3), exchange=exchange)
    trial = Trial(configuration=make_configuration(world_size=3), seed=3, repeat=0)
    answer = RankSession(group).answer({"do": "prepare", "trial": to_json(trial), "root": None})
    failure = from_json(Failure, answer["failure"])
    assert failure.kind is FailureKind.UNSUPPORTED
    assert failure.message.startswith(f"rank 2 has {name} another, the first rank ")


def test_the_first_rank_alone_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_evaluate", lambda _self: 0.5)
    for rank, answer in ((0, 0.5), (1, None)):
        group: Any = SimpleNamespace(ranks=Ranks(rank=rank, world_size=2))
        assert RankSession(group).answer({"do": "evaluate"}) == {"answer": answer}


class Scripted:
    """The training, the group and the clock of a rank whose other rank takes twice as long for a step."""

    ranks = Ranks(rank=0, world_size=2)
    recipe = SimpleNamespace(batch_size=2)
    train_samples = 9

    def __init__(self) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.log: list[str] = []
        self.now = 0.0
        self.seconds = 1.0

    def exchange(self, value: object) -> list[object]:
        return [value, 2 * value if isinstance(value, float) else value]

    def meet(self) -> None:
        self.log.append("meet")
        self.now += 64

    def order(self, _epoch: int) -> torch.Tensor:
        return torch.arange(self.train_samples)

    def train(self, order: torch.Tensor) -> None:
        self.log.append(f"train {len(order)}")
        self.now += self.seconds

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        self.log.append("apart")
        self.seconds = 0.25
        yield
        self.seconds = 1.0


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - of scripted parts
    """Return a rank's session after its last epoch."""
    monkeypatch.setattr(rank_session, "describe_machine", lambda: SimpleNamespace(id="m0123456789a"))
    scripted: Any = Scripted()
    session: Any = RankSession(scripted)
    session._training, session._device = scripted, SimpleNamespace(name="cuda:1")  # noqa: SLF001 - as `prepare` does
    session._timer = Timer(lambda: None, lambda: scripted.now)  # noqa: SLF001 - likewise
    session._step_seconds = EXCHANGE_SECONDS  # noqa: SLF001 - likewise
    return session


def finish(session: RankSession) -> Finished:
    return from_json(Finished, session.answer({"do": "finish"})["answer"])


def test_a_rank_records_its_own_machine_device_times_and_peaks(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 - of scripted parts
    trained = (SimpleNamespace(train_seconds=seconds) for seconds in (2.0, 3.0))
    monkeypatch.setattr(Session, "_train", lambda _self, _epoch: next(trained))
    peaks: dict[str, Any] = {
        name: Peak(bytes=size, method="scripted")
        for size, name in enumerate(("host_peak", "device_allocated_peak", "device_reserved_peak"))
    }
    finished = Finished(**peaks, energy=None, energy_reason="no counter")
    monkeypatch.setattr(Session, "_finish", lambda _self: finished)
    for epoch in range(2):
        session._train(epoch)  # noqa: SLF001 - its answer cannot be sent
    own = RankRecord(host=0, machine="m0123456789a", device="cuda:1", train_seconds=(2.0, 3.0), **peaks)
    assert finish(session).ranks == (own,)


def test_ranks_that_end_with_different_parameters_are_a_failure(
    session: Any,  # noqa: ANN401 - of scripted parts
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Scripted, "exchange", lambda _self, value: [value, f"not {value}"])
    failure = from_json(Failure, session.answer({"do": "finish"})["failure"])
    assert failure.kind is FailureKind.CRASH
    assert "the ranks ended with different parameters" in failure.message


def test_blocks_with_and_without_the_exchange_begin_together_and_are_spread_alike(session: Any) -> None:  # noqa: ANN401 - of scripted parts
    exchange = finish(session).exchange
    assert exchange is not None
    together, apart = ["meet", "train 2"], ["meet", "apart", "train 2"]
    assert session._training.log == [*together, *apart, *apart, *together] * 2  # noqa: SLF001 - the scripted one
    assert (exchange.together_seconds, exchange.apart_seconds) == ((1.0,) * 4, (0.25,) * 4)


@pytest.mark.parametrize(
    ("step_seconds", "samples", "steps"),
    [
        (EXCHANGE_SECONDS / 5, 9, 3),  # by the slower rank's steps, of which two and a half fill the time
        (EXCHANGE_SECONDS / 1000, 9, 4),  # an epoch has no more full batches
        (EXCHANGE_SECONDS / 1000, 1, 1),
        (10.0, 9, 1),
    ],
)
def test_a_block_has_the_steps_that_fill_its_time_within_an_epoch(
    session: Any,  # noqa: ANN401 - of scripted parts
    step_seconds: float,
    samples: int,
    steps: int,
) -> None:
    session._step_seconds, session._training.train_samples = step_seconds, samples  # noqa: SLF001 - as `prepare` does
    exchange = finish(session).exchange
    assert exchange is not None
    assert exchange.steps == steps
    assert f"train {min(samples, 2 * steps)}" in session._training.log  # noqa: SLF001 - the scripted one
