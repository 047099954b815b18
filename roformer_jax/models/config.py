"""The model's hyper-parameters, under the names of Hugging Face's RoFormer configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from roformer_jax.errors import InputError
from roformer_jax.fields import check_types

PositionEncoding = Literal["rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none"]
RopeScaling = Literal["none", "linear", "ntk", "yarn"]
Attention = Literal["softmax", "linear"]
FeatureMap = Literal["elu", "relu", "softmax", "favor"]
LinearRotation = Literal["after", "before"]
ComputeType = Literal["float32", "bfloat16"]
Rematerialisation = Literal["none", "dots", "full"]
Pooling = Literal["cls", "mean"]
Norm = Literal["layer_norm", "rms_norm"]
Activation = Literal["gelu", "relu"]


@dataclass(frozen=True, kw_only=True)
class RoFormerConfig:
    """Sizes and rates of a RoFormer; the defaults are the paper's base model (BERT base with RoPE)."""

    vocab_size: int = 30522
    """Rows of the token embedding; a vocabulary trained for the run gets at most this size."""
    hidden_size: int = 768
    """Width of the residual stream."""
    embedding_size: int | None = None
    """Width of the embeddings, mapped to hidden_size before the first block; none is hidden_size, without a map."""
    num_hidden_layers: int = 12
    """Transformer blocks."""
    num_attention_heads: int = 12
    """Attention heads; they divide hidden_size into heads of even size."""
    intermediate_size: int = 3072
    """Width of the feed-forward layer."""
    hidden_act: Activation = "gelu"
    """Activation of the feed-forward layers and of the heads: gelu (by erf), or relu (the RoFormerV2 weights)."""
    hidden_dropout_prob: float = 0.1
    """Dropout rate of embeddings, block outputs and the classification head."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout rate of the attention probabilities."""
    type_vocab_size: int = 2
    """Kinds of text that the segment embedding tells apart (first and second sentence); 0 has no such embedding."""
    initializer_range: float = 0.02
    """Standard deviation of the normal initialisation of kernels and embeddings."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every norm."""
    norm_type: Norm = "layer_norm"
    """layer_norm, or rms_norm without a scale (RoFormerV2, whose language-model head is the token table alone)."""
    use_bias: bool = True
    """Whether the linear maps of the blocks add a bias; RoFormerV2 has none."""
    tie_word_embeddings: bool = True
    """Whether the language-model head reads the token embedding backwards, or has a table of its own."""
    position_encoding: PositionEncoding = "rope"
    """How positions enter: rope (the paper), learned (BERT), sinusoidal (Vaswani et al.), alibi (Press et al.),
    t5 (Raffel et al.), shaw (Shaw et al.), or none."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies theta^(-2i/d); only for position_encoding=rope."""
    rotary_value: bool = False
    """Whether values are rotated too, as in the English RoFormers, not in the paper: outputs then depend on absolute
    positions; only for softmax attention with position_encoding=rope."""
    rope_scaling: RopeScaling = "none"
    """How the frequencies are changed to read longer texts: linear (interpolation), ntk, yarn, or none."""
    rope_scaling_factor: float = 1.0
    """New length over original length, at least 1; only with a rope_scaling."""
    rope_original_length: int = 512
    """Tokens per text that the weights were trained on; only for rope_scaling=yarn."""
    relative_distance: int = 16
    """Distance in tokens beyond which shaw tells no distances apart; only for position_encoding=shaw."""
    max_position_embeddings: int = 512
    """Rows of the position table; only for position_encoding=learned, the others have no table and no limit."""
    attention: Attention = "softmax"
    """softmax (eq. 2), or linear (eq. 19), whose cost grows with the length and not with its square."""
    feature_map: FeatureMap = "elu"
    """The non-negative functions of queries and keys: elu (elu + 1), relu, softmax (eq. 18), or favor (Performer);
    only for attention=linear."""
    linear_rotation: LinearRotation = "after"
    """RoPE after the feature map (eq. 19), or before it (Performer code); only for attention=linear."""
    classifier_pooling: Pooling = "cls"
    """What the classification head reads of an example: its [CLS] vector, or the mean of its token vectors."""
    dtype: ComputeType = "float32"
    """Type of the activations and matrix products; parameters, norms, softmax and losses are float32."""
    remat: Rematerialisation = "none"
    """What the backward pass recomputes in each block: nothing, all but the matrix products and attention, or
    everything."""
    unroll: int = 1
    """Blocks that the compiler sees in a row, in its loop over all: 1 compiles fastest, all run faster on CPUs."""

    def __post_init__(self):
        check_types(self, "model.")
        self._check_ranges()
        self._check_heads()
        self._check_embeddings()
        self._check_rope_scaling()
        self._check_linear_attention()

    def _check_ranges(self) -> None:
        """Every number lies where it makes sense."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "unroll")
        lengths = ("max_position_embeddings", "rope_original_length", "relative_distance")
        for name in (*sizes, *lengths, "layer_norm_eps", "initializer_range", "rope_theta"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"model.{name} = {getattr(self, name)} must be positive and finite")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name} = {getattr(self, name)} must lie in [0, 1)")
        if self.type_vocab_size < 0:
            raise InputError(f"model.type_vocab_size = {self.type_vocab_size} must be 0 or more")
        if self.embedding_size is not None and self.embedding_size < 1:
            raise InputError(f"model.embedding_size = {self.embedding_size} must be positive")
        if not 1 <= self.rope_scaling_factor < math.inf:
            raise InputError(f"model.rope_scaling_factor = {self.rope_scaling_factor} must be at least 1, and finite")

    def _check_heads(self) -> None:
        """The width falls into heads, and those into pairs where pairs are needed."""
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
        if self.rotary_value and (self.position_encoding, self.attention) != ("rope", "softmax"):
            raise InputError(
                f"model.rotary_value rotates values, but model.position_encoding = {self.position_encoding} and "
                f"model.attention = {self.attention}; it needs rope and softmax"
            )

    def _check_embeddings(self) -> None:
        """The embeddings have the width that what is added to them, or reads them backwards, needs."""
        if self.position_encoding == "sinusoidal" and self.embedding_width % 2:
            name = "hidden_size" if self.embedding_size is None else "embedding_size"
            raise InputError(f"sinusoidal positions come in pairs: model.{name} = {self.embedding_width} must be even")

    def _check_rope_scaling(self) -> None:
        """A scaling has a rotation to scale, and a factor has a scaling."""
        if self.rope_scaling == "none":
            if self.rope_scaling_factor != 1:
                raise InputError(
                    f"model.rope_scaling_factor = {self.rope_scaling_factor} does nothing with "
                    "model.rope_scaling = none; choose linear, ntk or yarn"
                )
            return
        if self.position_encoding != "rope":
            raise InputError(
                f"model.rope_scaling = {self.rope_scaling} scales rotary frequencies, "
                f"but model.position_encoding = {self.position_encoding} has none; use rope_scaling none"
            )
        if self.rope_scaling == "yarn" and (self.head_size < 4 or self.rope_theta <= 1):
            raise InputError(
                "model.rope_scaling = yarn needs falling frequencies: at least two pairs of channels per head "
                f"(the head size is {self.head_size}) and model.rope_theta = {self.rope_theta} above 1"
            )

    def _check_linear_attention(self) -> None:
        """Linear attention has neither logits nor probabilities that could be changed."""
        if self.attention != "linear":
            return
        if self.position_encoding in ("alibi", "t5", "shaw"):
            raise InputError(
                f"model.position_encoding = {self.position_encoding} is added to attention logits, and "
                "model.attention = linear has none; use rope, learned, sinusoidal or none"
            )
        if self.rope_scaling == "yarn":
            raise InputError(
                "model.rope_scaling = yarn changes the temperature of a softmax, and model.attention = linear has "
                "none; use linear or ntk"
            )
        if self.attention_probs_dropout_prob > 0:
            raise InputError(
                f"model.attention_probs_dropout_prob = {self.attention_probs_dropout_prob} drops attention "
                "probabilities, and model.attention = linear has none; set it to 0"
            )

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Channels of a row of the token embedding."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def num_features(self) -> int:
        """Features of a query or key in linear attention: D log D of favor, as Performer code has it, made even."""
        if self.feature_map != "favor":
            return self.head_size
        return 2 * max(1, int(self.head_size * math.log(self.head_size) / 2))

    @property
    def rotary_dim(self) -> int:
        """Channels that RoPE rotates: those of a head, or the features if they are rotated."""
        rotates_features = self.attention == "linear" and self.linear_rotation == "after"
        return self.num_features if rotates_features else self.head_size

    def check_mesh(self, mesh: Mapping[str, int], length: int) -> None:
        """Refuse a mesh whose axes, given as sizes by name, do not divide what they split.

        Args:
          mesh: devices along `fsdp`, `tensor` and `sequence`.
          length: tokens of a row.

        Raises:
          InputError: the message names the field of the mesh, what it would split, and both sizes.
        """
        fsdp, tensor, sequence = (mesh[axis] for axis in ("fsdp", "tensor", "sequence"))
        demands = (
            ("mesh.fsdp", fsdp, "model.hidden_size", self.hidden_size),
            ("mesh.tensor", tensor, "model.intermediate_size", self.intermediate_size),
            ("mesh.tensor x mesh.sequence", tensor * sequence, "model.num_attention_heads", self.num_attention_heads),
            ("mesh.tensor x mesh.sequence", tensor * sequence, "the tokens of a row", length),
        )
        for axis, devices, name, size in demands:
            if size % devices:
                raise InputError(f"{axis} = {devices} does not divide {name} = {size}; choose a divisor of it")

    def check_length(self, length: int) -> None:
        """Refuse rows longer than a learned position table; every other encoding takes any length.

        A length that is a symbol (jax.export) is not known yet; positions beyond the table give NaN.
        """
        if self.position_encoding == "learned" and isinstance(length, int) and length > self.max_position_embeddings:
            raise InputError(
                f"rows of {length} tokens do not fit the learned position table: "
                f"model.max_position_embeddings = {self.max_position_embeddings}; raise it or shorten the rows"
            )
