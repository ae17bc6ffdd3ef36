"""The loop of every tutorial: torchvision's dataset and transforms, a DataLoader, autograd, torch.optim.Adam."""

import itertools
from pathlib import Path

import torch
from peer import DEVIATION, MEAN, Spec, Train, serve
from torch import nn
from torchvision import datasets, transforms


def make(spec: Spec) -> tuple[Train, str]:
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (DEVIATION,))])
    dataset = datasets.MNIST(Path(spec.folder).parents[1], train=True, transform=transform)
    loader = torch.utils.data.DataLoader(dataset, batch_size=spec.batch_size, shuffle=True)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(spec.layers, spec.layers[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.learning_rate)

    def train(samples: int) -> float:
        model.train()
        running, seen = 0.0, 0
        for images, labels in itertools.islice(loader, -(-samples // spec.batch_size)):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item() * len(labels)
            seen += len(labels)
        return running / seen

    return train, f"torch {torch.__version__}, DataLoader"


if __name__ == "__main__":
    serve(make)
