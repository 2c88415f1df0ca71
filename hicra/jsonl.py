"""JSON Lines, plain or gzip, streamed: one object a line, and an error that names the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


class JsonlError(ValueError):
    """A file that is not whole JSON Lines; the message names file, line and remedy."""


def iter_jsonl(path: Path | str) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) for each line of the file; blank lines are passed over.

    The file is read as it is consumed, so memory holds one line. A name that ends in .gz or content
    that starts like gzip is unpacked. Raises FileNotFoundError, or JsonlError for truncated or
    damaged gzip, invalid UTF-8, bad JSON (NaN and Infinity too), a line that is not an object, text
    that is not valid Unicode, and a file without any object.
    """
    path, found = Path(path), False
    for number, line in _lines(path):
        if line.strip():
            found = True
            yield number, _object(path, number, line)
    if not found:
        raise JsonlError(f"{path} is empty; it should hold one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give the path of a .jsonl or .jsonl.gz file")
    number = 0
    try:
        with gzip.open(path) if _is_gzip(path) else open(path, "rb") as stream:
            for line in stream:
                number += 1
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        why = f"the gzip data are truncated or damaged ({error}); fetch or write the file again"
        raise JsonlError(f"{path}, after line {number}: {why}") from error


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return path.suffix == ".gz" or stream.read(2) == b"\x1f\x8b"


def _object(path: Path, number: int, line: bytes) -> dict:
    try:
        record = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\u" in line:  # an escape can hold half a surrogate pair, which no UTF-8 file can
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not valid UTF-8; save the file as UTF-8"
        raise JsonlError(f"{path}, line {number}: {why}") from error
    except UnicodeEncodeError as error:
        why = "a \\u escape is half a surrogate pair; write the whole character"
        raise JsonlError(f"{path}, line {number}: {why}") from error
    except (ValueError, RecursionError) as error:
        why = f"this is not JSON ({error}); each line must be one whole object"
        raise JsonlError(f"{path}, line {number}: {why}") from error
    if not isinstance(record, dict):
        why = f"this is a {type(record).__name__}, not an object; write {{...}}"
        raise JsonlError(f"{path}, line {number}: {why}")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
