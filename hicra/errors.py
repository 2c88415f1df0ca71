"""What a user can mend: one exception class, which the command line prints as one line.

Anything else keeps its traceback, because it is a fault of the program.
"""

from __future__ import annotations


class HicraError(ValueError):
    """Wrong input or a wrong state of files; the message names the value and the remedy."""


class MissingExtraError(HicraError, ImportError):
    """A package of an extra that is not installed; the message names the extra."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}: pip install 'hicra[{extra}]'")


class MissingError(HicraError, FileNotFoundError):
    """A file, folder or package that is not there; the message says how to get it."""
