"""Files: JSON Lines with errors that name the line, hashes, atomic writes, and where shipped data lies."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn, cast

from hicra.errors import HicraError, MissingError, MissingExtraError

PACKAGE = Path(__file__).parent
GZIP, BZIP2, ZSTD = rb"\x1f\x8b", rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", rb"\x28\xb5\x2f\xfd"  # how they start
AS_JSONL = "write it as JSON Lines, for example by pandas: frame.to_json(path, orient='records', lines=True)"
# How files of other kinds start, what they are, and what would be right.
OTHER_FORMATS = (
    (b"PAR1", "a parquet file", AS_JSONL),
    (b"ARROW1", "an Arrow file", AS_JSONL),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or export it as JSON Lines"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it, or compress it by gzip"),
    (b"SQLite", "an SQLite database", "export the table as JSON Lines"),
    (b"\x89HDF", "an HDF5 file", AS_JSONL),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
)


def data_root() -> Path:
    """The folder of what ships, by name. Paths of the user's own are never looked for in it."""
    inside = PACKAGE / "_data"
    return inside if inside.is_dir() else PACKAGE.parent / "data"


def study_data(name: str) -> Path:
    """What the study alone needs of the shipped data. MissingError where it is not: in an installed wheel."""
    path = data_root() / name
    if not path.exists():
        raise MissingError(
            f"{path.name} is in the repository, not in the installed package; run this from a clone"
        )
    return path


def check_file(path: Path) -> None:
    """HicraError where no file could be written at `path`, before the work that would fill it."""
    if path.is_dir():
        raise HicraError(f"{path} is a folder; name a file in it")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """HicraError where no folder could be made at `path`, or nothing written into it."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise HicraError(f"{there} is a file, so {path} cannot be a folder; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise HicraError(f"{there} is read-only; name another place than {path}")


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
    that starts like gzip, bzip2 or zstd is unpacked; a byte order mark is passed over. Raises MissingError,
    or JsonlError for another kind of file, truncated or damaged compression, invalid UTF-8, bad JSON (NaN and
    Infinity too), a line that is no object, text that is not valid Unicode, and a file without any object.
    """
    path, found = Path(path), False
    for number, line in _lines(path):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            found = True
            yield number, _object(path, number, line)
    if not found:
        raise JsonlError(f"{path} is empty; it should hold one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    _refuse_others(path)
    number = 0
    try:
        with unpacked(path) as stream:
            for line in stream:
                number += 1
                yield number, line
    except (EOFError, OSError, zlib.error) as error:
        raise JsonlError(f"{path}, after line {number}: {damage(path, error)}") from error


def compression(path: Path | str) -> str:
    """ "gzip", "bzip2" or "zstd", by how the file starts, else by a name that ends in .gz; "" for none."""
    with open(path, "rb") as stream:
        head = stream.read(10)
    starts = {"gzip": GZIP, "bzip2": BZIP2, "zstd": ZSTD}
    found = (kind for kind, start in starts.items() if re.match(start, head))
    return next(found, "gzip" if str(path).endswith(".gz") else "")


def damage(path: Path | str, error: Exception) -> str:
    """What to say where reading a file broke off."""
    kind = ""
    with suppress(OSError):  # which may be what it broke off with
        kind = compression(path)
    told = f"the {kind} data are truncated or damaged" if kind else "it could not be read"
    return f"{told} ({error}); fetch or write the file again"


def unpacked(path: Path | str) -> IO[bytes]:
    """A file's content as a binary stream; gzip, bzip2 and zstd are unpacked, whatever its name."""
    kind = compression(path)
    if kind == "gzip":
        return cast(IO[bytes], gzip.open(path))
    if kind == "bzip2":
        return cast(IO[bytes], bz2.open(path))
    if not kind:
        return open(path, "rb")
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(f"reading {path}", "pyarrow", "measure") from error
    return io.BufferedReader(pyarrow.CompressedInputStream(open(path, "rb"), "zstd"))  # noqa: SIM115


def _refuse_others(path: Path) -> None:
    """JsonlError for what is no file, or of a kind that is known by its first bytes."""
    if path.is_dir():
        held = sorted(p.name for p in path.iterdir())
        raise JsonlError(
            f"{path} is a folder ({', '.join(held[:3]) or 'empty'}); give one .jsonl file, or several"
        )
    if not path.is_file():
        raise MissingError(f"{path} is not a file; give the path of a JSON Lines file, compressed or not")
    with open(path, "rb") as stream:
        head = stream.read(8)
    for start, kind, remedy in OTHER_FORMATS:
        if head.startswith(start):
            raise JsonlError(f"{path} is {kind}, not JSON Lines; {remedy}")


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
        why = f"this is a {type(record).__name__}, not an object; write one {{...}} a line"
        raise JsonlError(f"{path}, line {number}: {why}")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
