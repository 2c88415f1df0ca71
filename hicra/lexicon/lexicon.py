"""The lexicon of Strategic Grams (SGs): load, save, find (paper, sections 3 and A.2).

A gram is kept as its normalised words joined by one blank ("wait, no" is "wait no"), which is
also how it is shown. Shipped lexicons are data/lexicons/NAME.json.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from hicra.errors import HicraError, MissingError
from hicra.files import canonical, data_root, sha256, write_atomic
from hicra.words import normalise, segments

FORMAT = 1


class LexiconError(HicraError):
    """A lexicon that cannot be used; the message names the file or entry and the remedy."""


class Match(NamedTuple):
    """One occurrence of a gram: character offsets into the text searched."""

    start: int
    end: int
    gram: str


@dataclass(frozen=True)
class Lexicon:
    """Strategic Grams with their clusters; make one by `load` or `from_grams`.

    `grams` is sorted and free of duplicates. `clusters` maps each gram to the id of its semantic
    cluster (each gram its own where none is known). `provenance` is any JSON object that says
    where the lexicon comes from. `kinds` maps each gram to what it does ("checking", "branching"), or
    is empty; it serves wherever clusters do, for instance `entropy.cluster_counts(counts, lexicon.kinds)`.
    Two lexicons with the same grams and clusters have the same `sha256`, whatever else they hold.
    """

    grams: tuple[str, ...]
    clusters: Mapping[str, int] = field(hash=False)
    name: str = "unnamed"
    provenance: Mapping = field(default_factory=dict, hash=False)
    kinds: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.grams != tuple(sorted({" ".join(normalise(gram)) for gram in self.grams})):
            raise LexiconError("grams must be normalised and sorted; use Lexicon.from_grams")
        if not self.grams:
            raise LexiconError(f"lexicon {self.name!r} is empty; it needs at least one gram")
        if set(self.clusters) != set(self.grams):
            odd = min(set(self.clusters) ^ set(self.grams))
            raise LexiconError(f"lexicon {self.name!r}: {odd!r} is not in both grams and clusters")
        if self.kinds and set(self.kinds) != set(self.grams):
            odd = min(set(self.kinds) ^ set(self.grams))
            raise LexiconError(f"lexicon {self.name!r}: {odd!r} is not in both grams and kinds")

    @classmethod
    def from_grams(
        cls,
        grams: Iterable[str],
        name: str = "unnamed",
        *,
        clusters: Mapping[str, int] | None = None,
        provenance: Mapping | None = None,
    ) -> Lexicon:
        """A lexicon of these entries, normalised; what is equal after that is one gram.

        `clusters` maps entries (as given) to cluster ids; without it each gram is its own cluster.
        Of entries that become one gram the first in the given order settles the cluster. Raises
        LexiconError (a ValueError) for an empty list, an entry that is not a string, has no word, or
        holds a boundary between its words, and for a cluster id that is missing or no integer.
        """
        if isinstance(grams, str):
            raise LexiconError(f"grams must be a list of strings, not the string {grams!r}")
        merged: dict[str, int | None] = {}
        for entry in grams:
            merged.setdefault(_gram(entry, name), _cluster(entry, clusters, name))
        ids = {g: i if (known := merged[g]) is None else known for i, g in enumerate(sorted(merged))}
        return cls(tuple(sorted(merged)), ids, name, dict(provenance or {}))

    @classmethod
    def load(cls, source: Path | str) -> Lexicon:
        """The lexicon in a JSON file, or the shipped one of that name ("listing1").

        A plain list of phrases is a lexicon too: a .txt file with one a line, or a JSON list of strings.
        Raises MissingError for what is neither, naming the shipped ones; LexiconError for a file that is
        not a lexicon.
        """
        path = _locate(source)
        record = _read(path)
        try:
            if isinstance(record, list):
                return cls.from_grams(record, path.stem, provenance={"source": path.name})
            _check_record(record)
            clusters = {entry["gram"]: entry["cluster"] for entry in record["grams"]}
            names = [entry["gram"] for entry in record["grams"]]
            lexicon = cls.from_grams(
                names, record["name"], clusters=clusters, provenance=record["provenance"]
            )
            kinds = {_gram(e["gram"], record["name"]): e["kind"] for e in record["grams"] if "kind" in e}
            return replace(lexicon, kinds=kinds)
        except LexiconError as error:
            raise LexiconError(f"{path}: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write the JSON file (atomically); `load` gives an equal lexicon back."""
        record: dict = {
            "format": FORMAT,
            "name": self.name,
            "provenance": dict(self.provenance),
            "grams": [
                {"gram": gram, "cluster": self.clusters[gram]}
                | ({"kind": self.kinds[gram]} if self.kinds else {})
                for gram in self.grams
            ],
        }
        head = json.dumps({**record, "grams": None}, ensure_ascii=False, allow_nan=False, indent=1)
        lines = ",\n".join("  " + canonical(entry) for entry in record["grams"])
        write_atomic(Path(path), head.replace('"grams": null', f'"grams": [\n{lines}\n ]') + "\n")

    def __len__(self) -> int:
        return len(self.grams)

    @cached_property
    def sha256(self) -> str:
        """Hash of grams and clusters alone."""
        return sha256(canonical(sorted(self.clusters.items())))

    def find(self, text: str) -> list[Match]:
        """Every occurrence of every gram, overlapping ones too, by start, then end."""
        return [
            Match(run[i].start, run[i + n - 1].end, gram)
            for run in segments(text)
            for i, word in enumerate(run)
            for n in self._lengths.get(word.text, ())
            if (gram := " ".join(w.text for w in run[i : i + n])) in self.clusters and i + n <= len(run)
        ]

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """First word -> the lengths, in words, of the grams that start with it."""
        lengths: dict[str, set[int]] = {}
        for gram in self.grams:
            first, *rest = gram.split(" ")
            lengths.setdefault(first, set()).add(1 + len(rest))
        return {first: sorted(found) for first, found in lengths.items()}

    def drop(self, fraction: float, seed: int) -> Lexicon:
        """Without a random share of the grams (Fig. 7, 8 drop 0.3); the rest keep their clusters.

        Drops round(fraction * len) grams. Raises ValueError unless 0 <= fraction < 1 and at least
        one gram is left.
        """
        n_left = len(self) - round(fraction * len(self)) if 0 <= fraction < 1 else 0
        if n_left < 1:
            raise HicraError(
                f"dropping the fraction {fraction} of {len(self)} grams leaves none; use 0 <= f < 1"
            )
        left = tuple(sorted(random.Random(seed).sample(self.grams, n_left)))
        how = {"dropped_from": self.name, "fraction": fraction, "seed": seed}
        return replace(
            self,
            grams=left,
            clusters={gram: self.clusters[gram] for gram in left},
            kinds={gram: self.kinds[gram] for gram in left if self.kinds},
            name=f"{self.name}-drop{fraction:g}-seed{seed}",
            provenance={**self.provenance, "drop": how},
        )


def card(lexicon: Lexicon) -> str:
    """What a lexicon is, as Markdown: source, licence, counts, settings and hash."""
    facts = {k: v for k, v in lexicon.provenance.items() if k != "cluster_table"}
    lines = [f"## {lexicon.name}", "", f"- grams: {len(lexicon)}, sha256 `{lexicon.sha256}`"]
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {canonical(v) if isinstance(v, dict) else v}" for k, v in value.items())
        lines.append(f"- {key}: {value}")
    return "\n".join(lines) + "\n"


def shipped() -> list[str]:
    """Names of the lexicons that come with the study."""
    return sorted(path.stem for path in (data_root() / "lexicons").glob("*.json"))


def _locate(source: Path | str) -> Path:
    names = ", ".join(shipped()) or "none"
    if source in shipped():  # whatever is called so in the working directory: write ./NAME for that
        return data_root() / "lexicons" / f"{source}.json"
    if Path(source).is_file():
        return Path(source)
    raise MissingError(f"no lexicon file {str(source)!r}; shipped lexicons: {names}")


def _read(path: Path) -> dict | list[str]:
    """What a lexicon file holds: a record, or a plain list of phrases."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return (
            [line for line in text.splitlines() if line.strip()]
            if path.suffix == ".txt"
            else json.loads(text)
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        remedy = "restore or rebuild it; a plain list of phrases, one a line, is read from a .txt file"
        raise LexiconError(f"{path} is not JSON ({error}); {remedy}") from error


def _gram(entry, name: str) -> str:
    if not isinstance(entry, str):
        raise LexiconError(f"lexicon {name!r}: entry {entry!r} must be a string")
    try:
        return " ".join(normalise(entry))
    except ValueError as error:
        raise LexiconError(f"lexicon {name!r}: {error}") from error


def _cluster(entry: str, clusters: Mapping[str, int] | None, name: str) -> int | None:
    if clusters is None:
        return None
    if type(cluster := clusters.get(entry)) is not int:
        raise LexiconError(
            f"lexicon {name!r}: entry {entry!r} has cluster {cluster!r}; give each an integer id"
        )
    return cluster


def _check_record(record) -> None:
    """The shape of a lexicon file; what its entries hold is checked by from_grams."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise LexiconError(f"lexicon format {found!r} is unknown; this reads {FORMAT}")
    for key, kind in {"name": str, "provenance": dict, "grams": list}.items():
        if not isinstance(record.get(key), kind):
            raise LexiconError(f"{key!r} must be a {kind.__name__}, not {record.get(key)!r}")
    for number, entry in enumerate(record["grams"]):
        if not isinstance(entry, dict) or not {"gram", "cluster"} <= entry.keys():
            raise LexiconError(f"grams[{number}] is {entry!r}; it needs gram and cluster")
        if not isinstance(entry["gram"], str):
            raise LexiconError(f"grams[{number}] has gram {entry['gram']!r}; it must be a string")
        if not isinstance(entry.get("kind", ""), str):
            raise LexiconError(f"grams[{number}] has kind {entry['kind']!r}; it must be a string")
