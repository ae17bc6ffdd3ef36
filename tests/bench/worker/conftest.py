"""What the self-test checks, as the real worker has it, on digits and this CPU."""

from collections.abc import Callable, Iterator

import pytest
import torch

from bench.protocol.soundness import Check
from bench.worker import selftest
from bench.worker.devices import Device
from bench.worker.examination import Parts
from bench.worker.session import Session
from mnist_mlp import data
from mnist_mlp.data import Dataset


@pytest.fixture(scope="package")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture
def parts(digits: Dataset) -> Iterator[Parts]:
    """The real parts."""
    threads = torch.get_num_threads()
    # One thread waits for no other: on a busy machine that is many times faster.
    yield Parts(device=Device("cpu"), threads=1, dataset=digits, root=None, make_session=Session)
    torch.set_num_threads(threads)


@pytest.fixture
def make_check() -> Callable[[Parts, str], Check]:
    """Return a function that makes the check with this name of these parts."""

    def make(parts: Parts, name: str) -> Check:
        (examination,) = [each for each in selftest.EXAMINATIONS if each.name == name]
        return selftest.check_one(parts, examination)

    return make
