r"""Stop strings: texts that end a completion, found in what the tokens decode to.

Sample: with ``("\n\n",)`` a completion ends with the token that completes the first empty line, also where one token
holds more, such as ``".\n\nQ"``. All its tokens are kept and trained on; its text ends before the stop string.
"""

from __future__ import annotations

from collections.abc import Sequence

from arrol.errors import ConfigError
from arrol.protocols import Tokenizer
from arrol.records.pieces import BYTES_PER_CHARACTER
from arrol.types import SamplingParams

SPARE_TOKENS = 8
"""Looked at in addition, since a tokenizer may write the first token of a text in another way."""


class StopStrings:
    """Finds the stop strings at the end of token sequences."""

    def __init__(self, stop: Sequence[str], tokenizer: Tokenizer) -> None:
        self._stop, self._tokenizer = tuple(stop), tokenizer
        self.window = BYTES_PER_CHARACTER * max(map(len, self._stop)) + SPARE_TOKENS
        """Last tokens to look at."""
        self._lasts = {text[-1] for text in self._stop}
        self._may_end: dict[int, bool] = {}

    def may_end(self, token_id: int) -> bool:
        """False for a token that completes no stop string, whatever stands before it."""
        if token_id not in self._may_end:
            text = self._tokenizer.decode([token_id], skip_special_tokens=True)
            # Alone, a part of a character is no text, and some tokenizers leave a leading blank out.
            is_unclear = not text or "\ufffd" in text or " " in self._lasts
            self._may_end[token_id] = is_unclear or any(last in text for last in self._lasts)
        return self._may_end[token_id]

    def is_in(self, token_ids: Sequence[int]) -> bool:
        """True when the text of these tokens holds a stop string."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return any(stop in text for stop in self._stop)


def stops_of(params: SamplingParams, tokenizer: Tokenizer | None) -> StopStrings | None:
    """The stop strings of a call; None without any. ConfigError for an engine that has no tokenizer."""
    if not params.stop:
        return None
    if tokenizer is None:
        raise ConfigError(
            f"sampling.stop = {list(params.stop)}: this engine reads no text; use the embedded engine with its "
            "tokenizer, or leave it out"
        )
    return StopStrings(params.stop, tokenizer)


def completion_text(tokenizer: Tokenizer, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The text of a completion without special tokens, up to its first stop string."""
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    places = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(places)] if places else text
