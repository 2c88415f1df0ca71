"""A corpus in shards, one a source: counted where they are read, with the counts of one machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hicra.files import sha256
from hicra.lexicon.corpus import Corpus, Repeats
from hicra.lexicon.ngram_counts import EncodedCorpus, as_sha256
from hicra.spread import Here, OnRay


class Told(NamedTuple):
    """What of a shard must be known to all: of each solution what repeats are known by, and its hash."""

    keys: list[list[bytes]]
    digests: list[int]
    dropped: Counter[str]
    n_words: int


class ShardedCorpus:
    """To `ngram_counts` what EncodedCorpus is. Repeats are found over all shards, in their order.

    Afterwards `corpus` has its `kept` and `dropped`, as if it had been iterated. Raises what that raises.
    """

    def __init__(self, corpus: Corpus, sizes: tuple[int, ...], spread: Here | OnRay) -> None:
        self.sizes, self.spread = sizes, spread
        sources = [
            (replace(corpus, sources=[source]), number) for number, source in enumerate(corpus.sources)
        ]
        self.parts, told = spread.keep(encoded, sources, sizes)
        words = [shard.n_words for shard in told]
        repeats, self.digest, self.n = Repeats(), 0, 0
        corpus.dropped = sum((shard.dropped for shard in told), Counter())
        masks = []
        for shard in told:
            reasons = [repeats(keys) for keys in shard.keys]
            corpus.dropped.update(reason for reason in reasons if reason)
            masks.append(np.array([reason is None for reason in reasons], bool))  # (solutions,)
            self.digest += sum(d for d, reason in zip(shard.digests, reasons, strict=True) if reason is None)
            self.n += int(masks[-1].sum())
        lacking = [i for i, mask in enumerate(masks) if not mask.all()]
        parts, left = spread.keep(without, [(self.parts[i], masks[i]) for i in lacking])
        for i, part, n_words in zip(lacking, parts, left, strict=True):
            self.parts[i], words[i] = part, n_words
        corpus.kept, self.n_words = self.n, sum(words)

    @property
    def sha256(self) -> str:
        return as_sha256(self.digest)

    def __len__(self) -> int:
        return self.n

    def total(self, function: Callable, merge: Callable, *arguments) -> Any:
        """function(part, *arguments), merged over the shards in order."""
        return self.spread.reduce(function, merge, [(part,) for part in self.parts], *arguments)


def encoded(corpus: Corpus, number: int, sizes: tuple[int, ...]) -> tuple[EncodedCorpus, Told]:
    """The solutions of a shard, repeated ones too."""
    keys: list[list[bytes]] = []
    digests: list[int] = []

    def texts():
        for text, own in corpus.candidates():
            keys.append(own)
            digests.append(int(sha256(text), 16))
            yield text

    part = EncodedCorpus(texts(), sizes, number)
    return part, Told(keys, digests, corpus.dropped, part.n_words)


def without(part: EncodedCorpus, wanted: np.ndarray) -> tuple[EncodedCorpus, int]:
    """A shard without its repeats, and its words."""
    kept = part.keep(wanted)
    return kept, kept.n_words
