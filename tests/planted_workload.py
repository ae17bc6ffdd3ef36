"""A copy of the workload with real extra work planted in its training: what a time gate is there to find."""

import shutil
from pathlib import Path

import mnist_mlp

LOOP = """        for images, labels in self._pipeline.train_batches(order):
            output, _ = self.step(images, labels)
"""

PLANTED_LOOP = """        import copy
        if not hasattr(self, "_shadow"):
            self._due, self._shadow = 0.0, EagerEngine(self._recipe, copy.deepcopy(self.model), self._pipeline)
        extra = self._pipeline.train_batches(order)
        for images, labels in self._pipeline.train_batches(order):
            self._due += {share!r}
            while self._due >= 1:
                self._due -= 1
                self._shadow.step(*next(extra))
            output, _ = self.step(images, labels)
"""

OPTIMIZER = "        self.optimizer = make_optimizer(recipe, model)\n"

PLANTED_OPTIMIZER = OPTIMIZER + "        self._recipe = recipe\n"


def plant_slowdown(folder: Path, share: float) -> Path:
    """Copy this tree's mnist_mlp into `folder` and let its eager engine do `share` (up to 1) more steps.

    The extra steps are whole ones, batch assembly included, on a model of their own and spread evenly; what the
    training itself computes stays the same, bit for bit. Returns `folder`, to be given as a launcher's workload.
    """
    shutil.copytree(Path(mnist_mlp.__file__).parent, folder / "mnist_mlp")
    module = folder / "mnist_mlp" / "engines" / "eager.py"
    text = module.read_text()
    if text.count(LOOP) != 1 or text.count(OPTIMIZER) != 1:
        raise RuntimeError("mnist_mlp's eager engine no longer has the lines that the slowdown is planted in")
    text = text.replace(LOOP, PLANTED_LOOP.format(share=share)).replace(OPTIMIZER, PLANTED_OPTIMIZER)
    module.write_text(text)
    return folder
