"""Made-up text with a vocabulary of its own, a tiny model, meshes of any number of devices, and the real update."""

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from roformer_jax.data.examples import Examples
from roformer_jax.models import RoFormerConfig
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings, place_batch
from roformer_jax.tasks.classification import Splits
from roformer_jax.tasks.task import Task
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import TrainState, create_state
from roformer_jax.training.step import make_train_step
from tests.models.parameters import random_params

WORDS = "rotate the query and key by angle of position then inner product depend on relative distance only".split()
LENGTH, VOCAB, WIDTH, HIDDEN, LAYERS = 32, 96, 32, 48, 2
ENCODINGS = ("rope", "learned", "sinusoidal", "none")


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of 2 to 8 words; a word mostly follows its left neighbour in `WORDS`."""
    rng = np.random.default_rng(seed)

    def sentence() -> str:
        place = rng.integers(len(WORDS))
        steps = np.where(rng.random(rng.integers(2, 9)) < 0.7, 1, 5)
        return " ".join(WORDS[i % len(WORDS)] for i in place + np.cumsum(steps))

    return [sentence() for _ in range(count)]


def examples(count: int, seed: int, *, pairs: bool, classes: int) -> Examples:
    """Random labels; no classes make scores."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32) if classes else rng.random(count).astype(np.float32)
    second = sentences(count, seed + 1) if pairs else None
    return Examples(sentences(count, seed), second, labels, [f"row {i}" for i in range(count)])


def splits(*, pairs: bool = True, classes: int = 3) -> Splits:
    train, heldout = (examples(n, seed, pairs=pairs, classes=classes) for n, seed in ((60, 10), (45, 20)))
    return Splits(train, {"heldout": heldout}, ("a", "b", "c")[:classes], ("accuracy",) if classes else ("pearson",))


def model_config(**fields) -> RoFormerConfig:
    sizes = dict(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4)
    return RoFormerConfig(**sizes | dict(intermediate_size=HIDDEN, max_position_embeddings=LENGTH) | fields)


def mesh_of(devices: int, **axes: int) -> Mesh:
    """The mesh of the first devices; those that the axes leave split the rows."""
    return make_mesh(MeshConfig(**axes), jax.devices()[:devices])


def placed_params(task: Task, mesh: Mesh) -> dict:
    shapes = jax.eval_shape(task.model.init, jax.random.key(0))
    return jax.device_put(random_params(task.model, scale=0.05), parameter_shardings(mesh, shapes, task.model.axes))


def train(
    task: Task, mesh: Mesh, steps: int, optimizer: optax.GradientTransformation | None = None
) -> tuple[TrainState, list[float]]:
    """Trains as an experiment does (AdamW by default); the last state and the loss of every step."""
    with jax.set_mesh(mesh):
        params = placed_params(task, mesh)
        config = OptimizerConfig(learning_rate=2e-3)
        optimizer = make_optimizer(config, steps, params) if optimizer is None else optimizer
        step = make_train_step(task.loss, optimizer, make_schedule(config, steps), jax.random.key(0))
        state, losses = create_state(params, optimizer), []
        for batch in task.batches.iterate(0, steps):
            state, metrics = step(state, place_batch(batch, mesh))
            losses.append(metrics["loss"])
        return state, [float(loss) for loss in losses]
