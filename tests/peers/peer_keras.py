"""Keras on TensorFlow, compiled by XLA, many steps in one call."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from peer import Spec, Train, serve, training_set

STEPS_PER_EXECUTION = 32


def make(spec: Spec) -> tuple[Train, str]:
    tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
    keras.utils.set_random_seed(spec.seed)
    images, labels = training_set(spec)
    hidden = [keras.layers.Dense(width, activation="relu") for width in spec.layers[1:-1]]
    model = keras.Sequential([keras.Input((spec.layers[0],)), *hidden, keras.layers.Dense(spec.layers[-1])])
    model.compile(
        optimizer=keras.optimizers.Adam(spec.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=True,
    )
    random = np.random.default_rng(spec.seed)

    def train(samples: int) -> float:
        # fit shuffles the whole set by itself.
        whole = samples == len(images)
        chosen = slice(None) if whole else random.permutation(len(images))[:samples]
        history = model.fit(images[chosen], labels[chosen], batch_size=spec.batch_size, epochs=1, verbose=0)
        return float(history.history["loss"][0])

    return train, f"keras {keras.__version__} on tensorflow {tf.__version__}"


if __name__ == "__main__":
    serve(make)
