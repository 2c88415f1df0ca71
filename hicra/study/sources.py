"""Where a run's material comes from: shipped by name, on the Hub, or at a path of the user's own.

Names and paths are two name spaces. A name means what ships with the study, whatever lies in the working
directory; write ./NAME for a file of your own that is called like it. A path becomes absolute where it is
given, so that it means the same in every process and notebook.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import platformdirs
import yaml

from hicra.errors import HicraError, MissingError
from hicra.files import data_root
from hicra.lexicon.corpus import HUB
from hicra.lexicon.lexicon import shipped

PACKAGE = "package:"  # a base's prefix for GGUF weights that are installed as a package
MADE = ("families", "families-even")  # problem sets that are made, not read
SAME, ORACLE = "same", "oracle"  # what may stand for a credit lexicon


def cache_root() -> Path:
    """HICRA_CACHE, else `hicra` in the user's cache folder. HicraError where it is not an absolute path."""
    given = os.environ.get("HICRA_CACHE")
    root = Path(given) if given else platformdirs.user_cache_path("hicra")
    if not root.is_absolute():
        raise HicraError(f"HICRA_CACHE={given!r} is another folder for every process; give an absolute path")
    return root


@cache
def problem_set_records() -> dict[str, dict]:
    """Every entry of `data/problem_sets.yaml`, by name."""
    return yaml.safe_load((data_root() / "problem_sets.yaml").read_text())


def problem_set_names() -> list[str]:
    return [*MADE, *problem_set_records()]


def base_names() -> list[str]:
    """The base policies in the study's data."""
    folders = (path.parent for path in data_root().glob("*/*/config.json"))
    return sorted(folder.relative_to(data_root()).as_posix() for folder in folders)


def set_parts(source: str | Sequence[str]) -> list[str]:
    """The problem sets that a source names: one, a list of several, or shipped names joined by "+"."""
    if not isinstance(source, str):
        return list(source)
    parts = source.split("+")
    return parts if set(parts) <= set(problem_set_records()) else [source]


def set_title(source: str | Sequence[str]) -> str:
    """What problem sets are called where people read it: names, and files without their folders."""
    return "+".join(Path(part).name for part in set_parts(source))


def problem_sets(given: str | Sequence[str]) -> str | tuple[str, ...]:
    """Problem sets, located: one source, shipped names joined by "+", or several sources."""
    parts = tuple(map(problem_set, set_parts(given)))
    if set(parts) <= set(problem_set_names()):
        return "+".join(parts)
    return parts[0] if len(parts) == 1 else parts


def problem_set(given: str) -> str:
    """One problem set, located: a shipped name, a source on the Hub, or a file's absolute path."""
    remedy = "; give several sets as a list" if "+" in given else ""
    return _located(given, "problem set", problem_set_names(), os.path.isfile, remedy)


def benchmarks(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(problem_set, given))


def lexicon(given: str) -> str:
    return _located(given, "lexicon", shipped(), os.path.isfile)


def credit_lexicon(given: str) -> str:
    return given if given in (SAME, ORACLE) else lexicon(given)


def base(given: str) -> str:
    """A base policy, located: a shipped name, package:NAME, hub:NAME@COMMIT, or a folder's absolute path."""
    return _located(given, "base", base_names(), os.path.isdir)


def _located(
    given: str, kind: str, names: Sequence[str], there: Callable[[str], bool], remedy: str = ""
) -> str:
    """The name, the Hub's or a package's address as it is, else the absolute path of what is there.

    Raises MissingError where it is neither, with the names that there are.
    """
    if given in names or given.startswith((HUB, PACKAGE)):
        return given
    path = os.path.expanduser(given)
    if there(path):
        return os.path.realpath(path)
    raise MissingError(
        f"no {kind} {given!r}: nothing is at {os.path.abspath(path)!r}; {did_you_mean(given, names)}"
        f"the names are: {', '.join(names) or 'none'}{remedy}"
    )


def did_you_mean(given: str, names: Sequence[str]) -> str:
    """A question after the nearest of `names`; empty where none is near."""
    near = get_close_matches(str(given), names, n=1)
    return f"did you mean {near[0]!r}? " if near else ""
