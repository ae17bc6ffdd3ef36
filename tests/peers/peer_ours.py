"""This project's training: `python peer_ours.py ENGINE`."""

import sys
from pathlib import Path

import torch
from peer import Spec, Train, serve
from peer_recipe import recipe_of

from mnist_mlp.data import load
from mnist_mlp.train import Training


def make(spec: Spec) -> tuple[Train, str]:
    engine = sys.argv[1]
    torch.set_num_threads(spec.threads)
    dataset = load("mnist", Path(spec.folder).parents[1])
    training = Training(recipe_of(spec), dataset, device=torch.device(spec.device), seed=spec.seed, engine=engine)
    epoch = 0

    def train(samples: int) -> float:
        nonlocal epoch
        epoch += 1
        return training.train(training.order(epoch)[:samples]).read().loss

    return train, f"engine {engine}, torch {torch.__version__}"


if __name__ == "__main__":
    serve(make)
