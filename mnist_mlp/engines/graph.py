"""Fused steps as CUDA graphs: several steps, with the assembly of their batches, are one launch.

A launch finds its batches by a cursor on the device, so that nothing changes between launches but what they move on
themselves. Assembling takes as many kernels for all batches of a launch as it would for one, and as a step has itself.
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

_WARM_LAUNCHES: Final = 3
"""Made before a capture, as torch's documentation of CUDA graphs asks: libraries initialise themselves there."""

_MAX_STEPS: Final = 32
"""In a graph; by then what they share costs each of them little."""

_MAX_SAMPLES: Final = 8192
"""Of the batches of a graph: 25 MiB as float32."""


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
    """The fused engine with its steps replayed from graphs, one for each batch size and number of steps."""

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
        """Put what all steps share on the device; `capture` turns work into its replay."""
        super().__init__(recipe, model, pipeline, schedule=schedule)
        samples = pipeline.train_samples
        self._capture = capture
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}
        # A graph works on the memory of its tensors, but does not keep them: here they live as long as it.
        self._captured: dict[tuple[int, int], Callable[[], None]] = {}
        self._order = torch.zeros(samples, dtype=torch.int64, device=self._device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._logits = torch.empty(CLASSES, samples, device=self._device)
        self._labels = torch.empty(samples, dtype=torch.int64, device=self._device)

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """See `mnist_mlp.engines.Engine.train`; `order` is at most as long as the training set.

        The first call also captures what whole epochs need.
        """
        for size, steps in dict.fromkeys((*self._launches(len(self._order)), *self._launches(len(order)))):
            self._replay(size, steps)
        self._order[: len(order)].copy_(order)
        self._cursor.zero_()
        for size, steps in self._launches(len(order)):
            self._replay(size, steps)()
            if after_step is not None:
                for _ in range(steps):
                    after_step()
        return self._tally(self._logits[:, : len(order)].clone(), self._labels[: len(order)].clone())

    def _launches(self, samples: int) -> list[tuple[int, int]]:
        """Return the launches that train on so many samples: of each the batch size and the number of steps.

        An epoch's full batches are divided into launches of as many steps each; what that leaves is done step by step.
        """
        size = self._recipe.batch_size
        in_epoch, (full, short) = len(self._order) // size, divmod(samples, size)
        most = max(1, min(_MAX_STEPS, _MAX_SAMPLES // size))
        steps = max(1, in_epoch // -(-in_epoch // most)) if in_epoch else 1
        launches, singles = divmod(full, steps)
        return [(size, steps)] * launches + [(size, 1)] * singles + [(short, 1)] * (short > 0)

    def _replay(self, size: int, steps: int) -> Callable[[], None]:
        """Return the launch of `steps` steps of `size` samples each, captured when first asked for."""
        if (size, steps) not in self._replays:
            work = self._make_work(size, steps)
            state = (self.parameters.values, *self.optimizer.state, self._cursor)
            kept = [value.clone() for value in state]
            for _ in range(_WARM_LAUNCHES):
                self._cursor.zero_()
                work()
            replay = self._capture(work, self._device)
            self._cursor.zero_()
            replay()  # the first time CUDA also brings the graph to the device, which is no part of an epoch
            self._replays[size, steps], self._captured[size, steps] = replay, work
            for value, before in zip(state, kept, strict=True):
                value.copy_(before)
        return self._replays[size, steps]

    def _make_work(self, size: int, steps: int) -> Callable[[], None]:
        """Return `steps` steps on the samples at the cursor, which they move on; all their tensors are made here.

        They do not refer to the engine, whose graphs and memory so go with the last reference to it.
        """
        samples = size * steps
        block = Block(samples, size, self._device)
        workspace, optimizer, assemble = self.workspace(size), self.optimizer, self._pipeline.assemble
        order, cursor, logits, labels = self._order, self._cursor, self._logits, self._labels
        offsets = torch.arange(samples, device=self._device)
        positions, chosen = torch.empty_like(offsets), torch.empty_like(offsets)
        block_logits = torch.empty(CLASSES, samples, device=self._device)

        def work() -> None:
            torch.add(offsets, cursor, out=positions)
            torch.index_select(order, 0, positions, out=chosen)
            assemble(chosen, block.pixels, block.images, block.labels)
            block.set_targets(samples)
            for _, batch in block.batches(samples):
                workspace.gradients(batch)
                optimizer.step()
            block.copy_logits(samples, block_logits)
            logits.index_copy_(1, positions, block_logits)
            labels.index_copy_(0, positions, block.labels)
            cursor.add_(samples)

        return work
