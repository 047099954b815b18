"""Texts in, translations out: sentences of like lengths searched for together, on one device."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig, build_translator
from roformer_jax.tasks.beam_search import SearchConfig, beam_search
from roformer_jax.typing import Int, PyTree

MARGIN = 50  # tokens that a target may be longer than its source (Vaswani et al. 2017, section 6.1)
SHORTEST = 16  # tokens; sources are padded to this or to 2, 4, ... times it: few lengths to compile for
SENTENCES = 64  # searched for together


class Translations(NamedTuple):
    """Of some texts, in their order.

    Attributes:
      texts: the translations.
      tokens: how many were written, ends not counted.
    """

    texts: list[str]
    tokens: int


def source_ids(
    texts: Sequence[str], tokenizer: Tokenizer, model: RoFormerConfig, where: str
) -> list[Int[np.ndarray, "_"]]:
    """Token ids of each text, its end among them.

    Raises:
      InputError: a text that the model's learned positions do not reach; the message names its line in `where`.
    """
    sequences = [np.append(ids, tokenizer.sep_id).astype(np.int32) for ids in tokenizer.encode(texts)]
    for line, ids in enumerate(sequences, 1):
        try:
            model.check_length(len(ids))
        except InputError as error:
            raise InputError(f"{where}:{line}: {error}") from None
    return sequences


class Interpreter:
    """A model that translates."""

    def __init__(self, model: RoFormerConfig, params: PyTree, tokenizer: Tokenizer, search: SearchConfig):
        """Takes over parameters of `build_translation`, on the host or on one device."""
        self._model, self._tokenizer, self._search = model, tokenizer, search
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._translator = build_translator(model)

    def translate(self, texts: Sequence[str], where: str) -> Translations:
        """The translation of every text.

        Raises:
          InputError: as `source_ids`.
        """
        sources = source_ids(texts, self._tokenizer, self._model, where)
        found: dict[int, np.ndarray] = {}
        for members in of_like_lengths(sources):
            found |= dict(zip(members, self._search_for([sources[i] for i in members]), strict=True))
        targets = [found[i] for i in range(len(sources))]
        return Translations([self._tokenizer.decode(ids).strip() for ids in targets], sum(map(len, targets)))

    def _search_for(self, sources: list[np.ndarray]) -> list[np.ndarray]:
        """Ids of the best translation of each of at most `SENTENCES` sources."""
        length = SHORTEST
        while length < max(map(len, sources)):
            length *= 2
        length = self._within_positions(length)
        ids_BS = np.full((SENTENCES, length), self._tokenizer.pad_id, np.int32)
        lengths_B = np.zeros(SENTENCES, np.int32)
        for row, source in enumerate(sources):
            ids_BS[row, : len(source)], lengths_B[row] = source, len(source)
        longest = self._within_positions(length + MARGIN)
        tokenizer = self._tokenizer
        found = beam_search(
            self._translator, self._params, ids_BS, (np.arange(length)[None] < lengths_B[:, None]).astype(np.int32),
            np.where(lengths_B > 0, np.minimum(lengths_B + MARGIN, longest), 1).astype(np.int32),
            capacity=longest, config=self._search, start=tokenizer.cls_id, end=tokenizer.sep_id,
            never=(tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.mask_id),
        )  # fmt: skip
        tokens_BT, counts_B = np.asarray(found.tokens), np.asarray(found.lengths)
        return [tokens_BT[row, : counts_B[row]] for row in range(len(sources))]

    def _within_positions(self, length: int) -> int:
        """So many tokens, or as many as the model has positions for."""
        learned = self._model.position_encoding == "learned"
        return min(length, self._model.max_position_embeddings) if learned else length


def of_like_lengths(sources: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """The numbers of the sources, by length, at most `SENTENCES` at once."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for start in range(0, len(order), SENTENCES):
        yield order[start : start + SENTENCES]
