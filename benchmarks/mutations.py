"""Damaged and wrong versions of a file's content, for ``fuzz_files.py``. Pure functions of a content and a draw.

* bytes: changed bits, zeros, a cut at either end, parts removed, doubled or moved, bytes that are no UTF-8, another
  file's content, nothing at all;
* lines: removed, doubled, moved, joined;
* values: at a random place of a JSON or TOML value another type, a huge number, NaN, deep nesting, text with line ends
  and control characters; a key removed, renamed or added. Such a file is well formed, and no sum in it tells;
* ``.gz``: either the file's bytes or what it holds, or a gibibyte of zeros.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

RAW = {
    '"@digits@"': b"1" + b"0" * 5000,
    '"@deep@"': b"[" * 100_000 + b"]" * 100_000,
    '"@deep object@"': b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    '"@float@"': b"1e999",
}
"""What a JSON writer refuses to write, by the text that stands for it."""
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 1.5, 7, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "nan", "@digits@", "@float@", "@deep@", "@deep object@"),
    *("", " ", "x", "1", "1e999", "a\nb", "a\rb", "\x1b[31mred", "\ud800", "\x00", "../../x", "x" * 10_000, "=1+1"),
    *([], [1], ["x"], [None], [[1]], [{}], [{"a": 1}], [float("nan")], {}, {"a": 1}, {"": None}, {"step": "x"}),
)
ZEROS = 2**26
"""Bytes of a member of the bomb; it has 16 of them."""
_bomb: list[bytes] = []


def mutated(name: str, content: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Another content for a file of that name, and what was done; ``other`` is another file's."""
    suffixes = [suffix for suffix in Path(name).suffixes if suffix in WRONG or suffix == ".gz"]
    if suffixes[-1:] == [".gz"]:
        how = draw.random()
        if how < 0.03:
            return bomb(), "a gibibyte of zeros"
        if how < 0.6:
            inner, what = mutated(name.removesuffix(".gz"), gzip.decompress(content), other, draw)
            return gzip.compress(inner, 1, mtime=0), what
    elif suffixes and draw.random() < 0.6:
        try:
            return WRONG[suffixes[-1]](content, draw)
        except (
            ValueError,
            TypeError,
            OverflowError,
            NotImplementedError,
        ):  # the writer of that format refuses the value
            pass
    if suffixes[-1:] in ([".jsonl"], [".csv"], [".tsv"]) and draw.random() < 0.4:
        return _lines(content, draw)
    return _bytes(content, other, draw)


def bomb() -> bytes:
    """A gibibyte of zeros as ``.gz``, of a mebibyte."""
    if not _bomb:
        _bomb.append(gzip.compress(bytes(ZEROS), 1, mtime=0) * 16)
    return _bomb[0]


def wrong_value(value: Any, draw: random.Random) -> tuple[Any, str]:
    """The value with one place changed, and which one."""
    path = draw.choice(list(_places(value)))
    return _changed(value, path, draw), f"value at {'.'.join(map(str, path)) or 'the top'}"


def json_bytes(value: Any, **options: Any) -> bytes:
    """JSON, with what no writer writes in place of the texts that stand for it."""
    text = json.dumps(value, **options).encode()
    for mark, raw in RAW.items():
        text = text.replace(mark.encode(), raw)
    return text


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to the value and everything in it; of a long list the first and last entries."""
    found = [path]
    if isinstance(value, dict):
        for key, each in value.items():
            found += _places(each, (*path, key))
    elif isinstance(value, list):
        for index in sorted({*range(len(value))[:3], *range(len(value))[-1:]}):
            found += _places(value[index], (*path, index))
    return found


def _changed(value: Any, path: tuple[Any, ...], draw: random.Random) -> Any:
    if path:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key, how = path[0], draw.random()
        if len(path) > 1 or how < 0.75:
            copy[key] = _changed(copy[key], path[1:], draw)
        elif how < 0.9:
            del copy[key]
        elif isinstance(copy, dict):
            copy[str(key) + draw.choice(("s", "_", "\n"))] = copy.pop(key)
        else:
            copy.insert(key, draw.choice(ODD))
        return copy
    if isinstance(value, dict) and draw.random() < 0.3:
        return {**value, draw.choice(("extra", "", "a\nb", "sha256", "kind")): draw.choice(ODD)}
    return draw.choice(ODD)


def _lines(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True) or [b""]
    first, last = sorted(draw.randrange(len(lines)) for _ in range(2))
    how = draw.choice(("removed", "doubled", "moved", "joined", "blank"))
    part, rest = lines[first : last + 1], lines[:first] + lines[last + 1 :]
    if how == "removed":
        lines = rest
    elif how == "doubled":
        lines[last:last] = part
    elif how == "moved":
        lines = [*rest, *part]
    elif how == "joined":
        lines[first] = lines[first].rstrip(b"\n")
    else:
        lines.insert(first, draw.choice((b"\n", b"\r\n", b"   \n", b"{}\n", b"null\n", b"[]\n", b"#\n")))
    return b"".join(lines), f"lines {first + 1} to {last + 1} {how}"


def _bytes(content: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    start, end = sorted(draw.randrange(max(len(content), 1)) for _ in range(2))
    end = min(end, start + 4096)
    how = draw.choice([*("bit",) * 4, *("cut",) * 3, *BYTES])
    changed = bytearray(content)
    if how == "bit":
        if content:
            changed[start] ^= 1 << draw.randrange(8)
        return bytes(changed), f"bit of byte {start}"
    if how == "cut":
        return content[:start], f"cut at {start}"
    return BYTES[how](content, start, end, other), f"{how} at {start} to {end}"


BYTES: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "empty": lambda *_: b"",
    "without its head": lambda content, start, end, other: content[start:],
    "removed": lambda content, start, end, other: content[:start] + content[end:],
    "doubled": lambda content, start, end, other: content[:end] + content[start:],
    "zeros": lambda content, start, end, other: content[:start] + bytes(end - start) + content[end:],
    "no UTF-8": lambda content, start, end, other: content[:start] + b"\xff\xfe\x80" + content[start:],
    "nesting": lambda content, start, end, other: content[:start] + b"[" * 100_000 + content[start:],
    "quote": lambda content, start, end, other: content[:start] + b'"' + content[start:],
    "another file": lambda content, start, end, other: other,
    "another file's tail": lambda content, start, end, other: content[:start] + other[start:],
    "mark": lambda content, start, end, other: b"\xef\xbb\xbf" + content,
}


def _wrong_jsonl(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    lines = content.splitlines()
    number = draw.randrange(len(lines))
    value, what = wrong_value(json.loads(lines[number]), draw)
    lines[number] = json_bytes(value)
    return b"\n".join(lines) + b"\n", f"line {number + 1}, {what}"


def _wrong_json(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    value, what = wrong_value(json.loads(content), draw)
    if isinstance(value, dict) and draw.random() < 0.7:
        value = resealed(value)
    return json_bytes(value, indent=draw.choice((None, 1))), what


def resealed(value: dict[str, Any]) -> dict[str, Any]:
    """A manifest or the header of an estimator or pool with a sum that fits, or without one where it may lack."""
    from arrol.records.manifest import value_sum

    rest = {key: each for key, each in value.items() if key not in ("sha256", "__sums__")}
    return {**rest, "sha256": value_sum(rest)} if "files" in value and "run" in value else rest


def _wrong_toml(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    value, what = wrong_value(tomllib.loads(content.decode()), draw)
    return "".join(f"{json.dumps(key)} = {_toml(each)}\n" for key, each in dict(value).items()).encode(), what


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value == "@deep@":
        return "[" * 5000 + "]" * 5000
    if value == "@digits@":
        return "1" + "0" * 5000
    if isinstance(value, float):
        return repr(value)
    if value is None:
        raise ValueError("TOML has no null")
    return json.dumps(value)


def _wrong_table(content: bytes, draw: random.Random, separator: str) -> tuple[bytes, str]:
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=separator))
    number = draw.randrange(len(rows))
    place, odd, how = draw.randrange(len(rows[number])), draw.choice(ODD), draw.random()
    if how < 0.7:
        rows[number][place] = odd if isinstance(odd, str) else json_bytes(odd).decode()
    elif how < 0.85:
        del rows[number][place]
    else:
        rows[number].insert(place, rows[number][place])
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass"), f"row {number}, cell {place}"


def _wrong_parquet(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(content))
    name, odd = draw.choice(table.column_names), draw.choice(ODD)
    place = table.column_names.index(name)
    how = draw.random()
    if how < 0.15:
        table = table.drop_columns([name])
    elif how < 0.3:
        table = table.append_column(name, table.column(place))
    else:
        kinds = [b"\xff\xfe", odd, draw.choice((pa.scalar(1, pa.timestamp("us")), pa.scalar(2**62, pa.duration("s"))))]
        array = pa.array([draw.choice(kinds)] * table.num_rows)
        table = table.set_column(place, name, array)
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue(), f"column {name}"


def _wrong_safetensors(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """In the header, or in the JSON that ours holds."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    ours = header.get("__metadata__", {})
    key = next((key for key in ours if ours[key].startswith("{")), None)
    if key and draw.random() < 0.7:
        value, what = wrong_value(json.loads(ours[key]), draw)
        text = json_bytes(resealed(value) if isinstance(value, dict) else value).decode()
        header["__metadata__"] = {**ours, key: text}
    elif key and draw.random() < 0.4:  # other numbers, without a sum
        header["__metadata__"] = {**ours, key: json.dumps(resealed(json.loads(ours[key])))}
        data, what = draw.choice((b"\xff", b"\x00", b"\x7f")) * len(data), "all numbers"
    else:
        header, what = wrong_value(header, draw)
    text_bytes = json_bytes(header)
    text_bytes += b" " * (-len(text_bytes) % 8)
    return len(text_bytes).to_bytes(8, "little") + text_bytes + data, what


WRONG: dict[str, Callable[[bytes, random.Random], tuple[bytes, str]]] = {
    ".jsonl": _wrong_jsonl,
    ".json": _wrong_json,
    ".toml": _wrong_toml,
    ".lock": _wrong_json,
    ".csv": lambda content, draw: _wrong_table(content, draw, ","),
    ".tsv": lambda content, draw: _wrong_table(content, draw, "\t"),
    ".parquet": _wrong_parquet,
    ".safetensors": _wrong_safetensors,
}
"""End of a name -> how its values are made wrong; ValueError or TypeError where the format has no such value."""
