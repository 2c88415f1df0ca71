"""Files as users give them: read where they can be, refused by what they are where not."""

import bz2
import json
import lzma

import pandas as pd
import pytest

from hicra.errors import HicraError, MissingError
from hicra.files import JsonlError, check_file, check_folder, damage, iter_jsonl, unpacked

ROWS = [{"problem": "caf\u00e9"}, {"problem": "b"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINES, encoding="utf-8-sig")
    assert [row for _, row in iter_jsonl(path)] == ROWS


def test_what_bzip2_wrote_is_read_and_named_where_it_is_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(bz2.compress(LINES.encode()))
    assert [row for _, row in iter_jsonl(path)] == ROWS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(JsonlError, match="the bzip2 data are truncated or damaged"):
        list(iter_jsonl(path))


def test_how_a_file_starts_tells_its_compression_before_its_name(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(bz2.compress(LINES.encode()))
    assert [row for _, row in iter_jsonl(path)] == ROWS
    table = tmp_path / "a.csv"
    table.write_text("BZhour,step\n1,2\n")  # no bzip2
    with unpacked(table) as stream:
        assert stream.read() == table.read_bytes()


def test_what_cannot_be_opened_is_told_as_it_is(tmp_path):
    told = damage(tmp_path / "gone", PermissionError("not yours"))
    assert told == "it could not be read (not yours); fetch or write the file again"


def test_other_formats_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lzma.compress(LINES.encode()))
    with pytest.raises(JsonlError, match="a.jsonl is compressed by xz, not JSON Lines; unpack it"):
        list(iter_jsonl(path))
    path.write_text(LINES, encoding="utf-16")
    with pytest.raises(JsonlError, match="text in UTF-16, not JSON Lines; save it as UTF-8"):
        list(iter_jsonl(path))
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(JsonlError, match="a.parquet is a parquet file, not JSON Lines; .*to_json"):
        list(iter_jsonl(tmp_path / "a.parquet"))
    path.write_text(json.dumps(ROWS))
    with pytest.raises(JsonlError, match="this is a list, not an object; write one"):
        list(iter_jsonl(path))


def test_a_folder_is_refused_by_what_it_holds(tmp_path):
    for step in range(5):
        (tmp_path / f"{step}.jsonl").write_text(LINES)
    with pytest.raises(JsonlError, match=r"is a folder \(0.jsonl, 1.jsonl, 2.jsonl\); give one .jsonl file"):
        list(iter_jsonl(tmp_path))
    with pytest.raises(MissingError, match="is not a file"):
        list(iter_jsonl(tmp_path / "none"))


def test_places_for_output_are_tried_without_making_them(tmp_path):
    check_file(tmp_path / "a" / "b" / "c.json")
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HicraError, match="is a folder; name a file in it"):
        check_file(tmp_path)
