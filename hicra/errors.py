"""What a user can mend: one exception class, which the command line prints as one line.

Anything else keeps its traceback, because it is a fault of the program.
"""

from __future__ import annotations


class HicraError(ValueError):
    """Wrong input or a wrong state of files; the message names the value and the remedy."""


class MissingError(HicraError, FileNotFoundError):
    """A file, folder or package that is not there; the message says how to get it."""
