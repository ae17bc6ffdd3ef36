"""Fused steps as CUDA graphs: a step, its batch's assembly included, is one launch.

A step finds its batch by a cursor on the device, so that nothing changes between launches but what the step itself
moves on.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import torch
from torch import Tensor

from mnist_mlp.engines.fused import Block, FusedEngine
from mnist_mlp.model import MLP
from mnist_mlp.pipelines import ResidentPipeline
from mnist_mlp.recipes import CLASSES, Recipe
from mnist_mlp.schedules import Schedule
from mnist_mlp.tally import Tally

_WARM_STEPS: Final = 3
"""Steps taken before a capture, as torch's documentation of CUDA graphs asks: libraries initialise themselves there."""


Capture: TypeAlias = Callable[[Callable[[], None], torch.device], Callable[[], None]]
"""Turns work on a device into its replay."""


def capture(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record the kernels that `work` launches on `device`, without running them; return what launches them all."""
    # Only launches on the capture's stream are recorded, and torch's own such stream is of whatever device was current
    # when it was first wanted.
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with _collecting_no_garbage(), torch.cuda.graph(graph, stream=_capture_stream(device)):
            work()
    replay: Callable[[], None] = graph.replay
    return replay


@contextlib.contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """Keep Python's collector from destroying an older graph meanwhile, which CUDA forbids while a stream captures.

    It would end the capture with an error (pytorch/pytorch#161037).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on `device`: one, for older torch keeps a workspace of cuBLAS for each."""
    return torch.cuda.Stream(device)


class GraphEngine(FusedEngine):
    """The fused engine with its steps replayed from graphs, one for each batch size."""

    is_captured = True

    def __init__(
        self,
        recipe: Recipe,
        model: MLP,
        pipeline: ResidentPipeline,
        *,
        schedule: Schedule | None = None,
        capture: Capture = capture,
    ) -> None:
        """Put what all steps share on the device; `capture` turns a step into its replay."""
        super().__init__(recipe, model, pipeline, schedule=schedule)
        samples = pipeline.train_samples
        self._capture = capture
        self._replays: dict[int, Callable[[], None]] = {}
        # A graph works on the memory of its step's tensors, but does not keep them: here they live as long as it.
        self._steps: dict[int, Callable[[], None]] = {}
        self._order = torch.zeros(samples, dtype=torch.int64, device=self._device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._logits = torch.empty(CLASSES, samples, device=self._device)
        self._labels = torch.empty(samples, dtype=torch.int64, device=self._device)

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """See `mnist_mlp.engines.Engine.train`; `order` is at most as long as the training set."""
        full, short = divmod(len(order), self._recipe.batch_size)
        sizes = [self._recipe.batch_size] * full + [short] * (short > 0)
        replays = [self._replay(size) for size in sizes]
        self._order[: len(order)].copy_(order)
        self._cursor.zero_()
        for replay in replays:
            replay()
            if after_step is not None:
                after_step()
        return self._tally(self._logits[:, : len(order)].clone(), self._labels[: len(order)].clone())

    def _replay(self, size: int) -> Callable[[], None]:
        """Return the launch of a step of `size` samples, captured when first asked for."""
        if size not in self._replays:
            step = self._make_step(size)
            state = (self.parameters.values, *self.optimizer.state, self._cursor)
            kept = [value.clone() for value in state]
            for _ in range(_WARM_STEPS):
                self._cursor.zero_()
                step()
            self._replays[size], self._steps[size] = self._capture(step, self._device), step
            for value, before in zip(state, kept, strict=True):
                value.copy_(before)
        return self._replays[size]

    def _make_step(self, size: int) -> Callable[[], None]:
        """Return a step on the `size` samples at the cursor, which it moves on; all its tensors are made here.

        It does not refer to the engine, whose graphs and memory so go with the last reference to it.
        """
        block = Block(size, size, self._device)
        ((_, batch),) = block.batches(size)
        work, optimizer, assemble = self.workspace(size), self.optimizer, self._pipeline.assemble
        order, cursor, logits, labels = self._order, self._cursor, self._logits, self._labels
        offsets = torch.arange(size, device=self._device)
        positions, chosen = torch.empty_like(offsets), torch.empty_like(offsets)

        def step() -> None:
            torch.add(offsets, cursor, out=positions)
            torch.index_select(order, 0, positions, out=chosen)
            assemble(chosen, block.pixels, block.images, block.labels)
            block.set_targets(size)
            work.gradients(batch)
            optimizer.step()
            logits.index_copy_(1, positions, batch.logits)
            labels.index_copy_(0, positions, block.labels)
            cursor.add_(size)

        return step
