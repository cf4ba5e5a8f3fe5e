"""The same rows come out of every form of a table, and each kind of damage is one line."""

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from arrol.errors import DataError
from arrol.records import tables as module
from arrol.records.tables import table_rows, table_stem, table_suffix

ROWS = [{"prompt": "2 + 2?", "completion": "It is\n4, or \u221a16"}, {"prompt": "half\t?", "completion": None}]


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


def separated(delimiter):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


FORMS = {
    "a.jsonl": (lines(), "line"),
    "lines.json": (lines(), "line"),
    "blank.jsonl": (lines().replace("\n", "\r\n\r\n"), "line"),
    "list.json": (json.dumps(ROWS), "row"),
    "indented.jsonl": (json.dumps(ROWS, indent=4), "row"),
    "one-per-line.jsonl": (json.dumps(ROWS).replace("}, ", "},\n"), "row"),
    "a.csv": (separated(","), "row"),
    "a.TSV": (separated("\t"), "row"),
}


def read(path):
    return list(table_rows(path, field="samples"))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_the_same_rows(tmp_path, name, compressed):
    text, unit = FORMS[name]
    path = tmp_path / (f"{name}.gz" if compressed else name)
    content = b"\xef\xbb\xbf" + text.encode()
    path.write_bytes(gzip.compress(content) if compressed else content)
    found = read(path)
    assert [row for _, row in found] == ROWS
    assert [place.split("' ")[1].split()[0] for place, _ in found] == [unit, unit]


def test_one_object_is_one_row_however_it_is_indented(tmp_path):
    for indent in (None, 2):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(ROWS[0], indent=indent), "utf-8")
        assert [row for _, row in read(path)] == ROWS[:1]


@pytest.mark.parametrize("indent", [None, 4])
def test_rows_by_index_keep_it(tmp_path, indent):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"0": ROWS[0], "1": ROWS[1]}, indent=indent), "utf-8")
    assert [row for _, row in read(path)] == [{"idx": "0", **ROWS[0]}, {"idx": "1", **ROWS[1]}]


def test_lists_in_cells_of_csv(tmp_path):
    path = tmp_path / "a.csv"
    messages = [{"role": "user", "content": "q"}]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "completions", "answer"])
        writer.writerow([json.dumps(messages), '["a", "b"]', "[1, 2]"])
        writer.writerow(["[0, 1) or [1, 2]", "[not a list]", "[" * 100_000 + "]"])
    (_, first), (_, second) = read(path)
    assert first == {"prompt": messages, "completions": ["a", "b"], "answer": "[1, 2]"}
    assert (second["prompt"], second["completions"]) == ("[0, 1) or [1, 2]", "[not a list]")


def test_a_completion_may_be_long(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("completion\n" + "x" * 200_000 + "\n", "utf-8")
    assert len(read(path)[0][1]["completion"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,a\n1,2\n", "': two columns are named 'a'; rename one of them"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "' row 2 has 3 cells for 2 columns; quote cells with separators"),
        ("a.csv", b"a,b\n1\n", "row 1 has 1 cells for 2 columns"),
        ("a.csv", b"a\n1\n\xff\n", "is not UTF-8; convert the file to UTF-8"),
        ("a.jsonl.gz", b"not compressed", "cannot be read (Not a gzipped file (b'no')); give a file, or a folder"),
        ("a.jsonl.gz", gzip.compress(lines().encode())[:-9], "cannot be read (Compressed file ended"),
        ("a.jsonl", b'[\n{"a": 1},\n{"a" 2}\n]', "' is not JSON (Expecting ':' delimiter: line 3 column 6"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "' line 2 is a list; every line must be an object with named columns"),
        ("a.json", b'["x"]', "' row 1 is a text; every row must be an object with named columns"),
    ],
)
def test_damage_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith("samples: '")
    assert "\n" not in str(caught.value)


def test_names_without_their_suffixes():
    for name in ("test.jsonl", "test.jsonl.gz", "test.JSONL.GZ"):
        assert (table_stem(Path("folder") / name), table_suffix(Path(name))) == ("test", ".jsonl")
    assert table_suffix(Path("no")) == ""


ZEROS = gzip.compress(bytes(2**20), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", ZEROS, "' line 1 is longer than 0 MiB; write one row per line, or several files"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n') + ZEROS, "' line 2 is longer than 0 MiB"),
        ("a.json.gz", gzip.compress(b"[\n" + b" \n" * 2**19), "' is longer than 0 MiB; write one row per line"),
        ("a.csv.gz", ZEROS, "' line 1 is longer than 0 MiB"),
        (
            "a.csv.gz",
            gzip.compress(b'a,b\n"' + b"x\n" * 2**19),
            "' row 1 cannot be read (field larger than field limit",
        ),
    ],
)
def test_a_small_file_that_unpacks_to_a_large_row_is_refused(tmp_path, monkeypatch, name, content, message):
    for limit in ("MAX_VALUE", "MAX_CELL"):
        monkeypatch.setattr(module, limit, 2**18)
    monkeypatch.setattr(module, "CHUNK", 2**12)
    path = tmp_path / name
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in str(caught.value)
    assert peak < 8 * 2**18  # a buffer of csv has four bytes per character, and is doubled when it grows


def test_a_file_that_is_large_itself_is_read(tmp_path, monkeypatch):
    """The limit is for what a small file unpacks to."""
    for limit in ("MAX_VALUE", "CHUNK"):
        monkeypatch.setattr(module, limit, 8)
    path = tmp_path / "a.json"
    for indent in (None, 4):
        path.write_text(json.dumps(ROWS, indent=indent))
        assert [row for _, row in read(path)] == ROWS
    path.write_text(lines())
    assert [row for _, row in read(path)] == ROWS


def test_lines_are_read_whole_whatever_the_size_of_a_part(tmp_path, monkeypatch):
    for part in range(1, 40):
        monkeypatch.setattr(module, "CHUNK", part)
        for name, (text, _) in FORMS.items():
            path = tmp_path / name
            path.write_bytes(text.encode())
            assert [row for _, row in read(path)] == ROWS, (part, name)


def test_a_parquet_file_of_a_huge_row_or_a_time_beyond_python_s_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": pa.array([2**62], pa.duration("s"))}), path)
    with pytest.raises(DataError, match=r"^samples: '.*a.parquet' cannot be read \(.*\); write the Parquet file again"):
        read(path)
    monkeypatch.setattr(module, "MAX_VALUE", 2**12)
    parquet.write_table(pa.table({"a": ["x" * 2**20]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**12
    with pytest.raises(DataError, match=r"a.parquet': a row is longer than 0 MiB"):
        read(path)


LIMITS = r"' *: it unpacks to more than 0 MiB, 200 times its size; give it unpacked, as JSONL$"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", b'{"a": 1}\n' * 2**14),
        ("a.csv.gz", b"a,b\n" + b"1,2\n" * 2**15),
        ("a.jsonl.gz", (b'{"a": "' + b"x" * 2**15 + b'"}\n') * 8),
    ],
)
def test_rows_that_fill_the_memory_from_a_tiny_packed_file_are_refused_on_the_way(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(module, "MAX_UNPACKED", 2**16)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content))
    assert len(content) > 200 * path.stat().st_size
    with pytest.raises(DataError, match=LIMITS):
        list(table_rows(path, field="samples"))
    plain = tmp_path / name.removesuffix(".gz")
    plain.write_bytes(content)
    assert list(table_rows(plain, field="samples")), "the plain file is as large as it looks"


def test_a_parquet_file_whose_dictionary_is_repeated_is_refused_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED", 2**16)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": ["x" * 2**14] * 2**10}), path, compression="zstd", row_group_size=2**10)
    assert path.stat().st_size < 2**12
    with pytest.raises(DataError, match=LIMITS):
        list(table_rows(path, field="samples"))


def test_rows_of_parquet_are_read_few_at_a_time_where_a_cell_may_be_large(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BATCH", 2**15)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": [str(n) * 2**14 for n in range(3)]}), path)
    seen, to_pylist = [], pa.RecordBatch.to_pylist

    class Batch:
        def __init__(self, batch):
            self.nbytes, self.to_pylist = batch.nbytes, lambda: seen.append(batch.num_rows) or to_pylist(batch)

    original = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile, "iter_batches", lambda file, **options: map(Batch, original(file, **options))
    )
    rows = list(table_rows(path, field="samples"))
    assert [place.rpartition(" ")[2] for place, _ in rows] == ["1", "2", "3"]
    assert max(seen) == 1
