"""The model's hyper-parameters, under the names of Hugging Face's RoFormer configuration."""

from dataclasses import dataclass
from typing import Literal, get_args

from roformer_jax.errors import InputError

PositionEncoding = Literal["rope", "learned", "sinusoidal", "none"]
ComputeType = Literal["float32", "bfloat16"]
Rematerialisation = Literal["none", "dots", "full"]
Pooling = Literal["cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class RoFormerConfig:
    """Sizes and rates of a RoFormer; the defaults are the paper's base model (BERT base with RoPE)."""

    vocab_size: int = 30522
    """Rows of the token embedding; a vocabulary trained for the run gets at most this size."""
    hidden_size: int = 768
    """Width of the residual stream."""
    num_hidden_layers: int = 12
    """Transformer blocks."""
    num_attention_heads: int = 12
    """Attention heads; they divide hidden_size into heads of even size."""
    intermediate_size: int = 3072
    """Width of the feed-forward layer."""
    hidden_dropout_prob: float = 0.1
    """Dropout rate of embeddings, block outputs and the classification head."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout rate of the attention probabilities."""
    type_vocab_size: int = 2
    """Kinds of text that the segment embedding tells apart (first and second sentence)."""
    initializer_range: float = 0.02
    """Standard deviation of the normal initialisation of kernels and embeddings."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    position_encoding: PositionEncoding = "rope"
    """How positions enter: rope (the paper), learned (BERT), sinusoidal (Vaswani et al.), or none."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies theta^(-2i/d); only for position_encoding=rope."""
    max_position_embeddings: int = 512
    """Rows of the position table; only for position_encoding=learned, the others have no table and no limit."""
    classifier_pooling: Pooling = "cls"
    """What the classification head reads of an example: its [CLS] vector, or the mean of its token vectors."""
    dtype: ComputeType = "float32"
    """Type of the activations and matrix products; parameters, norms, softmax and losses are float32."""
    remat: Rematerialisation = "none"
    """What the backward pass recomputes in each block: nothing, all but the matrix products, or everything."""

    def __post_init__(self):
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        positive = (*sizes, "type_vocab_size", "max_position_embeddings", "layer_norm_eps", "initializer_range")
        for name in (*positive, "rope_theta"):
            if not getattr(self, name) > 0:
                raise InputError(f"model.{name} = {getattr(self, name)} must be positive")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name} = {getattr(self, name)} must lie in [0, 1)")
        choices = {
            "position_encoding": PositionEncoding,
            "classifier_pooling": Pooling,
            "dtype": ComputeType,
            "remat": Rematerialisation,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise InputError(f"model.{name} = {getattr(self, name)!r} is none of {', '.join(get_args(allowed))}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model.num_attention_heads = {self.num_attention_heads} does not divide "
                f"model.hidden_size = {self.hidden_size}"
            )
        if self.position_encoding == "rope" and self.head_size % 2:
            raise InputError(
                f"RoPE rotates pairs of channels, but the head size is odd: model.hidden_size = {self.hidden_size} / "
                f"model.num_attention_heads = {self.num_attention_heads} = {self.head_size}; change one of them"
            )
        if self.position_encoding == "sinusoidal" and self.hidden_size % 2:
            raise InputError(f"sinusoidal positions come in pairs: model.hidden_size = {self.hidden_size} must be even")

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def check_length(self, length: int) -> None:
        """Refuse rows longer than a learned position table; every other encoding takes any length."""
        if self.position_encoding == "learned" and length > self.max_position_embeddings:
            raise InputError(
                f"rows of {length} tokens do not fit the learned position table: "
                f"model.max_position_embeddings = {self.max_position_embeddings}; raise it or shorten the rows"
            )
