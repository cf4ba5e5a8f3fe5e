"""Rows of a table: JSONL, a JSON list, CSV, TSV or Parquet; each but Parquet also compressed, as ``.gz``.

The name tells JSON, CSV, TSV and Parquet apart. Whether JSON is one row per line or one list is read from the content:
an indented list in a ``.jsonl`` and lines in a ``.json`` are read too. An object whose keys are all whole numbers is a
table as OpenCompass writes it; each key becomes the cell ``idx`` of its row.

Cells of CSV and TSV are texts. An empty cell is None. A cell that is a JSON list becomes that list where it holds
objects (chat messages) or where the name of its column ends in ``s``.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, AnyStr

from arrol.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MAX_VALUE = 2**28
"""Bytes of a line of JSON, or of a value over several lines, where the file itself is smaller: a ``.gz`` of a mebibyte
may hold a gibibyte of zeros. 256 completions of 32,000 tokens with their log-probabilities are 170 MB."""
MAX_UNPACKED, MAX_RATIO = 2**26, 200
"""Bytes that a ``.gz`` or Parquet file may become, and how many times its size where that is more. Rows of real
completions unpack to far less; a file of three kilobytes made for it becomes gibibytes."""
MAX_BATCH = 2**30
"""Bytes of Parquet rows that are read at a time, if each cell is as large as the dictionary of its column."""
CHUNK = 2**20
"""Characters or bytes of a line that are read at a time."""
MAX_CELL = 2**26
"""Characters of a line of CSV, and of a cell over several; Python's own limit is shorter than a long completion."""


class _Unreadable(Exception):
    """Place, what is wrong and what to do; becomes a DataError that begins with field and file."""


def table_suffix(path: Path) -> str:
    """The suffix in lower case, without ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def table_stem(path: Path) -> str:
    """The name without its suffix and without ``.gz``."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).stem


def table_rows(path: Path, *, field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row with its place, for example ``'a.jsonl' line 3``; ``field`` begins the error of a damaged file."""
    shown = repr(str(path))
    try:
        for place, row in _rows(path):
            if not isinstance(row, Mapping):
                unit = place.split()[0]
                raise _Unreadable(f"{place} is {_kind(row)}; every {unit} must be an object with named columns")
            yield shown + place, row
    except _Unreadable as error:
        raise DataError(f"{field}: {shown}{error}") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0][:100]
        raise DataError(f"{field}: {shown} cannot be read ({reason}); give a file, or a folder of files") from None


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows with their place in the file, such as `` line 3``."""
    suffix = table_suffix(path)
    if suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    is_packed = path.suffix.lower() == ".gz"
    whole = _unpacked_limit(path) if is_packed else sys.maxsize
    with gzip.open(path) if is_packed else open(path, "rb") as file:
        if suffix in (".csv", ".tsv"):
            yield from _separated_rows(file, suffix, whole)
        else:
            yield from _json_rows(file, min(max(MAX_VALUE, path.stat().st_size), whole), whole)


def _unpacked_limit(path: Path) -> int:
    return max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size)


def _json_rows(file: gzip.GzipFile | io.BufferedReader, most: int, whole: int) -> Iterator[tuple[str, Any]]:
    """One row per line, or the rows of one value that fills the file, over several lines or on one."""
    lines = enumerate(_bounded(file.readline, most, whole, (b"\n",)), 1)
    number, line = next(((number, line) for number, line in lines if line.strip()), (0, b""))
    if not line:
        return
    try:
        first = _parsed(line, f" line {number}", is_torn=not line.endswith(b"\n"))
    except _Unreadable as torn:
        try:
            tail = file.read(most + 1 - len(line))
            if len(line) + len(tail) > most:
                raise _too_long("", most)
            whole = _parsed(line + tail, "", is_torn=False)
        except _Unreadable as error:
            raise (error if line.strip() in (b"[", b"{", b"[{") else torn) from None
        yield from _listed(whole)
        return
    rest = ((number, line) for number, line in lines if line.strip())
    second = next(rest, None)
    if second is None:
        yield from _listed(first) if isinstance(first, list) or _is_indexed(first) else [(f" line {number}", first)]
        return
    yield f" line {number}", first
    for number, line in itertools.chain([second], rest):
        yield f" line {number}", _parsed(line, f" line {number}", is_torn=not line.endswith(b"\n"))


def _listed(value: Any) -> Iterator[tuple[str, Any]]:
    """The rows of a value that is a whole file."""
    if _is_indexed(value):
        value = [{"idx": index, **row} for index, row in value.items()]
    yield from ((f" row {number}", row) for number, row in enumerate(value if isinstance(value, list) else [value], 1))


def _is_indexed(value: Any) -> bool:
    """True for rows by index: ``{"0": {...}, "1": {...}}``."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(key.isdecimal() and isinstance(row, dict) for key, row in value.items())
    )


def _parsed(text: bytes, place: str, *, is_torn: bool) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason, remedy = f"byte {error.start + 1} is not UTF-8", "convert the file to UTF-8"
    except RecursionError:
        reason, remedy = "it is nested too deep", "remove that line"
    except ValueError as error:
        reason, remedy = str(error).splitlines()[0][:100], "mend or remove that line"
        if is_torn:
            remedy = "the file ends in the middle of it: remove that line, or let the run that wrote it resume"
    raise _Unreadable(f"{place} is not JSON ({reason}); {remedy}")


def _separated_rows(file: gzip.GzipFile | io.BufferedReader, suffix: str, whole: int) -> Iterator[tuple[str, Any]]:
    """Rows of CSV or TSV; the first line names the columns."""
    csv.field_size_limit(MAX_CELL)
    number = 0
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(
            _bounded(text.readline, MAX_CELL, whole, ("\n", "\r")), "excel-tab" if suffix == ".tsv" else "excel"
        )
        try:
            names = next(reader, [])
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise _Unreadable(f": two columns are named {twice!r}; rename one of them")
            for number, cells in enumerate(filter(None, reader), 1):
                if len(cells) != len(names):
                    raise _Unreadable(
                        f" row {number} has {len(cells)} cells for {len(names)} columns; quote cells with separators"
                    )
                yield f" row {number}", {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True)}
        except UnicodeDecodeError:
            raise _Unreadable(f" row {number + 1} is not UTF-8; convert the file to UTF-8") from None
        except csv.Error as error:
            raise _Unreadable(f" row {number + 1} cannot be read ({error}); write the file again") from None


def _bounded(readline: Callable[[int], AnyStr], most: int, whole: int, ends: tuple[AnyStr, ...]) -> Iterator[AnyStr]:
    """The lines of a file, which end with one of ``ends``; a line of more than ``most``, or lines of more than
    ``whole`` together, are refused before they fill the memory."""
    number = total = 0
    while line := readline(CHUNK):
        number += 1
        total += len(line)
        if total > whole:
            raise _unpacks_too_far(whole)
        if len(line) == CHUNK and not line.endswith(ends):
            parts, left = [line], most - CHUNK
            while left >= 0 and len(parts[-1]) == CHUNK and not parts[-1].endswith(ends):
                parts.append(readline(CHUNK))
                left -= len(parts[-1])
            if left < 0:
                raise _too_long(f" line {number}", most)
            total += sum(map(len, parts[1:]))
            line = line[:0].join(parts)
        yield line


def _unpacks_too_far(whole: int) -> _Unreadable:
    return _Unreadable(
        f": it unpacks to more than {whole // 2**20} MiB, {MAX_RATIO} times its size; give it unpacked, as JSONL"
    )


def _too_long(place: str, most: int) -> _Unreadable:
    return _Unreadable(f"{place} is longer than {most // 2**20} MiB; write one row per line, or several files")


def _cell(name: str, cell: str) -> Any:
    if not cell:
        return None
    if cell.startswith("[") and cell.endswith("]"):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if name.endswith("s") or (values and all(isinstance(value, dict) for value in values)):
            return values
    return cell


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        if any(group.total_byte_size > max(MAX_VALUE, path.stat().st_size) * group.num_rows for group in groups):
            raise _too_long(": a row", MAX_VALUE)
        columns = [
            group.column(place).total_uncompressed_size for group in groups for place in range(group.num_columns)
        ]
        done, left = 0, _unpacked_limit(path)
        for batch in file.iter_batches(batch_size=max(1, min(256, MAX_BATCH // max([1, *columns])))):
            left -= batch.nbytes
            if left < 0:
                raise _unpacks_too_far(_unpacked_limit(path))
            rows = batch.to_pylist()
            yield from ((f" row {number}", row) for number, row in enumerate(rows, done + 1))
            done += len(rows)
    except (ArrowException, OverflowError, ValueError) as error:  # the last two: a time beyond Python's
        reason = (str(error).splitlines() or ["damaged"])[0][:100]
        raise _Unreadable(f" cannot be read ({reason}); write the Parquet file again") from None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")
