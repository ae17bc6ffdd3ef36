"""NumPy with preallocated buffers, and an in-place optimizer on one flat array."""

import os
import sys

if __name__ == "__main__":  # numpy's BLAS reads it when it is imported
    threads = sys.argv[1]
    os.environ.update(OPENBLAS_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OMP_NUM_THREADS=threads)

import numpy as np
from peer import Floats, Integers, Spec, Train, initial_weights, serve, training_set

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Network:
    """Weights, gradients and moments, each as one flat array with views of its parts."""

    def __init__(self, spec: Spec) -> None:
        parts = [part for layer in initial_weights(spec) for part in layer]
        self.values = np.concatenate([part.ravel() for part in parts])
        self.gradients = np.zeros_like(self.values)
        self.first, self.second = np.zeros_like(self.values), np.zeros_like(self.values)
        self.scratch, self.root = np.empty_like(self.values), np.empty_like(self.values)
        ends = np.cumsum([part.size for part in parts])[:-1]

        def views(flat: Floats) -> list[tuple[Floats, Floats]]:
            pieces = [piece.reshape(part.shape) for piece, part in zip(np.split(flat, ends), parts, strict=True)]
            return list(zip(pieces[::2], pieces[1::2], strict=True))

        self.layers, self.layer_gradients = views(self.values), views(self.gradients)
        self.learning_rate = spec.learning_rate
        self.steps = 0
        widths = spec.layers[1:]
        self.outputs = [np.empty((spec.batch_size, width), np.float32) for width in widths]
        self.errors = [np.empty((spec.batch_size, width), np.float32) for width in widths]

    def train(self, images: Floats, labels: Integers) -> float:
        """Take one step on a batch; return its summed loss."""
        n = len(images)
        outputs, errors = [out[:n] for out in self.outputs], [error[:n] for error in self.errors]
        inputs = [images, *outputs[:-1]]
        for (weights, biases), given, out in zip(self.layers, inputs, outputs, strict=True):
            np.matmul(given, weights, out=out)
            np.add(out, biases, out=out)
            if out is not outputs[-1]:
                np.maximum(out, 0, out=out)
        logits, rows = outputs[-1], np.arange(n)
        logits -= logits.max(axis=1, keepdims=True)
        error = np.exp(logits, out=errors[-1])
        sums = error.sum(axis=1, keepdims=True)
        loss = float((np.log(sums[:, 0]) - logits[rows, labels]).sum())
        error /= sums
        error[rows, labels] -= 1
        error /= n
        for layer in range(len(self.layers) - 1, -1, -1):
            weight_gradient, bias_gradient = self.layer_gradients[layer]
            np.matmul(inputs[layer].T, errors[layer], out=weight_gradient)
            errors[layer].sum(axis=0, out=bias_gradient)
            if layer:
                np.matmul(errors[layer], self.layers[layer][0].T, out=errors[layer - 1])
                errors[layer - 1] *= inputs[layer] > 0
        self._adam()
        return loss

    def _adam(self) -> None:
        self.steps += 1
        gradients, scratch, root = self.gradients, self.scratch, self.root
        self.first *= BETA1
        self.first += np.multiply(gradients, 1 - BETA1, out=scratch)
        self.second *= BETA2
        np.multiply(gradients, gradients, out=scratch)
        self.second += np.multiply(scratch, 1 - BETA2, out=scratch)
        np.sqrt(self.second, out=root)
        root /= np.float32((1 - BETA2**self.steps) ** 0.5)
        root += np.float32(EPSILON)
        np.divide(self.first, root, out=scratch)
        scratch *= np.float32(self.learning_rate / (1 - BETA1**self.steps))
        self.values -= scratch


def make(spec: Spec) -> tuple[Train, str]:
    images, labels = training_set(spec)
    network = Network(spec)
    random = np.random.default_rng(spec.seed)
    batch = np.empty((spec.batch_size, images.shape[1]), np.float32)

    def train(samples: int) -> float:
        order = random.permutation(len(images))[:samples]
        loss = 0.0
        for begin in range(0, samples, spec.batch_size):
            chosen = order[begin : begin + spec.batch_size]
            taken = np.take(images, chosen, axis=0, out=batch[: len(chosen)], mode="clip")
            loss += network.train(taken, labels[chosen])
        return loss / samples

    return train, f"numpy {np.__version__}"


if __name__ == "__main__":
    serve(make)
