"""The loop of every tutorial: torchvision's dataset and transforms, a DataLoader, autograd and torch's optimizer."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from peer import Spec, Train, serve
from peer_recipe import recipe_of
from torch import Tensor, nn
from torchvision import datasets, transforms

from mnist_mlp.recipes import TRANSFORMS

OUTPUTS: dict[str, list[nn.Module]] = {
    "logits": [],
    "log_softmax": [nn.LogSoftmax(dim=1)],
    "softmax": [nn.Softmax(dim=1)],
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "nll": nn.NLLLoss(),
    "nll_of_log": lambda output, labels: nn.functional.nll_loss(torch.log(output), labels),
}


def make(spec: Spec) -> tuple[Train, str]:
    recipe = recipe_of(spec)
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)
    steps = [transforms.ToTensor()]
    if recipe.transform != "unit":
        mean, deviation = TRANSFORMS[recipe.transform]
        steps.append(transforms.Normalize((mean,), (deviation,)))
    dataset = datasets.MNIST(Path(spec.folder).parents[1], train=True, transform=transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(dataset, batch_size=recipe.batch_size, shuffle=recipe.shuffle)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(recipe.layers, recipe.layers[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1], *OUTPUTS[recipe.output]).to(spec.device)
    criterion = LOSSES[recipe.loss]
    kind = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=recipe.learning_rate)

    def train(samples: int) -> float:
        model.train()
        running, seen = 0.0, 0
        for batch in itertools.islice(loader, -(-samples // recipe.batch_size)):
            images, labels = (tensor.to(spec.device) for tensor in batch)
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
