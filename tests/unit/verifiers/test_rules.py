"""Verdicts without algebra."""

from arrol.types import Verdict
from arrol.verifiers.gold import with_tolerance
from arrol.verifiers.rules import judged


def verdict(text, gold):
    return judged(text, gold, ("####",)).verdict


def test_a_verdict_says_what_which_mark_and_why():
    assert verdict("#### 5", "5") == Verdict(1.0, "5", mark="####", verifier="rules", reason="the same text")
    assert verdict(r"\boxed{}", "5") == Verdict(0.0, None, mark="box", verifier="rules", reason="an empty box")
    assert verdict("#### \u0665", "5").reason == "digits of another script"
    assert verdict("#### " + "(" * 30 + "5" + ")" * 30, "5").reason == "nested too deep"


def test_parts_and_tolerances():
    assert verdict("#### 2", '{"any_of": ["1", "2"]}').is_right
    assert verdict("#### 3.1", with_tolerance("3.14", 0.1)).is_right
    assert not verdict("#### 3.1", with_tolerance("3.14", 0.01)).is_right
    assert judged("#### 3", r"\max(3, 2)", ("####",)).is_open
