"""The text of each token: joined they are the completion."""

import pytest
from integrations.groups import ByteTexts

from arrol.records.pieces import Pieces


@pytest.mark.parametrize("text", ["abc", "a b", "x\u00e9!", "\u20ac\u20ac", "x\U0001f600y", "<script>"])
def test_the_pieces_joined_are_the_text(text):
    pieces = Pieces(ByteTexts()).of(list(text.encode()))
    assert "".join(pieces) == text
    assert len(pieces) == len(text.encode())


def test_half_a_character_is_marked():
    assert Pieces(ByteTexts()).of(list("a\u20ac".encode()[:-1])) == ["a", "\ufffd", "\ufffd"]
