"""Fused steps as CUDA graphs: one launch takes several steps and also gathers their batches.

A graph always does the same work on the same memory. A cursor on the device says which samples are next, and each
launch moves it on. Gathering takes as many kernels for all batches of a launch together as for a single one, about as
many as a step has, so several steps share its cost.
"""

import contextlib
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
"""Launches before a capture, in which libraries initialise; torch's documentation of CUDA graphs asks for them."""

_MAX_STEPS: Final = 32
"""Most steps in a graph; with so many, the cost that they share is small."""

_MAX_SAMPLES: Final = 8192
"""Most samples in a graph: 25 MiB as float32."""


Capture: TypeAlias = Callable[[Callable[[], None], torch.device], Callable[[], None]]
"""Takes work and its device; returns a function that replays the work."""


class CudaCapture:
    """Captures on a stream of its own, for one engine and device.

    The stream is not shared between engines because torch 2.12 to 2.14 free the cuBLAS workspace of a graph's stream
    with the graph, although other graphs captured there still use it (pytorch/pytorch#193402). Nor is it torch's
    default one, which belongs to the device that was current when it was created.
    """

    def __init__(self) -> None:
        """Create the stream with the first capture, on its device."""
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """Record the kernels that `work` launches on `device`, without running them; return what replays them."""
        with torch.cuda.device(device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(device)
            graph = torch.cuda.CUDAGraph()
            with _collecting_no_garbage(), torch.cuda.graph(graph, stream=self._stream):
                work()
        replay: Callable[[], None] = graph.replay
        return replay


@contextlib.contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """Suspend Python's garbage collector, which might destroy an older graph.

    CUDA forbids that during a capture, which would end with an error (pytorch/pytorch#161037).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class GraphEngine(FusedEngine):
    """The fused engine, with its steps replayed from one graph for each batch size and number of steps."""

    is_captured = True

    def __init__(
        self,
        recipe: Recipe,
        model: MLP,
        pipeline: ResidentPipeline,
        *,
        schedule: Schedule | None = None,
        capture: Capture | None = None,
    ) -> None:
        """Allocate what all steps share on the device; `capture` is replaced in tests."""
        super().__init__(recipe, model, pipeline, schedule=schedule)
        samples = pipeline.train_samples
        self._capture = capture or CudaCapture()
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}
        # A graph uses the memory of its tensors but does not keep them alive, so they are kept here.
        self._captured: dict[tuple[int, int], Callable[[], None]] = {}
        self._order = torch.zeros(samples, dtype=torch.int64, device=self._device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._logits = torch.empty(CLASSES, samples, dtype=torch.float32, device=self._device)
        self._labels = torch.empty(samples, dtype=torch.int64, device=self._device)

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """See `mnist_mlp.engines.Engine.train`; `order` has at most as many samples as the training set.

        The first call also captures every graph that a whole epoch needs.
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
        """Return the launches for this many samples: the batch size and the number of steps of each.

        An epoch's full batches are divided into launches of equally many steps; any that are left, and a short last
        batch, get a launch each.
        """
        size = self._recipe.batch_size
        in_epoch, (full, short) = len(self._order) // size, divmod(samples, size)
        most = max(1, min(_MAX_STEPS, _MAX_SAMPLES // size))
        steps = max(1, in_epoch // -(-in_epoch // most)) if in_epoch else 1
        launches, singles = divmod(full, steps)
        return [(size, steps)] * launches + [(size, 1)] * singles + [(short, 1)] * (short > 0)

    def _replay(self, size: int, steps: int) -> Callable[[], None]:
        """Return the replay of `steps` steps of `size` samples each; it is captured on the first call."""
        if (size, steps) not in self._replays:
            work = self._make_work(size, steps)
            state = (self.parameters.values, *self.optimizer.state, self._cursor)
            kept = [value.clone() for value in state]
            for _ in range(_WARM_LAUNCHES):
                self._cursor.zero_()
                work()
            replay = self._capture(work, self._device)
            self._cursor.zero_()
            replay()  # the first launch also uploads the graph to the device, which must not be part of an epoch
            self._replays[size, steps], self._captured[size, steps] = replay, work
            for value, before in zip(state, kept, strict=True):
                value.copy_(before)
        return self._replays[size, steps]

    def _make_work(self, size: int, steps: int) -> Callable[[], None]:
        """Return the work of `steps` steps on the samples at the cursor, which it moves on; allocate all its tensors.

        The work does not refer to the engine, so that the engine's memory is freed with the last reference to it.
        """
        samples = size * steps
        block = Block(samples, size, self._device)
        workspace, optimizer, assemble = self.workspace(size), self.optimizer, self._pipeline.assemble
        order, cursor, logits, labels = self._order, self._cursor, self._logits, self._labels
        offsets = torch.arange(samples, device=self._device)
        positions, chosen = torch.empty_like(offsets), torch.empty_like(offsets)
        block_logits = torch.empty(CLASSES, samples, dtype=torch.float32, device=self._device)

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
