"""The text of each token of a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

BYTES_PER_CHARACTER = 4
"""Most tokens of one byte that a character needs."""
UNCLEAR = "\ufffd"
"""What a tokenizer writes for a part of a character."""


class TokenTexts(Protocol):
    """The part of a Hugging Face tokenizer that writes tokens as text."""

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = False) -> str: ...


class Pieces:
    """The text of each token of a completion; joined they are its text, special tokens included."""

    def __init__(self, tokenizer: TokenTexts) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; of the tokens of one character the last has it, the others are empty."""
        pieces = [self._piece(token_id) for token_id in token_ids]
        start = 0
        while start < len(pieces):
            if UNCLEAR in pieces[start]:
                start += self._join(token_ids, pieces, start)
            start += 1
        return pieces

    def _join(self, token_ids: Sequence[int], pieces: list[str], start: int) -> int:
        """Put the character that begins at ``start`` into its last token; how many tokens further that is."""
        for more in range(1, min(BYTES_PER_CHARACTER, len(pieces) - start)):
            text = self._tokenizer.decode(list(token_ids[start : start + more + 1]), skip_special_tokens=False)
            if UNCLEAR not in text:
                pieces[start : start + more + 1] = [""] * more + [text]
                return more
        return 0

    def _piece(self, token_id: int) -> str:
        """Between two others of its kind, since some tokenizers drop the blank in front of a first token."""
        if token_id not in self._known:
            alone = self._tokenizer.decode([token_id], skip_special_tokens=False)
            twice = self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)
            self._known[token_id] = twice[len(alone) :] if twice.startswith(alone) else alone
        return self._known[token_id]
