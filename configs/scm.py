r"""Long Chinese documents (the paper's section 4.5), small: which of two cases is more like a third, at three lengths.

    pip install .[train,chinese]
    python train.py configs/scm.py --base.data.path path/to/triples.jsonl \
        --pretraining.base.data.path path/to/texts --pretraining.base.data.tokenizer path/to/vocab.txt

triples.jsonl has documents A, B and C, of which B is more like A (CAIL2019-SCM: 500 were issued, research use). No A
that is asked held out stands in a training triple. texts are Chinese documents, and vocab.txt is that of
chinese_roformer_base: words, found by jieba. Pretraining is staged, as `pretrain_chinese` is at the paper's size; the
controls on short texts, `chnsenticorp` and `ocnli`, start from the same.
Devices: two CPU cores, 75 minutes beside other jobs for the pretraining and all nine fine-tunings.
"""

from roformer_jax.finetuning import SimilarCases
from roformer_jax.models import RoFormerConfig
from roformer_jax.pretrained_comparison import PretrainedComparison
from roformer_jax.pretraining import Pretraining
from roformer_jax.stages import StagedPretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> PretrainedComparison:
    """Two layers x 128; pretrained at 128, 1,024 and 256 tokens, fine-tuned at 1,536, 1,024 and 512; seeds 0, 1, 2."""
    return PretrainedComparison(
        pretraining=StagedPretraining(
            base=Pretraining(
                run_dir="runs/scm/pretraining",
                model=RoFormerConfig(
                    vocab_size=50_000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                    intermediate_size=512,
                ),
                data=CorpusConfig(holdout=0.05),
                optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.1),
                training=TrainingConfig(eval_every=200, save_every=200),
            ),
            lengths=(128, 1024, 256),
            batch_sizes=(16, 2, 8),
            steps=(400, 200, 200),
        ),
        base=SimilarCases(
            run_dir="runs/scm/cases",
            model=RoFormerConfig(classifier_pooling="mean"),
            optimizer=OptimizerConfig(learning_rate=2e-4, warmup=0.1),
            training=TrainingConfig(batch_size=8, epochs=3.0, eval_every=10_000, save_every=10_000),
        ),
        name="scm",
        title="Similar cases against length (the paper's section 4.5, small)",
        command="python train.py configs/scm.py",
        metric="loss",
        values=(1536, 1024, 512),
        also=("triples",),
    )  # fmt: skip
