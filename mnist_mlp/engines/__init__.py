"""How training is executed. All engines compute the same training, apart from rounding.

- `eager`: idiomatic PyTorch, as users write it.
- `compiled`: the eager step with forward and backward pass compiled by torch.compile.
- `fused`: the step written out by hand in torch's kernels, without autograd.
- `graph`: fused steps replayed as CUDA graphs.

Several processes that share a training use `DistributedEngine`, which takes eager steps.
"""

from mnist_mlp.engines.distributed import DistributedEngine
from mnist_mlp.engines.eager import CompiledEngine, EagerEngine, Engine, make_optimizer, numeric_format
from mnist_mlp.engines.fused import FusedEngine
from mnist_mlp.engines.graph import GraphEngine
from mnist_mlp.model import MLP
from mnist_mlp.pipelines import Pipeline, ResidentPipeline
from mnist_mlp.ranks import ALONE, Ranks
from mnist_mlp.recipes import Recipe
from mnist_mlp.schedules import Schedule

__all__ = [
    "CompiledEngine",
    "DistributedEngine",
    "EagerEngine",
    "Engine",
    "FusedEngine",
    "GraphEngine",
    "make_engine",
    "make_optimizer",
    "numeric_format",
]


def make_engine(  # noqa: PLR0913 - the parts of an engine
    name: str,
    recipe: Recipe,
    model: MLP,
    pipeline: Pipeline,
    *,
    precision: str,
    schedule: Schedule,
    ranks: Ranks = ALONE,
) -> Engine:
    """Return the engine called `name`, which `mnist_mlp.support` must allow with these parts."""
    if ranks.world_size > 1:
        return DistributedEngine(recipe, model, pipeline, ranks=ranks, precision=precision, schedule=schedule)
    if isinstance(pipeline, ResidentPipeline) and name in {"fused", "graph"}:
        return (FusedEngine if name == "fused" else GraphEngine)(recipe, model, pipeline, schedule=schedule)
    engine = CompiledEngine if name == "compiled" else EagerEngine
    return engine(recipe, model, pipeline, precision=precision, schedule=schedule)
