"""Masked-language-model corruption (Devlin et al. 2019, section 3.1): exact counts and static shapes."""

from dataclasses import dataclass

import numpy as np

from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.typing import Int

# Of the chosen positions: this share becomes [MASK], the next a random token, the rest stays (Devlin et al. 2019).
MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How much of a row is masked.

    Attributes:
        probability: the fraction of the maskable tokens that is predicted, in (0, 1].
        whole_word: choose whole words (WordPiece only) instead of single pieces.
    """

    probability: float = 0.15
    whole_word: bool = False

    def __post_init__(self):
        check_types(self, "masking.")
        if not 0 < self.probability <= 1:
            raise InputError(f"masking.probability = {self.probability} must lie in (0, 1]")

    def positions(self, length: int) -> int:
        """P, the number of positions reserved for predictions in a row of `length` tokens."""
        return max(1, round(self.probability * length))


def mask_row(
    ids: Int[np.ndarray, "length"],
    segment_ids: Int[np.ndarray, "length"],
    *,
    config: MaskingConfig,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Corrupts a row; the draw depends on nothing but the row and the state of `rng`.

    Of the m maskable tokens (in a segment, and not [CLS], [SEP], [PAD] or [MASK]) exactly max(1, round(p m)) are
    chosen, none when m is 0; with `whole_word`, words are taken in random order while they fit in that number.

    Returns:
        `ids`: the corrupted row, int32[L]; `segment_ids`: as given;
        `masked_positions`, `masked_labels` int32[P] and `masked_weights` float32[P]: where to predict, the original
        ids, and 1 for the chosen positions, 0 for the rest of P = max(1, round(p L)).

    Raises:
        InputError: `whole_word` with a tokenizer that does not mark continuations.
    """
    maskable = segment_ids > 0
    for special in (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id):
        maskable &= ids != special
    candidates = np.flatnonzero(maskable)
    count = max(1, round(config.probability * len(candidates))) if len(candidates) else 0
    if config.whole_word:
        chosen = _choose_words(ids, candidates, count, tokenizer, rng)
    else:
        chosen = np.sort(rng.permutation(candidates)[:count])
    slots = config.positions(len(ids))
    positions, labels, weights = np.zeros(slots, np.int32), np.zeros(slots, np.int32), np.zeros(slots, np.float32)
    positions[: len(chosen)] = chosen
    labels[: len(chosen)] = ids[chosen]
    weights[: len(chosen)] = 1
    corrupted = _corrupt(ids, chosen, tokenizer, rng)
    masked = {"masked_positions": positions, "masked_labels": labels, "masked_weights": weights}
    return {"ids": corrupted, "segment_ids": segment_ids} | masked


def _corrupt(ids: np.ndarray, chosen: np.ndarray, tokenizer: Tokenizer, rng: np.random.Generator) -> np.ndarray:
    """Replaces the chosen ids by [MASK], by a random ordinary token, or by themselves."""
    specials = sorted((tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id))
    random_ids = rng.integers(0, tokenizer.vocab_size - len(specials), len(chosen), np.int32)
    for special in specials:  # ascending: each step over a special id leaves the draw uniform on the others
        random_ids += random_ids >= special
    draw = rng.random(len(chosen))
    kept_or_random = np.where(draw < MASK_SHARE + RANDOM_SHARE, random_ids, ids[chosen])
    corrupted = ids.copy()
    corrupted[chosen] = np.where(draw < MASK_SHARE, tokenizer.mask_id, kept_or_random)
    return corrupted


def _choose_words(
    ids: np.ndarray, candidates: np.ndarray, count: int, tokenizer: Tokenizer, rng: np.random.Generator
) -> np.ndarray:
    """Positions of words, a piece and the continuations right after it, in random order while they fit in `count`."""
    if tokenizer.is_continuation is None:
        raise InputError("whole-word masking needs a WordPiece tokenizer, whose pieces say that they continue a word")
    follows = np.diff(candidates, prepend=-2) == 1
    firsts = np.flatnonzero(~(tokenizer.is_continuation[ids[candidates]] & follows))
    sizes = np.diff(firsts, append=len(candidates))
    taken = np.zeros(len(firsts), bool)
    room = count
    order = rng.permutation(len(firsts))
    for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if size <= room:
            taken[word] = True
            room -= size
        if room == 0:
            break
    return candidates[np.repeat(taken, sizes)]
