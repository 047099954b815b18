"""Where every parameter of every shipped config lies on a mesh of fsdp 2 x tensor 2 x sequence 2, as text.

python -m tests.golden.shardings
"""

from pathlib import Path

import jax
from jax.sharding import Mesh

from roformer_jax.models import Model
from roformer_jax.sharding import MeshConfig, parameter_shardings

TABLES = Path(__file__).parent
MESH = MeshConfig(fsdp=2, tensor=2, sequence=2)
EXPERIMENTS_OF_ONE_MODEL = (
    "pretrain_small", "pretrain_base", "glue", "classify", "charlm_small", "enwik8_performer", "wmt14_ende",
)  # fmt: skip
CONFIGS = {name: Path(f"configs/{name}.py") for name in EXPERIMENTS_OF_ONE_MODEL}


def table_of(model: Model, mesh: Mesh) -> str:
    """A line per parameter: its name, its shape, and the mesh axes of each axis."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    shardings = parameter_shardings(mesh, shapes, model.axes)

    def line(path, leaf, sharding) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = ", ".join("-" if axis is None else axis for axis in sharding.spec)
        return f"{name:58s} {leaf.shape!s:24s} {axes}".rstrip()

    lines = jax.tree_util.tree_map_with_path(line, shapes, shardings)
    return "\n".join(jax.tree.leaves(lines)) + "\n"


def main() -> None:
    """Write all tables."""
    from roformer_jax.commands.parsing import load_config
    from roformer_jax.sharding import make_mesh

    jax.config.update("jax_num_cpu_devices", 8)
    for name, path in CONFIGS.items():
        table = table_of(load_config(path).problem().model, make_mesh(MESH))
        (TABLES / f"{name}.txt").write_text(table, encoding="utf-8")
