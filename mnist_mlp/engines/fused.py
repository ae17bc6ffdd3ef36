"""Training written by hand from torch's kernels: no autograd, buffers made beforehand, as few calls as there can be.

Images are gathered and normalised for many batches at once, into a buffer that stays in the processor's cache; logits
are kept, and the outputs of all batches computed together from them at the end of a stretch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mnist_mlp.engines.flat import DeviceRates, FlatAdam, FlatParameters, FlatSGD, HostRates
from mnist_mlp.engines.layers import make_layer, suits_onednn
from mnist_mlp.model import MLP, loss_function, output_function
from mnist_mlp.pipelines import ResidentPipeline
from mnist_mlp.recipes import CLASSES, INPUT_FEATURES, Recipe
from mnist_mlp.schedules import Schedule, constant
from mnist_mlp.tally import Tally

_CPU_BLOCK_SAMPLES: Final = 1024
"""Samples gathered at once on a CPU: 3 MiB as float32, about what a core's caches hold."""

_BLOCK_SAMPLES: Final = 65_536
"""Likewise elsewhere, where memory is fast and calls are dear: an epoch of MNIST, 200 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch in its buffers: images, (n, 784), targets and logits, (10, n) each: classes first.

    The targets are -1/n for each sample's label, else 0: what the labels add to the gradient of the mean loss.

    So the softmax goes along columns, which torch vectorises; along rows of ten it took ten times as long. Each lies in
    one piece: torch would copy the logits anew before a softmax, and work through a part of longer rows row by row.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor


class Block:
    """Buffers for up to `samples` samples, cut into batches."""

    def __init__(self, samples: int, batch_size: int, device: torch.device) -> None:
        """Allocate them, and make the batches' views once and for all."""
        self.samples = samples
        self._batch_size = batch_size
        self.pixels = torch.empty(samples, INPUT_FEATURES, dtype=torch.uint8, device=device)
        self.images = torch.empty(samples, INPUT_FEATURES, device=device)
        self.labels = torch.empty(samples, dtype=torch.int64, device=device)
        self._targets = torch.empty(CLASSES * samples, device=device)
        self._logits = torch.empty(CLASSES * samples, device=device)
        self._classes = torch.arange(CLASSES, device=device).unsqueeze(1)
        self._full = [self.batch(begin, batch_size) for begin in range(0, samples - batch_size + 1, batch_size)]

    def batch(self, begin: int, size: int) -> Batch:
        """Return the `size` samples from `begin` on as a batch."""
        by_class = slice(CLASSES * begin, CLASSES * (begin + size))
        return Batch(
            images=self.images[begin : begin + size],
            targets=self._targets[by_class].view(CLASSES, size),
            logits=self._logits[by_class].view(CLASSES, size),
        )

    def batches(self, samples: int) -> list[tuple[int, Batch]]:
        """Return the batches of the first `samples` samples with their sizes; the last may be short."""
        full, short = divmod(samples, self._batch_size)
        batches = [(self._batch_size, batch) for batch in self._full[:full]]
        return [*batches, (short, self.batch(samples - short, short))] if short else batches

    def set_targets(self, samples: int) -> None:
        """Make the targets of the first `samples` samples, in their batches, from the labels."""
        for targets, chosen in self._by_size(self._targets, samples):
            labels = self.labels[chosen].view(-1, 1, targets.shape[2])
            torch.eq(labels, self._classes, out=targets)
            targets.mul_(-1 / targets.shape[2])

    def copy_logits(self, samples: int, logits: Tensor) -> None:
        """Copy those of the first `samples` samples, from their batches, to `logits`, (10, samples)."""
        for batches, chosen in self._by_size(self._logits, samples):
            logits[:, chosen].view(CLASSES, -1, batches.shape[2]).copy_(batches.transpose(0, 1))

    def _by_size(self, buffer: Tensor, samples: int) -> Iterator[tuple[Tensor, slice]]:
        """Yield the parts of `buffer` for the first `samples` samples: its full batches, then a short one.

        Each is (batches, 10, samples of each), with the samples that it holds.
        """
        whole = samples - samples % self._batch_size
        for begin, end, size in ((0, whole, self._batch_size), (whole, samples, samples - whole)):
            if begin < end:
                yield buffer[CLASSES * begin : CLASSES * end].view(-1, CLASSES, size), slice(begin, end)


class Workspace:
    """A step's intermediate values for batches of one size, and the step itself.

    On CUDA every tensor that a step touches is here, in the batch or in the parameters, made by the first step at the
    latest; so a step can be captured in a CUDA graph.
    """

    def __init__(self, recipe: Recipe, parameters: FlatParameters, size: int) -> None:
        """Allocate what batches of `size` samples need."""
        device = parameters.values.device
        *self._hidden, self._last = [make_layer(layer, size) for layer in parameters.layers]
        self._error = torch.empty(CLASSES, size, device=device)
        self._share = 1 / size
        self._quotient = torch.empty_like(self._error) if recipe.loss == "nll_of_log" else None

    def gradients(self, batch: Batch) -> None:
        """Write the batch's logits, and the gradients of its mean loss to all parameters."""
        inputs = [batch.images]
        for layer in self._hidden:
            inputs.append(layer.hidden(inputs[-1]))
        layer = self._last
        layer.logits(inputs[-1], batch.logits)
        error_t = self._output_error(batch)
        error = error_t.t()
        layer.gradients(error_t, inputs[-1])
        for below in reversed(self._hidden):
            outputs = inputs.pop()
            error = below.before_relu(layer.input_error(error), outputs)
            layer = below
            layer.gradients(layer.transposed(error), inputs[-1])

    def _output_error(self, batch: Batch) -> Tensor:
        """Return the gradient of the mean loss to the logits: softmax less one-hot labels, over the batch's size.

        So it is for cross-entropy and for the log-likelihood of log-softmax, a second log-softmax changing nothing.
        The log of a softmax is differentiated as it stands, for where a probability underflows to 0 it has no gradient.
        """
        error = torch.softmax(batch.logits, 0, out=self._error)
        if self._quotient is None:
            torch.add(batch.targets, error, alpha=self._share, out=error)
        else:
            torch.div(batch.targets, error, out=self._quotient)
            _softmax_backward(self._quotient, error, 0, torch.float32, grad_input=error)
        return error


_softmax_backward: Final = torch.ops.aten._softmax_backward_data.out  # noqa: SLF001 - autograd's own, which has no other name


class FusedEngine:
    """Trains from preallocated buffers; its parameters, gradients and moments are one flat buffer each."""

    is_captured = False
    """Whether a step is recorded once and replayed, so that nothing in it may come from Python."""

    def __init__(
        self, recipe: Recipe, model: MLP, pipeline: ResidentPipeline, *, schedule: Schedule | None = None
    ) -> None:
        """Move the model's parameters into a flat buffer, of which they become views."""
        self.model = model
        by_part = any(suits_onednn(part, recipe.batch_size) for part in model.parameters())
        self.parameters = FlatParameters(model, by_part=by_part)
        self._recipe = recipe
        self._pipeline = pipeline
        self._device = self.parameters.values.device
        schedule = schedule or constant(recipe)
        rates = DeviceRates(schedule, self._device) if self.is_captured else HostRates(schedule)
        self.optimizer = (FlatSGD if recipe.optimizer == "sgd" else FlatAdam)(recipe, self.parameters, rates)
        self._workspaces: dict[int, Workspace] = {}
        self._block: Block | None = None

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """See `mnist_mlp.engines.Engine.train`."""
        order = order.to(self._device)
        logits = torch.empty(CLASSES, len(order), device=self._device)
        labels = torch.empty(len(order), dtype=torch.int64, device=self._device)
        block = self._block_for(len(order))
        for begin in range(0, len(order), block.samples):
            chosen = order[begin : begin + block.samples]
            count = len(chosen)
            self._fill(block, chosen)
            self._take_steps(block.batches(count), after_step)
            block.copy_logits(count, logits[:, begin : begin + count])
            labels[begin : begin + count] = block.labels[:count]
        return self._tally(logits, labels)

    def reset_optimizer(self) -> None:
        """See `mnist_mlp.engines.Engine.reset_optimizer`."""
        self.optimizer.reset()

    def workspace(self, size: int) -> Workspace:
        """Return the intermediate values for batches of `size` samples, the same each time."""
        if size not in self._workspaces:
            self._workspaces[size] = Workspace(self._recipe, self.parameters, size)
        return self._workspaces[size]

    def _take_steps(self, batches: Sequence[tuple[int, Batch]], after_step: Callable[[], None] | None) -> None:
        for size, batch in batches:
            self.workspace(size).gradients(batch)
            self.optimizer.step()
            if after_step is not None:
                after_step()

    def _block_for(self, samples: int) -> Block:
        """Return buffers for `samples` samples, or for as many as are gathered at once, whole batches if any is.

        The first stretch's block is made for the whole training set and kept, so that a rehearsal leaves no large
        allocation to the first epoch, unless a stretch is longer still.
        """
        batch_size = self._recipe.batch_size
        samples = max(samples, self._pipeline.train_samples)
        most = _CPU_BLOCK_SAMPLES if self._device.type == "cpu" else _BLOCK_SAMPLES
        wanted = min(-(-samples // batch_size), max(1, most // batch_size)) * batch_size
        if samples < batch_size:
            wanted = samples
        if self._block is not None and self._block.samples < wanted:
            self._block = None  # first, so that there are never two
        if self._block is None:
            self._block = Block(wanted, batch_size, self._device)
        return self._block

    def _fill(self, block: Block, chosen: Tensor) -> None:
        count = len(chosen)
        labels = block.labels[:count]
        self._pipeline.assemble(chosen, block.pixels[:count], block.images[:count], labels)
        block.set_targets(count)

    def _tally(self, logits: Tensor, labels: Tensor) -> Tally:
        """Return the tally of a stretch from its logits, (10, n)."""
        # As one sample of n positions, with the classes second, where torch's softmax is fast.
        outputs = output_function(self._recipe.output)(logits.unsqueeze(0))[0].t()
        return Tally(outputs, [labels], loss_function(self._recipe.loss))
