"""Feeds damaged files to every reader: each must be read right or be refused, soon, in little memory, as documented.

    python tests/faults/fuzz_campaign.py --inputs 100000                all readers, in equal parts
    python tests/faults/fuzz_campaign.py --inputs 5000 --readers idx,profile --seed 7

Memory is bounded by the kernel (RLIMIT_AS) at `ROOM_BYTES` above what the imports take. The last line of output is a
JSON object of counts.
"""

import argparse
import gzip
import io
import itertools
import json
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

if __name__ == "__main__":  # the checkout need not be installed
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import click
import mutations
import numpy as np
import psutil
import torch
from bench_builders import (
    make_conditions,
    make_configuration,
    make_energy,
    make_epoch,
    make_failure,
    make_footer,
    make_header,
    make_machine,
    make_measurement,
    make_plan,
    make_record,
    make_software,
)
from mutations import Mutator
from PIL import Image
from rates_builders import make_rates, make_thread_rates

from bench.calibration.profiles import DeviceSession, MachineProfile, Session, load_profile, new_profile, profile_path
from bench.coding import dumps, from_json, loads
from bench.compare.rounds import read_rounds
from bench.errors import BadInputError, BenchError
from bench.protocol.messages import Trained
from bench.records import Configuration, Run, Settings, TrialRecord
from bench.storage import runfile
from bench.storage.table import COLUMNS
from bench.tables.prices import parse_prices
from bench.tables.show import render_run
from mnist_mlp.checkpoint import TrainingSummary, load_checkpoint, save_checkpoint
from mnist_mlp.classifier import Classifier
from mnist_mlp.data import idx, layout
from mnist_mlp.data.carrier import read_carrier
from mnist_mlp.data.datasets import Dataset
from mnist_mlp.errors import WorkloadError
from mnist_mlp.images import prepare_image
from mnist_mlp.model import MLP
from mnist_mlp.recipes import RECIPES

ROOM_BYTES: Final = 2**30
"""A small file may not cost a gigabyte."""

HANG_SECONDS: Final = 20.0
"""No input takes a tenth of it on an idle machine."""

DOCUMENTED: Final = (BenchError, WorkloadError)


class HangError(BaseException):
    """An input took too long."""


class WrongSuccessError(AssertionError):
    """What was read is not what was written, or cannot be worked with."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A way that bytes from outside come in. `read` raises a documented error, or returns having read them right."""

    name: str
    samples: tuple[bytes, ...]
    read: Callable[[bytes], None]
    mutators: tuple[Mutator, ...] = mutations.BYTES


@dataclass(kw_only=True)
class Tally:
    """What came of a reader's inputs. `found` holds one input for each place in the code that went wrong."""

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    broken: int = 0
    slowest_seconds: float = 0.0
    found: dict[str, bytes] = field(default_factory=dict)


def require(right: object, problem: str) -> None:
    if not right:
        raise WrongSuccessError(problem)


def make_readers(folder: Path) -> tuple[Reader, ...]:
    """Return every reader, with whole files to begin from; files are written into `folder`."""
    return (
        _run_file(folder / "run.jsonl"),
        _trial_line(),
        _profile(folder),
        _rounds(folder / "rounds.json"),
        _prices(),
        _message(),
        _checkpoint(folder / "model.pt"),
        _idx(),
        _carrier(folder / "carrier.pkl.gz"),
        _pickle(folder / "pickle.pkl.gz"),
        _image(folder / "image"),
    )


def _records() -> list[TrialRecord]:
    rich = make_measurement(epochs=(make_epoch(device_conditions=make_conditions()),) * 2, energy=make_energy())
    return [make_record(), make_record(repeat=1, outcome=rich), make_record(repeat=2, outcome=make_failure())]


def _run_file(path: Path) -> Reader:
    items: list[runfile.Item] = [make_header(plan=make_plan()), *_records(), make_footer()]
    whole = b"".join(runfile.encode(item) for item in items)
    short = b"".join(runfile.encode(item) for item in items[:2])

    def read(data: bytes) -> None:
        path.write_bytes(data)
        reading = runfile.read(path)
        _use_run(reading.run)
        require(reading.end <= len(data), "it ends behind its end")
        again = [item for line in data[: reading.end].splitlines(keepends=True) if (item := runfile.decode(line))]
        read_items = [reading.run.header, *reading.run.records, *([reading.run.footer] if reading.run.footer else [])]
        kept = [item for item in again[:-1] if not isinstance(item, type(make_footer()))] + again[-1:]
        require(read_items == kept, "the fast way and the exact way read differently")

    return Reader(name="run", samples=(whole, short), read=read, mutators=mutations.JSON)


def _use_run(run: Run) -> None:
    """Do with a run what every command that shows it does."""
    render_run(run, format="table")
    render_run(run, format="json")
    for record in run.records:
        for column in COLUMNS:
            column.value(run, record)


def _trial_line() -> Reader:
    plan = make_plan()
    known: dict[str, object] = {dumps(configuration): configuration for configuration in plan.configurations}
    shared = {Configuration: known, Settings: {}}
    read_canonical = runfile._canonical_reader("trial", TrialRecord, shared)  # noqa: SLF001 - the fast way by itself

    def read(data: bytes) -> None:
        fast = read_canonical(data)
        exact = runfile.decode(data)
        require(fast is None or fast == exact, "the fast way reads something else than the exact one")
        if fast is not None:
            require(repr(fast) == repr(exact), "the fast way reads another type than the exact one")

    lines = tuple(runfile.encode(record) for record in _records())
    return Reader(name="trial", samples=lines, read=read, mutators=mutations.JSON)


def _profile(folder: Path) -> Reader:
    machine = make_machine()
    path = profile_path(machine.id, folder)
    path.parent.mkdir(exist_ok=True)
    device = DeviceSession(
        device="cpu",
        threads=2,
        configuration=make_configuration(),
        aa_log_ratios=(0.01, -0.02, 0.005),
        seeds=(0, 1, 2),
        epoch_seconds=(2.0, 2.1, 1.9),
        test_accuracies=(0.97, 0.971, 0.972),
        yardstick_seconds=(0.015, 0.016, 0.0155),
        peak_flops_per_second=(1e11, 1.1e11),
        rates=(make_rates(),),
        thread_rates=(make_thread_rates(),),
    )
    profile = new_profile(machine)
    for day in (1, 2, 3):
        created_at = f"2026-11-0{day}T00:00:00+00:00"
        session = Session(created_at=created_at, software=make_software(), wall_seconds=60.0, devices=(device,))
        profile = profile.with_session(machine, session)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = load_profile(machine.id, folder)
        require(found is not None, "it is there, but was not found")
        if found is not None:
            _use_profile(found)

    return Reader(name="profile", samples=(dumps(profile).encode(),), read=read, mutators=mutations.JSON)


def _use_profile(profile: MachineProfile) -> None:
    for device in {measured.device for session in profile.sessions for measured in session.devices}:
        figures = profile.figures(device)
        require(figures is not None, "a calibrated device has no figures")
        dumps(figures)  # no figure may be infinite
        profile.peak_flops_per_second(device, "fp32", 2, profile.sessions[-1].software)
    profile.unused_seed()


def _rounds(path: Path) -> Reader:
    stats: dict[str, Any] = {"mean": 0.5, "stddev": 0.01, "rounds": 3, "min": 0.4, "max": 0.6}
    benchmarks = [
        {"fullname": "tests/test_a.py::test_a[1]", "stats": stats | {"data": [0.5, 0.51, 0.49]}, "extra_info": {}},
        {"fullname": "tests/test_a.py::test_a[2]", "stats": stats, "extra_info": {}},
    ]
    machine = {"python_version": "3.12.4", "cpu": {"brand_raw": "Fictional CPU 9000"}}
    content = {"machine_info": machine, "commit_info": {"id": "abc", "dirty": True}, "benchmarks": benchmarks}

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for benchmark in read_rounds(path).benchmarks:
            moments = benchmark.moments
            require(moments.n >= 1 and moments.squares >= 0, "impossible moments")
            dumps(moments)

    return Reader(name="rounds", samples=(json.dumps(content).encode(),), read=read, mutators=mutations.JSON)


def _prices() -> Reader:
    def read(data: bytes) -> None:
        prices = parse_prices(data.decode("utf-8", "surrogateescape"), has_sides=True)
        require(all(price > 0 for price in prices.by_name.values()), "a price that is not above 0")
        prices.note()

    return Reader(name="prices", samples=(b"2.5", b"cuda=2.5,cpu=0.1", b"baseline=2.5,candidate=1"), read=read)


def _message() -> Reader:
    epoch = make_epoch(device_conditions=make_conditions())
    trained = Trained(**{name: getattr(epoch, name) for name in Trained.__dataclass_fields__})

    def read(data: bytes) -> None:
        message = loads(data)
        found = from_json(Trained, message)
        require(from_json(Trained, loads(dumps(found))) == found, "it does not come back as it was")

    return Reader(name="message", samples=(dumps(trained).encode(),), read=read, mutators=mutations.JSON)


def _checkpoint(path: Path) -> Reader:
    recipe = next(iter(RECIPES.values()))
    recipe = type(recipe)(
        **{name: getattr(recipe, name) for name in recipe.__dataclass_fields__} | {"layers": (784, 2, 10)}
    )
    torch.manual_seed(0)
    network = MLP(recipe.layers, activation=recipe.activation, output=recipe.output)
    images, labels = torch.zeros((1, 28, 28), dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    data_set = Dataset(
        name="mnist",
        sha256="0" * 64,
        source="root",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    training = TrainingSummary(seed=0, epochs=1, validation_split=0.0, test_loss=0.5, test_accuracy=0.9)
    save_checkpoint(path, Classifier(recipe, network), data_set, training)
    whole = path.read_bytes()
    original = load_checkpoint(path)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = load_checkpoint(path)
        # Every byte of the content has a checksum.
        require(found.recipe == original.recipe and found.training == original.training, "another recipe or training")
        state = found.network.state_dict()
        for name, weights in original.network.state_dict().items():
            require(torch.equal(weights, state[name]), f"other weights in {name}")

    return Reader(name="checkpoint", samples=(whole,), read=read)


def _idx() -> Reader:
    images = np.arange(2 * 28 * 28, dtype=np.uint16).astype(np.uint8).reshape(2, 28, 28)
    labels = np.array([3, 7], dtype=np.uint8)

    def read(data: bytes) -> None:
        for dimensions in (1, 3):
            try:
                array = idx.decode(data, name="file", dimensions=dimensions)
            except WorkloadError:
                continue
            require(idx.encode(array) == data, "it is not written as it was read")
            return
        raise BadInputError("refused both ways")

    return Reader(name="idx", samples=(idx.encode(images), idx.encode(labels)), read=read)


SPLITS: Final = (3, 1, 2)


def _carrier_pickle() -> bytes:
    """Return a pickle of the carrier's shape in the protocol that numpy's own pickles had when it was made."""
    chance = np.random.default_rng(0)
    parts = []
    for samples in SPLITS:
        images = (chance.integers(0, 256, (samples, 784)) / 256).astype("<f4")
        labels = chance.integers(0, 10, samples).astype("<i8")
        parts += [images.tobytes(), labels.tobytes()]
    body = b"".join(b"T" + len(part).to_bytes(4, "little") + part for part in parts)
    return pickle.PROTO + b"\x02(" + body + b"t."


def _carrier(path: Path) -> Reader:
    whole = gzip.compress(_carrier_pickle(), mtime=0)
    path.write_bytes(whole)
    original = layout.encode_files(read_carrier(path, split_samples=SPLITS))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = read_carrier(path, split_samples=SPLITS, max_bytes=2**20)
        require(layout.encode_files(found) == original, "other images than the checksum was made of")

    return Reader(name="carrier", samples=(whole,), read=read)


def _pickle(path: Path) -> Reader:
    def read(data: bytes) -> None:
        path.write_bytes(gzip.compress(data, compresslevel=1, mtime=0))
        found = read_carrier(path, split_samples=SPLITS, max_bytes=2**20)
        require(found.train_images.shape == (4, 28, 28) and found.test_labels.shape == (2,), "other shapes")

    return Reader(name="pickle", samples=(_carrier_pickle(),), read=read)


def _image(path: Path) -> Reader:
    picture = Image.new("L", (40, 50), 255)
    picture.paste(0, (15, 10, 22, 40))
    samples = []
    for mode, form in (("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("RGB", "JPEG"), ("L", "BMP"), ("RGB", "WEBP")):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, form)
        samples.append(buffer.getvalue())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        prepared = prepare_image(path)
        require(prepared.pixels.shape == (28, 28) and prepared.pixels.dtype == np.uint8, "other pixels")
        require(prepared.pixels.any(), "an empty picture")
        prepared.as_text()

    return Reader(name="image", samples=tuple(samples), read=read)


def feed(reader: Reader, inputs: int, seed: int) -> Tally:
    """Give `reader` so many mutants of its samples in turn; return what came of them."""
    tally = Tally()
    chance = random.Random(f"{reader.name} {seed}")  # noqa: S311 - no secret
    streams = [mutations.mutants(sample, reader.mutators, chance) for sample in reader.samples]
    for data in itertools.islice(_in_turn(streams), inputs):
        tally.inputs += 1
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
        try:
            reader.read(data)
            tally.accepted += 1
        except DOCUMENTED:
            tally.refused += 1
        except (Exception, HangError) as error:  # noqa: BLE001 - what must not be
            tally.broken += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            tally.found.setdefault(f"{type(error).__name__} in {where.name}: {str(error)[:200]}", data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        tally.slowest_seconds = max(tally.slowest_seconds, time.perf_counter() - start)
    return tally


def _in_turn(streams: Sequence[Iterator[bytes]]) -> Iterator[bytes]:
    for stream in itertools.cycle(streams):
        yield next(stream)


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError


def bound_this_process() -> None:
    """Let this process grow by `ROOM_BYTES` at most, and end an input that hangs."""
    limit = psutil.Process().memory_info().vms + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    signal.signal(signal.SIGALRM, _hang)


def main() -> None:
    """Run a campaign; end with 1 if an input broke a promise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", help="names, separated by commas; by default all")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that broke a promise")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-fuzz-") as folder:
        readers = make_readers(Path(folder))
        chosen = set(options.readers.split(",")) if options.readers else {reader.name for reader in readers}
        readers = tuple(reader for reader in readers if reader.name in chosen)
        torch.set_num_threads(1)
        bound_this_process()
        tallies = {reader.name: feed(reader, options.inputs // len(readers), options.seed) for reader in readers}
    for name, tally in tallies.items():
        for number, (problem, data) in enumerate(tally.found.items()):
            click.echo(f"{name}: {problem}: {len(data)} bytes")
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{name}-{options.seed}-{number}").write_bytes(data)
    total: Counter[str] = Counter()
    for tally in tallies.values():
        total.update({each: getattr(tally, each) for each in ("inputs", "refused", "accepted", "broken")})
    by_reader = {
        name: [tally.inputs, tally.refused, tally.accepted, tally.broken, round(tally.slowest_seconds, 2)]
        for name, tally in tallies.items()
    }
    click.echo(json.dumps({**total, "by reader": by_reader, "seconds": round(time.monotonic() - start)}))
    sys.exit(bool(total["broken"]))


if __name__ == "__main__":
    main()
