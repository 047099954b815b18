r"""Natural language inference, a control with short texts for `scm`: from the same pretraining, at two lengths.

    pip install .[train,chinese]
    python train.py configs/ocnli.py \
        --base.data.path path/to/train.10k.json --base.data.validation-path path/to/dev.json \
        --pretraining.base.data.path path/to/texts --pretraining.base.data.tokenizer path/to/vocab.txt

OCNLI has pairs of sentences; rows labelled with a hyphen have no label that most annotators agree on. Give texts and
vocab.txt as to `scm`, and the pretraining is not made again.
Devices: two CPU cores; not measured yet.
"""

import dataclasses
from pathlib import Path

from roformer_jax.commands.parsing import load_config
from roformer_jax.finetuning import TableConfig
from roformer_jax.pretrained_comparison import PretrainedComparison


def get_config() -> PretrainedComparison:
    """As `chnsenticorp`, on other data."""
    other = load_config(Path(__file__).parent / "chnsenticorp.py")
    data = TableConfig(text_columns=("sentence1", "sentence2"), unlabelled="-")
    return dataclasses.replace(
        other,
        base=dataclasses.replace(other.base, run_dir="runs/scm/ocnli", data=data),
        name="ocnli",
        title="Chinese inference against length: a control with short texts",
        command="python train.py configs/ocnli.py",
    )
