"""Stop strings in what tokens decode to: over several tokens, inside one, and in pieces of characters."""

import pytest

from arrol.engines.scripted import ScriptedEngine
from arrol.engines.stops import StopStrings, completion_text, stops_of
from arrol.errors import ConfigError
from arrol.types import SamplingParams
from doubles import requests_for

PIECES = ["", "a", "b", "\n", "\n\n", ".\n\nQ", "ab", "é", b"\xc3", b"\xa9", "<end>", "Q:", " Q", "ba"]


class Tokenizer:
    """Token n is the n-th piece; a single blank in front is left out, as SentencePiece does."""

    eos_token_id = None

    def decode(self, token_ids, skip_special_tokens=False):
        pieces = [PIECES[n] if isinstance(PIECES[n], bytes) else PIECES[n].encode() for n in token_ids]
        return b"".join(pieces).decode("utf-8", "replace").removeprefix(" ")


def stops(*texts):
    return StopStrings(texts, Tokenizer())


def ends(strings, *token_ids):
    """Where a completion ends: tokens taken until a stop string is seen, as an engine does it."""
    for count in range(1, len(token_ids) + 1):
        if strings.may_end(token_ids[count - 1]) and strings.is_in(token_ids[max(0, count - strings.window) : count]):
            return count
    return None


@pytest.mark.parametrize(
    ("texts", "tokens", "end"),
    [
        (("\n\n",), (1, 3, 3, 2), 3),
        (("\n\n",), (1, 4, 2), 2),
        (("\n\n",), (1, 5, 2), 2),
        (("\n\n",), (3, 1, 3), None),
        (("ab",), (2, 1, 2), 3),
        (("bab",), (13, 2), 2),
        (("bab",), (2, 6), 2),
        (("é",), (1, 8, 9), 3),
        (("é",), (1, 7), 2),
        (("aé",), (1, 8, 9), 3),
        (("\nQ:",), (3, 11), 2),
        ((" Q",), (1, 12), 2),
        (("a ",), (1, 12), 2),
        (("x", "ab"), (1, 1, 2), 3),
        (("aaaaaaaaaa",), (1,) * 12, 10),
    ],
)
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(texts, tokens, end):
    assert ends(stops(*texts), *tokens) == end


def test_a_token_that_cannot_complete_a_stop_string_is_not_looked_at_twice():
    strings = stops("\n\n")
    assert [strings.may_end(n) for n in (1, 3, 5, 0, 8)] == [False, True, True, True, True]
    strings._tokenizer = None
    assert strings.may_end(1) is False


def test_the_text_ends_before_the_first_stop_string():
    assert completion_text(Tokenizer(), (1, 5, 2)) == "a.\n\nQb"
    assert completion_text(Tokenizer(), (1, 5, 2), ("\n\n",)) == "a."
    assert completion_text(Tokenizer(), (1, 5, 2), ("Q", ".")) == "a"
    assert completion_text(Tokenizer(), (1, 2), ("x",)) == "ab"


def test_an_engine_without_a_tokenizer_refuses():
    assert stops_of(SamplingParams(3), None) is None
    params = SamplingParams(3, stop=("\n\n", "x"))
    assert isinstance(stops_of(params, Tokenizer()), StopStrings)
    for call in (
        lambda: stops_of(params, None),
        lambda: ScriptedEngine(lambda i: [1]).generate(requests_for([(5,)], 1), params, seed=0),
    ):
        with pytest.raises(ConfigError, match=r"sampling.stop = \['\\n\\n', 'x'\]: this engine reads no text; use the"):
            call()
