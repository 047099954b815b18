r"""Reviews, a control with short texts for `scm`: positive or negative, from the same pretraining, at two lengths.

    pip install .[train,chinese]
    python train.py configs/chnsenticorp.py \
        --base.data.path path/to/train.tsv --base.data.validation-path path/to/dev.tsv \
        --pretraining.base.data.path path/to/texts --pretraining.base.data.tokenizer path/to/vocab.txt

ChnSentiCorp has 9,600 reviews to train on, of 108 characters in the mean. Give texts and vocab.txt as to `scm`, and the
pretraining is not made again.
Devices: two CPU cores; not measured yet.
"""

from pathlib import Path

from roformer_jax.commands.parsing import load_config
from roformer_jax.finetuning import Classification, TableConfig
from roformer_jax.pretrained_comparison import PretrainedComparison
from roformer_jax.training.loop import TrainingConfig


def get_config() -> PretrainedComparison:
    """The model, pretraining and optimizer of `scm`; 3 epochs of 32 examples an update, seeds 0, 1, 2."""
    scm = load_config(Path(__file__).parent / "scm.py")
    return PretrainedComparison(
        pretraining=scm.pretraining,
        base=Classification(
            run_dir="runs/scm/chnsenticorp",
            model=scm.base.model,
            data=TableConfig(text_columns=("text_a",)),
            optimizer=scm.base.optimizer,
            training=TrainingConfig(batch_size=32, epochs=3.0, eval_every=10_000, save_every=10_000),
        ),
        name="chnsenticorp",
        title="Chinese reviews against length: a control with short texts",
        command="python train.py configs/chnsenticorp.py",
        metric="loss",
        values=(512, 128),
        also=("accuracy",),
    )
