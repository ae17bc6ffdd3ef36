"""How training is executed. All engines compute the same training; only rounding differs.

`eager` is idiomatic PyTorch, what users write; `compiled` gives the same step to torch.compile; `fused` is written by
hand from torch's kernels, without autograd; `graph` replays fused steps as CUDA graphs.
"""

from mnist_mlp.engines.eager import CompiledEngine, EagerEngine, Engine, make_optimizer, numeric_format
from mnist_mlp.engines.fused import FusedEngine
from mnist_mlp.engines.graph import GraphEngine
from mnist_mlp.model import MLP
from mnist_mlp.pipelines import Pipeline, ResidentPipeline
from mnist_mlp.recipes import Recipe
from mnist_mlp.schedules import Schedule

__all__ = [
    "CompiledEngine",
    "EagerEngine",
    "Engine",
    "FusedEngine",
    "GraphEngine",
    "make_engine",
    "make_optimizer",
    "numeric_format",
]


def make_engine(  # noqa: PLR0913 - what an engine is made of
    name: str, recipe: Recipe, model: MLP, pipeline: Pipeline, *, precision: str, schedule: Schedule
) -> Engine:
    """Return the engine called `name`, one that `mnist_mlp.support` allows with this pipeline and precision."""
    if isinstance(pipeline, ResidentPipeline) and name in {"fused", "graph"}:
        return (FusedEngine if name == "fused" else GraphEngine)(recipe, model, pipeline, schedule=schedule)
    engine = CompiledEngine if name == "compiled" else EagerEngine
    return engine(recipe, model, pipeline, precision=precision, schedule=schedule)
