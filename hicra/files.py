"""Files: JSON Lines with errors that name the line, hashes, atomic writes, and where shipped data lies."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from hicra.errors import HicraError, MissingError

PACKAGE = Path(__file__).parent


def data_root() -> Path:
    inside = PACKAGE / "_data"
    return inside if inside.is_dir() else PACKAGE.parent / "data"


def data_path(name: Path | str) -> Path:
    """A path given by the user, else what has that name in the study's data."""
    given = Path(name)
    return given if given.exists() else data_root() / name


def sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path, pattern: str = "*") -> str:
    """One hash over the folder's files, by relative name; their order on disk does not matter."""
    files = sorted(p for p in Path(folder).rglob(pattern) if p.is_file())
    return sha256("\n".join(f"{p.relative_to(folder)} {file_sha256(p)}" for p in files))


def canonical(value) -> str:
    """JSON with sorted keys: the same text whatever the order of a dict's keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class JsonlError(HicraError):
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
        raise MissingError(f"{path} is not a file; give the path of a .jsonl or .jsonl.gz file")
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
