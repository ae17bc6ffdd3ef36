"""Every engine computes the same training: compared with eager and float64, in odd shapes, and after a reset."""

import functools
import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch.utils._python_dispatch import TorchDispatchMode
from workload_builders import RECIPE, bars

from mnist_mlp.engines import FusedEngine, GraphEngine, layers
from mnist_mlp.engines.fused import Block
from mnist_mlp.engines.graph import Capture, CudaCapture
from mnist_mlp.errors import EngineUnavailableError
from mnist_mlp.model import build_model, loss_function
from mnist_mlp.pipelines import ResidentPipeline
from mnist_mlp.recipes import RECIPES, Recipe
from mnist_mlp.schedules import schedule_of
from mnist_mlp.support import has_compiler
from mnist_mlp.train import Training
from mnist_mlp.trainer import Trainer

pytestmark = pytest.mark.usefixtures("threads")

CPU = torch.device("cpu")
SGD = replace(RECIPE, optimizer="sgd", momentum=0.9, weight_decay=1e-3, learning_rate=0.05)
VARIANTS = {
    **RECIPES,
    "no hidden layer": replace(RECIPE, layers=(784, 10)),
    "one unit": replace(RECIPE, layers=(784, 1, 10)),
    "odd widths": replace(RECIPE, layers=(784, 7, 3, 5, 10)),
    "batch larger than the data": replace(RECIPE, batch_size=500),
    "batch of one": replace(RECIPE, batch_size=1),
    "short last batch": replace(RECIPE, batch_size=64),
    "sgd with momentum and decay": SGD,
    "sgd without momentum": replace(SGD, momentum=0.0),
    "adam with decay": replace(RECIPE, weight_decay=1e-2),
    "log-likelihood": replace(RECIPE, output="log_softmax", loss="nll"),
    "double log-softmax": replace(RECIPE, output="log_softmax"),
    "adam in one cycle": replace(RECIPE, schedule="one_cycle"),
    "sgd in one cycle": replace(SGD, schedule="one_cycle"),
    "log of softmax": replace(RECIPE, output="softmax", loss="nll_of_log"),
}

variants = pytest.mark.parametrize("recipe", VARIANTS.values(), ids=VARIANTS.keys())
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")


class Recorder(TorchDispatchMode):
    """Records operations on tensors without executing them, as a stream does while a graph is captured.

    They may only write to existing tensors: operations that allocate memory or read a value are refused.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own has no types
        self._calls: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func.is_view:
            return func(*args, **given)
        schema = func._schema  # noqa: SLF001 - torch tells no other way
        assert schema.is_mutable, f"{func} would make new memory, or read, in a captured step"
        self._calls.append(functools.partial(func, *args, **given))
        passed = dict(zip((one.name for one in schema.arguments), args, strict=False)) | given
        written = [passed[one.name] for one in schema.arguments if one.alias_info and one.alias_info.is_write]
        return written[0] if schema.returns else None

    def replay(self) -> None:
        for call in self._calls:
            call()


def record(work: Callable[[], None], _device: torch.device) -> Callable[[], None]:
    """Replacement for a capture: it replays the operations on the same tensors, without running any Python code."""
    recorder = Recorder()
    with recorder:
        work()
    return recorder.replay


def pipeline_of(recipe: Recipe) -> ResidentPipeline:
    return ResidentPipeline(bars(), recipe.transform, batch_size=recipe.batch_size, test_batch_size=50, device=CPU)


def fused_engine(recipe: Recipe) -> FusedEngine:
    model = build_model(recipe.layers, activation="relu", output=recipe.output, seed=5, device=CPU)
    return FusedEngine(recipe, model, pipeline_of(recipe), schedule=schedule_of(recipe, 200))


def graph_engine(recipe: Recipe, capture: Capture | None = record) -> GraphEngine:
    model = build_model(recipe.layers, activation="relu", output=recipe.output, seed=5, device=CPU)
    return GraphEngine(recipe, model, pipeline_of(recipe), schedule=schedule_of(recipe, 200), capture=capture)


def assert_same_training(recipe: Recipe, engine: str, device: torch.device = CPU) -> None:
    """Train one epoch with `engine` on `device`, and with eager on the CPU, and compare.

    Sums differ by a few roundings of 6e-8. In SGD the parameters then differ by that much times the learning rate. Adam
    divides by the gradient's own size, so where a gradient is nearly 0 a step may differ by a large part of itself.
    """
    arms = (("eager", CPU), (engine, device))
    reference, other = (Training(recipe, bars(), device=place, seed=5, engine=name) for name, place in arms)
    order = reference.order(0)
    scores = [training.train(order).read() for training in (reference, other)]
    assert scores[1].samples == scores[0].samples
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=1e-4)
    assert abs(scores[1].correct - scores[0].correct) <= 1
    for one, there in zip(reference.model.parameters(), other.model.parameters(), strict=True):
        two = there.to(CPU)
        if recipe.optimizer == "sgd":
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
        else:
            apart = (two.detach() - one.detach()).abs().flatten()
            assert float(apart.quantile(0.99)) < 0.01 * recipe.learning_rate
    assert other.evaluate().read().loss == pytest.approx(reference.evaluate().read().loss, rel=1e-3)


@variants
def test_fused_trains_as_eager_does(recipe: Recipe) -> None:
    assert_same_training(recipe, "fused")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["mlp_100_100", "short last batch", "sgd with momentum and decay", "no hidden layer"])
def test_compiled_trains_as_eager_does(name: str) -> None:
    assert_same_training(VARIANTS[name], "compiled")


@variants
def test_gradients_are_those_of_float64(recipe: Recipe) -> None:
    engine = fused_engine(recipe)
    size = min(recipe.batch_size, 200)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(size, 784, generator=generator), torch.randint(10, (size,), generator=generator)
    reference = build_model(recipe.layers, activation="relu", output=recipe.output, seed=5, device=CPU).double()
    loss_function(recipe.loss)(reference(images.double()), labels).backward()
    block = Block(size, size, CPU)
    block.images.copy_(images)
    block.labels.copy_(labels)
    block.set_targets(size)
    engine.workspace(size).gradients(block.batches(size)[0][1])
    found = [part for layer in engine.parameters.layers for part in (layer.weight_gradient, layer.bias_gradient)]
    for expected, gradient in zip(reference.parameters(), found, strict=True):
        assert expected.grad is not None
        # float32 keeps 1.2e-7; sums over 784 inputs and a few layers lose ten to a hundred times that.
        scale = float(expected.grad.abs().max())
        torch.testing.assert_close(gradient.double(), expected.grad, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("samples", [3, 8, 20, 23, 24])
def test_a_block_holds_its_batches_each_in_one_piece_and_gives_logits_in_the_order_of_the_samples(samples: int) -> None:
    block = Block(24, 8, CPU)
    labels = torch.arange(24) * 7 % 10
    block.labels.copy_(labels)
    block.set_targets(samples)
    begin = 0
    for size, batch in block.batches(samples):
        assert torch.equal(batch.targets, torch.eye(10)[:, labels[begin : begin + size]] * (-1 / size))
        assert batch.logits.is_contiguous()
        assert batch.targets.is_contiguous()
        batch.logits.copy_(torch.arange(begin, begin + size) + torch.arange(10).unsqueeze(1) / 10)
        begin += size
    assert begin == samples
    logits = torch.full((10, 30), -1.0)
    block.copy_logits(samples, logits[:, 2 : 2 + samples])
    assert torch.equal(logits[:, 2 : 2 + samples], torch.arange(samples) + torch.arange(10).unsqueeze(1) / 10)
    assert (logits[:, :2] == -1).all()
    assert (logits[:, 2 + samples :] == -1).all()


@variants
def test_graph_steps_are_the_fused_ones_bit_for_bit(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "mkl_is_held_back", lambda: False)  # as on CUDA, where steps are captured
    fused, graph = fused_engine(recipe), graph_engine(recipe)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    for stretch in (order[:130], order):
        tallies = [fused.train(stretch), graph.train(stretch)]
        assert tallies[1].read().loss == pytest.approx(tallies[0].read().loss, rel=1e-6)
        if recipe.schedule != "constant":  # a rate worked out on the device is a float32, on the host a double
            torch.testing.assert_close(graph.parameters.values, fused.parameters.values, rtol=1e-4, atol=1e-6)
        elif recipe.batch_size > 1:  # the rounding of a one-row product may depend on memory alignment
            assert torch.equal(fused.parameters.values, graph.parameters.values)


def test_capturing_a_graph_trains_nothing() -> None:
    engine = graph_engine(RECIPE)
    before = engine.parameters.values.clone()
    engine._replay(20, 10)  # noqa: SLF001 - what `train` does first
    assert torch.equal(engine.parameters.values, before)
    assert not any(value.any() for value in engine.optimizer.state)


def test_graph_is_captured_on_the_device_that_its_step_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:1")
    current, seen = ["cuda:0"], list[tuple[str, str]]()

    @contextmanager
    def switch(to: torch.device) -> Iterator[None]:
        current.append(str(to))
        yield
        current.pop()

    @contextmanager
    def record(_graph: object, stream: SimpleNamespace) -> Iterator[None]:
        seen.append(("stream", str(stream.device)))
        yield

    monkeypatch.setattr(torch.cuda, "device", switch)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    CudaCapture()(lambda: seen.append(("current", current[-1])), device)
    assert seen == [("stream", "cuda:1"), ("current", "cuda:1")]
    assert current == ["cuda:0"]


def test_engines_share_no_capture_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some versions of torch free the cuBLAS workspace of a graph's stream with the graph.
    streams = []

    def record(_graph: object, stream: object) -> NoReturn:
        streams.append(stream)
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: object())
    for engine in [graph_engine(RECIPE, capture=None) for _ in range(2)]:
        for _ in range(2):
            with pytest.raises(InterruptedError):
                engine.train(torch.arange(130))
    assert streams[0] is streams[1] is not streams[2] is streams[3]


def test_no_garbage_is_collected_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        collecting.append(gc.isenabled())
        raise ValueError("out of memory, say")

    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: None)
    capture = CudaCapture()
    collecting = [gc.isenabled()]
    capture(lambda: collecting.append(gc.isenabled()), CPU)
    with pytest.raises(ValueError, match="out of memory"):
        capture(fail, CPU)
    assert [*collecting, gc.isenabled()] == [True, False, False, True]


@pytest.mark.parametrize("make", [fused_engine, graph_engine])
def test_an_engines_memory_is_freed_with_the_last_reference_to_it(make: Callable[[Recipe], FusedEngine]) -> None:
    engine = make(RECIPE)
    engine.train(torch.arange(130))
    remembered = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert remembered() is None
    finally:
        gc.enable()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("engine", ["eager", "fused", "graph"])
@variants
def test_every_engine_trains_on_cuda_as_eager_does_on_the_cpu(recipe: Recipe, engine: str) -> None:
    assert_same_training(recipe, engine, torch.device("cuda:0"))


# torch 2.11 recommends TF32 by a warning while it compiles, later ones in their log.
@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.skipif(not has_compiler("cuda"), reason="no triton or no C compiler for torch.compile")
@pytest.mark.parametrize("name", ["short last batch", "sgd with momentum and decay"])
def test_compiled_trains_on_cuda_as_eager_does_on_the_cpu(name: str) -> None:
    assert_same_training(VARIANTS[name], "compiled", torch.device("cuda:0"))


@pytest.mark.cuda
@pytest.mark.parametrize("number", [0, 1])
def test_graph_trains_as_fused_does_also_where_the_device_is_not_the_current_one(number: int) -> None:
    if torch.cuda.device_count() <= number:
        pytest.skip(f"has no CUDA device {number}")
    losses = []
    for engine in ("fused", "graph"):
        training = Training(RECIPE, bars(), device=torch.device("cuda", number), seed=5, engine=engine)
        losses.append([training.train(training.order(epoch)).read().loss for epoch in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_graph_engine_captures_on_the_device_of_its_model() -> None:
    devices = []

    def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        devices.append(device)
        return work

    graph_engine(RECIPE, capture=record).train(torch.arange(130))
    assert devices == [CPU] * 3  # ten steps of an epoch, a single one, and that of a short batch


@pytest.mark.parametrize(
    ("batch_size", "samples", "launches"), [(3, 200, 3 + 1), (3, 199, 3 + 1), (3, 50, 16 + 1), (7, 200, 1 + 1)]
)
def test_an_epochs_steps_share_few_launches(batch_size: int, samples: int, launches: int) -> None:
    launched, steps = [], []

    def count(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        replay = record(work, device)

        def launch() -> None:
            launched.append(work)
            replay()

        return launch

    engine = graph_engine(replace(RECIPE, batch_size=batch_size), capture=count)
    engine.train(torch.arange(samples))
    launched.clear()
    tally = engine.train(torch.arange(samples), after_step=lambda: steps.append(0))
    assert tally.read().samples == samples
    assert len(launched) == launches
    assert len(steps) == -(-samples // batch_size)


def test_an_epoch_captures_nothing_that_its_rehearsal_has_not() -> None:
    captured = []

    def note(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        captured.append(work)
        replay = record(work, device)

        def launch() -> None:
            launched.add(work)
            replay()

        return launch

    launched = set[Callable[[], None]]()
    engine = graph_engine(replace(RECIPE, batch_size=3), capture=note)
    engine.train(torch.arange(3))
    rehearsed = len(captured)
    assert launched == set(captured)  # the first launch takes longer too
    engine.train(torch.arange(200))
    assert len(captured) == rehearsed


def test_tensors_of_a_captured_step_live_as_long_as_its_engine() -> None:
    def forget(work: Callable[[], None], _device: torch.device) -> Callable[[], None]:
        """Keep no reference to `work`, like a graph, whose kernels would write to memory that is no longer theirs."""
        remembered = weakref.ref(work)

        def replay() -> None:
            step = remembered()
            assert step is not None, "the step's tensors were freed"
            step()

        return replay

    model = build_model(RECIPE.layers, activation="relu", output=RECIPE.output, seed=5, device=CPU)
    engine = GraphEngine(RECIPE, model, pipeline_of(RECIPE), capture=forget)
    for _ in range(2):
        engine.train(torch.arange(130))


@pytest.mark.parametrize("make", [fused_engine, graph_engine])
@pytest.mark.parametrize("recipe", [RECIPE, SGD], ids=["adam", "sgd"])
def test_reset_makes_the_next_training_bit_equal_to_the_first(
    make: Callable[[Recipe], FusedEngine], recipe: Recipe
) -> None:
    engine, order = make(recipe), torch.arange(130)
    start = {name: value.clone() for name, value in engine.model.state_dict().items()}
    outcomes = []
    for _ in range(2):
        score = engine.train(order).read()
        outcomes.append((score, engine.parameters.values.clone()))
        engine.model.load_state_dict(start)
        engine.reset_optimizer()
    assert outcomes[0][0] == outcomes[1][0]
    assert torch.equal(outcomes[0][1], outcomes[1][1])


def test_underflowing_probability_is_reported_as_eager_reports_it() -> None:
    recipe = replace(VARIANTS["log of softmax"], learning_rate=1.0, optimizer="sgd")
    scores = []
    for name in ("eager", "fused"):
        training = Training(recipe, bars(), device=CPU, seed=5, engine=name)
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.mul_(1000)
        scores.append(training.train(training.order(0)).read().loss)
        assert not all(bool(parameter.isfinite().all()) for parameter in training.model.parameters())
    assert all(score - score != 0 for score in scores)


@pytest.mark.parametrize("batch_size", [20, 64, 500])
def test_a_rehearsals_buffers_serve_the_epochs_and_change_no_bit_of_them(batch_size: int) -> None:
    recipe, epoch = replace(RECIPE, batch_size=batch_size), torch.arange(200)
    fresh, rehearsed = fused_engine(recipe), fused_engine(recipe)
    start = {name: value.clone() for name, value in rehearsed.model.state_dict().items()}
    rehearsed.train(epoch[:70])
    block = rehearsed._block  # noqa: SLF001 - the buffers that are large
    rehearsed.model.load_state_dict(start)
    rehearsed.reset_optimizer()
    scores = [engine.train(epoch).read() for engine in (fresh, rehearsed)]
    assert rehearsed._block is block  # noqa: SLF001 - the buffers that are large
    assert scores[0] == scores[1]
    assert torch.equal(fresh.parameters.values, rehearsed.parameters.values)


def test_buffers_that_are_too_small_are_freed_before_larger_ones_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Block]] = []
    others: list[int] = []

    def make(samples: int, batch_size: int, device: torch.device) -> Block:
        others.append(sum(one() is not None for one in made))
        block = Block(samples, batch_size, device)
        made.append(weakref.ref(block))
        return block

    monkeypatch.setattr("mnist_mlp.engines.fused.Block", make)
    engine = fused_engine(RECIPE)
    for samples in (70, 200, 300):  # the last is longer than the training set
        engine.train(torch.arange(samples) % 200)
    assert others == [0, 0]


def test_after_step_is_called_after_each_step() -> None:
    for engine in (fused_engine(RECIPE), graph_engine(RECIPE)):
        calls: list[None] = []
        engine.train(torch.arange(130), after_step=lambda calls=calls: calls.append(None))  # type: ignore[misc]  # mypy infers no lambda's default
        assert len(calls) == 7


def test_trainer_checkpoint_and_prediction_work_after_fused_training(tmp_path: Path) -> None:
    from mnist_mlp.checkpoint import load_model  # noqa: PLC0415 - only here

    trainer = Trainer(RECIPE, dataset=bars(), seed=1, device="cpu", engine="fused")
    history = trainer.fit(3)
    assert history[-1].test_accuracy == pytest.approx(trainer.evaluate("test").accuracy)
    assert history[-1].train_loss < history[0].train_loss
    trainer.save(tmp_path / "model.pth")
    images = bars().test_images
    assert torch.equal(load_model(tmp_path / "model.pth").predict(images), trainer.predict(images))


def test_bf16_autocast_trains_nearly_as_fp32_and_not_the_same() -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        training = Training(RECIPE, bars(), device=CPU, seed=5, precision=precision)
        score = training.train(training.order(0)).read()
        losses += [score.loss, training.evaluate().read().loss]
    assert losses[2:] == pytest.approx(losses[:2], rel=0.05)
    assert losses[2:] != losses[:2]


@pytest.mark.parametrize(("output", "loss"), [("log_softmax", "nll"), ("softmax", "nll_of_log")])
def test_bf16_rounds_products_and_not_the_output_that_is_made_of_them(output: str, loss: str) -> None:
    recipes = replace(RECIPE, batch_size=200), replace(RECIPE, batch_size=200, output=output, loss=loss)
    losses = []
    for recipe in recipes:  # the cross-entropy of logits is computed in float32
        training = Training(recipe, bars(), device=CPU, seed=5, precision="bf16")
        losses.append([training.evaluate().read().loss, training.train(training.order(0)).read().loss])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_one_process_compiles_for_any_number_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is kept for each model is the tracing's; turning it into C++ would take some seconds each.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr("mnist_mlp.support.has_compiler", lambda _device: True)
    for width in range(1, 12):
        recipe = replace(VARIANTS["short last batch"], layers=(784, width, 10))
        losses = []
        for engine in ("eager", "compiled"):
            training = Training(recipe, bars(), device=CPU, seed=5, engine=engine)
            losses.append(training.train(training.order(0)).read().loss)
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (RuntimeError("no headers"), EngineUnavailableError),
        (torch.OutOfMemoryError("no headers"), torch.OutOfMemoryError),
    ],
)
def test_failing_compiler_is_reported_unless_memory_was_short(
    monkeypatch: pytest.MonkeyPatch, cause: Exception, expected: type[Exception]
) -> None:
    def compile_nothing(function: Callable[..., object], **_: object) -> Callable[..., object]:
        def fail(*_: object) -> None:
            raise BackendCompilerFailed(function, cause, None)

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr("mnist_mlp.support.has_compiler", lambda _device: True)
    training = Training(RECIPE, bars(), device=CPU, seed=5, engine="compiled")
    with pytest.raises(expected, match="no headers"):
        training.train(training.order(0))


@pytest.mark.parametrize("make", [fused_engine, graph_engine])
def test_a_tally_may_be_read_after_the_next_stretch(make: Callable[[Recipe], FusedEngine]) -> None:
    first, second = torch.arange(130), torch.arange(130, 200)
    at_once = make(RECIPE).train(first).read()
    engine = make(RECIPE)
    tally = engine.train(first)
    engine.train(second)
    assert tally.read() == at_once
