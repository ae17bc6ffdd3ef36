"""JAX with optax: a whole pass is one compiled program, a scan over its batches; all data stays on the device."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from peer import Spec, Train, initial_weights, serve, training_set

Parameters = list[tuple[Any, Any]]


def loss_of(parameters: Parameters, images: Any, labels: Any) -> Any:  # noqa: ANN401 - arrays and tracers
    *hidden, (last_weights, last_biases) = parameters
    for weights, biases in hidden:
        images = jax.nn.relu(images @ weights + biases)
    return optax.softmax_cross_entropy_with_integer_labels(images @ last_weights + last_biases, labels).mean()


def make(spec: Spec) -> tuple[Train, str]:
    jax.config.update("jax_default_matmul_precision", "highest")  # as all peers; by default it takes TF32 on GPUs
    arrays = training_set(spec)
    images, labels = jax.device_put(arrays[0]), jax.device_put(arrays[1].astype("int32"))
    optimizer = optax.adam(spec.learning_rate)
    parameters: Parameters = [(jnp.asarray(weights), jnp.asarray(biases)) for weights, biases in initial_weights(spec)]
    carry = (parameters, optimizer.init(parameters))
    key = jax.random.key(spec.seed)

    def step(images: Any, labels: Any, carry: Any, chosen: Any) -> Any:  # noqa: ANN401 - arrays and tracers
        parameters, state = carry
        loss, gradients = jax.value_and_grad(loss_of)(parameters, images[chosen], labels[chosen])
        updates, state = optimizer.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state), loss

    @functools.partial(jax.jit, static_argnames="samples", donate_argnames="carry")
    def run(images: Any, labels: Any, carry: Any, key: Any, samples: int) -> Any:  # noqa: ANN401 - arrays and tracers
        full, short = divmod(samples, spec.batch_size)
        order = jax.random.permutation(key, len(images))[:samples]
        batches = order[: full * spec.batch_size].reshape(full, spec.batch_size)
        carry, losses = jax.lax.scan(functools.partial(step, images, labels), carry, batches)
        total = losses.sum() * spec.batch_size
        if short:
            carry, loss = step(images, labels, carry, order[-short:])
            total += loss * short
        return carry, total / samples

    def train(samples: int) -> float:
        nonlocal carry, key
        key, one = jax.random.split(key)
        carry, loss = run(images, labels, carry, one, samples=samples)
        jax.block_until_ready(carry)
        return float(loss)

    return train, f"jax {jax.__version__} ({jax.default_backend()})"


if __name__ == "__main__":
    serve(make)
