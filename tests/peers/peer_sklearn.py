"""scikit-learn's MLPClassifier, one pass at a time."""

import numpy as np
import sklearn
from peer import Spec, Train, serve, training_set
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits


def make(spec: Spec) -> tuple[Train, str]:
    images, labels = training_set(spec)
    threadpool_limits(spec.threads)
    model = MLPClassifier(
        hidden_layer_sizes=tuple(spec.layers[1:-1]),
        solver="adam",
        alpha=0.0,
        batch_size=spec.batch_size,
        learning_rate_init=spec.learning_rate,
        random_state=spec.seed,
    )
    random, classes = np.random.default_rng(spec.seed), np.arange(10)

    def train(samples: int) -> float:
        # A pass over the whole set needs no copy: partial_fit shuffles by itself.
        whole = samples == len(images)
        chosen = slice(None) if whole else random.permutation(len(images))[:samples]
        model.partial_fit(images[chosen], labels[chosen], classes=classes)
        return float(model.loss_)

    return train, f"scikit-learn {sklearn.__version__}"


if __name__ == "__main__":
    serve(make)
