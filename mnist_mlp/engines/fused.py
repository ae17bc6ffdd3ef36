"""Training written out in torch's kernels: no autograd, preallocated buffers, and as few calls as possible.

Images are gathered and normalised for many batches at once, into a buffer small enough for the processor's caches. A
step keeps only its logits; the outputs of all batches are computed from them together at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mnist_mlp.engines.flat import DeviceRates, FlatAdam, FlatParameters, FlatSGD, HostRates
from mnist_mlp.engines.layers import make_layer, suits_onednn
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.model import MLP, loss_function, output_function
from mnist_mlp.pipelines import ResidentPipeline
from mnist_mlp.recipes import CLASSES, INPUT_FEATURES, Recipe
from mnist_mlp.schedules import Schedule, constant
from mnist_mlp.tally import Tally

_CPU_BLOCK_SAMPLES: Final = 1024
"""Samples gathered at once on a CPU: 3 MiB as float32, about the size of a core's caches."""

_BLOCK_SAMPLES: Final = 65_536
"""The same for other devices, where memory is fast and calls are expensive: an epoch of MNIST, 200 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The buffers of one batch: images, (n, 784), targets and logits, (10, n) each, classes first.

    The targets are -1/n for each sample's label and 0 elsewhere: the labels' part of the gradient of the mean loss.

    With classes first, the softmax runs along columns, which torch vectorises; along rows of ten it took ten times as
    long. All three are contiguous, because torch would copy other logits before a softmax.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor


class Block:
    """Buffers for up to `samples` samples, divided into batches."""

    def __init__(self, samples: int, batch_size: int, device: torch.device) -> None:
        """Allocate the buffers, and create the views of all full batches."""
        self.samples = samples
        self._batch_size = batch_size
        self.pixels = torch.empty(samples, INPUT_FEATURES, dtype=torch.uint8, device=device)
        self.images = torch.empty(samples, INPUT_FEATURES, dtype=torch.float32, device=device)
        self.labels = torch.empty(samples, dtype=torch.int64, device=device)
        self._targets = torch.empty(CLASSES * samples, dtype=torch.float32, device=device)
        self._logits = torch.empty(CLASSES * samples, dtype=torch.float32, device=device)
        self._classes = torch.arange(CLASSES, device=device).unsqueeze(1)
        self._full = [self.batch(begin, batch_size) for begin in range(0, samples - batch_size + 1, batch_size)]

    def batch(self, begin: int, size: int) -> Batch:
        """Return the batch of `size` samples that starts at sample `begin`."""
        by_class = slice(CLASSES * begin, CLASSES * (begin + size))
        return Batch(
            images=self.images[begin : begin + size],
            targets=self._targets[by_class].view(CLASSES, size),
            logits=self._logits[by_class].view(CLASSES, size),
        )

    def batches(self, samples: int) -> list[tuple[int, Batch]]:
        """Return the batches of the first `samples` samples, each with its size; the last one may be short."""
        full, short = divmod(samples, self._batch_size)
        batches = [(self._batch_size, batch) for batch in self._full[:full]]
        return [*batches, (short, self.batch(samples - short, short))] if short else batches

    def set_targets(self, samples: int) -> None:
        """Compute the targets of the first `samples` samples from their labels."""
        for targets, chosen in self._by_size(self._targets, samples):
            labels = self.labels[chosen].view(-1, 1, targets.shape[2])
            torch.eq(labels, self._classes, out=targets)
            targets.mul_(-1 / targets.shape[2])

    def copy_logits(self, samples: int, logits: Tensor) -> None:
        """Copy the logits of the first `samples` samples from their batches to `logits`, (10, samples)."""
        for batches, chosen in self._by_size(self._logits, samples):
            logits[:, chosen].view(CLASSES, -1, batches.shape[2]).copy_(batches.transpose(0, 1))

    def _by_size(self, buffer: Tensor, samples: int) -> Iterator[tuple[Tensor, slice]]:
        """Yield the part of `buffer` for the full batches of the first `samples` samples, then that for a short one.

        A part has shape (batches, 10, samples per batch) and comes with its slice of the samples.
        """
        whole = samples - samples % self._batch_size
        for begin, end, size in ((0, whole, self._batch_size), (whole, samples, samples - whole)):
            if begin < end:
                yield buffer[CLASSES * begin : CLASSES * end].view(-1, CLASSES, size), slice(begin, end)


class Workspace:
    """Forward and backward pass for batches of one size, with the buffers for intermediate values.

    On CUDA, a step uses only tensors that belong to this, the batch or the parameters and exist after the first step,
    so it can be captured in a CUDA graph.
    """

    def __init__(self, recipe: Recipe, parameters: FlatParameters, size: int) -> None:
        """Allocate the buffers for batches of `size` samples."""
        device = parameters.values.device
        *self._hidden, self._last = [make_layer(layer, size) for layer in parameters.layers]
        self._error = torch.empty(CLASSES, size, dtype=torch.float32, device=device)
        self._share = 1 / size
        self._quotient = torch.empty_like(self._error) if recipe.loss == "nll_of_log" else None

    def gradients(self, batch: Batch) -> None:
        """Compute the batch's logits, and the gradients of its mean loss to all parameters."""
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
        """Return the gradient of the mean loss to the logits, (10, size): (softmax - one-hot labels) / size.

        This holds for cross-entropy and for the negative log-likelihood of a log-softmax; a second log-softmax changes
        nothing. Loss ``nll_of_log`` is differentiated through its softmax instead, as autograd does it, so that a
        probability that underflows to 0 has the same effect as in engine eager.
        """
        error = torch.softmax(batch.logits, 0, out=self._error)
        if self._quotient is None:
            torch.add(batch.targets, error, alpha=self._share, out=error)
        else:
            torch.div(batch.targets, error, out=self._quotient)
            _softmax_backward(self._quotient, error, 0, torch.float32, grad_input=error)
        return error


_softmax_backward: Final = torch.ops.aten._softmax_backward_data.out  # noqa: SLF001 - autograd's operator, which has no public name


class FusedEngine:
    """Trains with preallocated buffers; parameters, gradients and moments are one flat buffer each."""

    is_captured = False
    """Whether a step is recorded once and then replayed, so that no value in it may come from Python."""

    def __init__(
        self, recipe: Recipe, model: MLP, pipeline: ResidentPipeline, *, schedule: Schedule | None = None
    ) -> None:
        """Move the model's parameters into a flat buffer; they become views of it."""
        self.model = model
        self._modules = str(model)
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
        logits = torch.empty(CLASSES, len(order), dtype=torch.float32, device=self._device)
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

    def check_model(self) -> None:
        """See `Engine.check_model`: steps are written out for the model as it was built."""
        if str(self.model) != self._modules or not self.parameters.are_all_of(self.model):
            raise InvalidValueError(
                "the model was edited (its layers, or the type or requires_grad of its parameters) after its Trainer "
                "was made, which engines fused and graph do not follow: use engine eager"
            )

    def workspace(self, size: int) -> Workspace:
        """Return the workspace for batches of `size` samples, the same each time."""
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
        """Return buffers for `samples` samples, or for as many whole batches as are gathered at once.

        The first call allocates for the whole training set, even if `samples` are fewer, so that a rehearsal does not
        leave a large allocation to the first epoch. Only a call with still more samples allocates again.
        """
        batch_size = self._recipe.batch_size
        samples = max(samples, self._pipeline.train_samples)
        most = _CPU_BLOCK_SAMPLES if self._device.type == "cpu" else _BLOCK_SAMPLES
        wanted = min(-(-samples // batch_size), max(1, most // batch_size)) * batch_size
        if samples < batch_size:
            wanted = samples
        if self._block is not None and self._block.samples < wanted:
            self._block = None  # freed first, so that there are never two
        if self._block is None:
            self._block = Block(wanted, batch_size, self._device)
        return self._block

    def _fill(self, block: Block, chosen: Tensor) -> None:
        count = len(chosen)
        labels = block.labels[:count]
        self._pipeline.assemble(chosen, block.pixels[:count], block.images[:count], labels)
        block.set_targets(count)

    def _tally(self, logits: Tensor, labels: Tensor) -> Tally:
        """Return the tally of samples with these logits, (10, n), and labels, (n,)."""
        # As (1, 10, n): with the classes in the second dimension torch's softmax is fast.
        outputs = output_function(self._recipe.output)(logits.unsqueeze(0))[0].t()
        return Tally(outputs, [labels], loss_function(self._recipe.loss))
