"""Lines that are whole: torn tails, what counts as whole, and an error that names the file (more in test_store.py)."""

import pytest

from arrol.errors import DataError
from arrol.records.lines import LineWriter


def writer(path):
    return LineWriter(path, lambda line: line.endswith(b"!"), field="rows", shown="x/rows.txt")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"a!\n", b"a!\n"),
        (b"a!\nb", b"a!\n"),
        (b"a!\nb!", b"a!\nb!\n"),
        (b"b", b""),
        (b"a!\n" + b"b" * 200_000, b"a!\n"),
    ],
)
def test_a_torn_tail_is_completed_or_cut_off(tmp_path, before, after):
    path = tmp_path / "new" / "rows.txt"
    path.parent.mkdir()
    path.write_bytes(before)
    with writer(path) as lines:
        lines.write_line(b"c!")
    assert path.read_bytes() == after + b"c!\n"
    lines.close()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"rows = 'x/rows.txt': cannot be written .*; free space or choose"):
        writer(tmp_path / "file" / "rows.txt")
