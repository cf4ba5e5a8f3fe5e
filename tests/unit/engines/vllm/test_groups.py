"""Requests that come, end and are aborted, translated for the controller; any order of them is in tests/property."""

from itertools import permutations

import numpy as np
import pytest

from arrol.engines.vllm.groups import ProbeScore
from arrol.errors import ConfigError
from arrol.types import Reason, RolloutId
from vllm_requests import asked, book_of, decided, four, opened, scored


def test_a_group_begins_with_its_first_request_and_is_forgotten_with_its_last():
    book = book_of(*four()[:3])
    assert (len(book), book.num_groups, opened(book)) == (3, 1, 1)
    book.ended("abc")
    assert (len(book), book.num_groups) == (0, 1)
    book.add("d", asked())
    assert book.num_groups == 1
    book.ended("d")
    assert (len(book), book.num_groups, opened(book)) == (0, 0, 0)


def test_half_of_a_group_is_stopped_when_the_last_sibling_is_scored():
    book = book_of(*four())
    for name in "abc":
        book.probed(scored(name))
        assert book.take_stops() == []
    book.probed(scored("d"))
    stops = book.take_stops()
    assert len(stops) == 2
    assert stops == sorted(stops)
    assert [name for name in "abcd" if not book.decision(name).keep] == stops
    assert book.take_stops() == []


def test_what_a_request_said_is_known_while_it_runs():
    pruning = asked(step=3, group="7", index=2)
    book = book_of(("a", pruning))
    assert book.pruning("a") is pruning
    assert book.rollout_id("a") == RolloutId(3, 7, 2)
    assert list(book.request_ids) == ["a"]
    assert "a" in book
    book.ended(["a"])
    assert "a" not in book


@pytest.mark.parametrize("changes", [{}, {"step": 30, "group": "5"}, {"step": 30}], ids=["plain", "numbered", "named"])
@pytest.mark.parametrize("new_first", [True, False])
def test_the_name_of_a_full_group_begins_a_new_one_while_the_old_one_runs(changes, new_first):
    old, new = four("old-", **changes), four("new-", **changes)
    book = book_of(*old, *new)
    assert len({book.rollout_id(name) for name in book.request_ids}) == 8
    book.probed(scored(name for name, _ in new))
    assert len(book.take_stops()) == 2
    assert decided(book, [name for name, _ in old]) == []
    book.probed(scored(name for name, _ in old))
    stops = book.take_stops()
    assert len(stops) == 2
    assert all(name.startswith("old-") for name in stops)
    for names in (new, old) if new_first else (old, new):
        book.ended(name for name, _ in names)
        assert book.num_groups == (names is old and not new_first)
    assert (len(book), book.num_groups) == (0, 0)


@pytest.mark.parametrize("step", [None, 30])
def test_no_two_groups_share_a_key(step):
    """Whatever they are called: numbers, names that look like numbers, names alone."""
    names = ["0", "3", "03", "\u0663", "a", "b", "1", "4", "-1", "9" * 128]
    book = book_of(*((name, asked(group=name, size=1, step=step)) for name in names))
    assert len({book.rollout_id(name) for name in names}) == len(names)
    book.ended(names)
    assert (len(book), book.num_groups) == (0, 0)


def test_groups_of_different_steps_are_different_groups():
    book = book_of(("a", asked(step=30, size=2)), ("b", asked(step=31, size=2)))
    assert book.num_groups == 2


def test_a_given_index_makes_the_order_of_arrival_irrelevant():
    outcomes = set()
    for order in permutations(range(4)):
        book = book_of(*((str(index), asked(index=index, step=30, group="2")) for index in order))
        book.probed(scored(map(str, order)))
        outcomes.add(tuple(book.take_stops()))
    assert len(outcomes) == 1
    assert len(outcomes.pop()) == 2


def test_without_an_index_it_is_the_order_of_arrival():
    book = book_of(*four())
    assert [book.rollout_id(name).index for name in "abcd"] == [0, 1, 2, 3]
    book.ended("a")
    assert [book.rollout_id(name).index for name in "bcd"] == [1, 2, 3]


def test_an_index_is_taken_once():
    book = book_of(("a", asked(index=1)))
    with pytest.raises(ConfigError, match="arrol_index = 1: taken in group 'g'; give each rollout its own"):
        book.add("b", asked(index=1))
    assert "b" not in book
    book.add("b", asked(index=0))
    assert len(book) == 2


def test_siblings_agree_on_their_number():
    book = book_of(("a", asked(size=4)))
    with pytest.raises(ConfigError, match="arrol_size = 5: group 'g' has size 4; send one size for all its rollouts"):
        book.add("b", asked(size=5))
    assert (len(book), book.num_groups) == (1, 1)
    book.ended("a")
    with pytest.raises(ConfigError):
        book.add("b", asked(size=5))


def test_a_sibling_that_leaves_completes_the_barrier():
    """An end and an abort look the same here."""
    book = book_of(*four())
    book.probed(scored("abc"))
    assert book.take_stops() == []
    book.ended("d")
    assert len(book.take_stops()) in (1, 2)
    assert decided(book, "abcd") == ["a", "b", "c"]


def test_one_that_leaves_while_it_waits_is_no_candidate():
    book = book_of(*four(min_survivors=0))
    book.probed(scored("abc"))
    book.ended("a")
    book.probed(scored("d"))
    assert decided(book, "abcd") == ["b", "c", "d"]


@pytest.mark.parametrize("order", list(permutations("abc")), ids="".join)
def test_those_that_leave_together_are_no_candidates_for_each_other(order):
    book = book_of(*four(min_survivors=0))
    book.probed(scored("bcd"))
    book.ended(order)
    assert decided(book, "abcd") == ["d"]


def test_a_stop_of_one_that_has_left_since_is_withdrawn():
    book = book_of(*four())
    book.probed(scored("abcd"))
    stopped = [name for name in "abcd" if not book.decision(name).keep]
    book.ended(stopped[:1])
    assert book.take_stops() == stopped[1:]


def test_a_stop_outlives_its_group():
    """The next step begins between the draw and the stop."""
    book = book_of(*four(step=30))
    book.probed(scored("abc"))
    book.ended("d")
    for name in "abc":
        if book.decision(name).keep:
            book.ended(name)
    book.add("next", asked(step=31))
    stops = book.take_stops()
    assert stops
    assert [book.decision(name).keep for name in stops] == [False] * len(stops)


def test_leaving_twice_or_without_having_come_is_nothing():
    book = book_of(*four())
    book.ended(["a", "a", "unknown"])
    book.ended(["a"])
    assert len(book) == 3


def test_after_the_deadline_waiting_candidates_are_drawn_alone():
    book = book_of(*four(barrier_timeout=3, min_survivors=0, keep_ratio=0.1))
    book.probed(scored("abc"))
    for _ in range(3):
        book.tick()
        assert decided(book, "abcd") == []
    book.tick()
    assert {book.decision(name).reason for name in "abc"} == {Reason.DEADLINE}
    stops = book.take_stops()
    assert stops
    assert stops == [name for name in "abc" if not book.decision(name).keep]


def test_independent_draws_wait_for_no_sibling():
    book = book_of(*four(draw="bernoulli", min_survivors=0))
    for name in "abcd":
        book.probed(scored(name))
        assert book.decision(name).reason is Reason.DRAW


@pytest.mark.parametrize(
    ("step", "reason"), [(None, Reason.DRAW), (1, Reason.WARMUP), (5, Reason.WARMUP), (6, Reason.DRAW)]
)
def test_warm_up_is_for_requests_that_count_steps(step, reason):
    book = book_of(*four(step=step, warmup_steps=5))
    book.probed(scored("abcd"))
    assert {book.decision(name).reason for name in "abcd"} == {reason}
    assert len(book.take_stops()) == (2 if reason is Reason.DRAW else 0)


def test_a_decision_is_there_until_its_request_has_left():
    book = book_of(*four())
    assert book.decision("a") is None
    book.probed(scored("abcd", 0.25))
    decision = book.decision("a")
    assert (decision.rollout_id, decision.quality, decision.version) == (book.rollout_id("a"), 0.25, 3)
    book.ended("a")
    assert book.decision("a") is None
    assert book.decision("unknown") is None


def test_scores_of_strangers_and_of_other_lengths_are_ignored():
    book = book_of(*four())
    book.ended("d")
    book.probed(scored(["unknown", "d"]) + scored("abc", probe=9))
    assert decided(book, "abc") == []
    book.probed(scored("abc"))
    assert decided(book, "abc") == ["a", "b", "c"]


def test_a_score_that_comes_again_changes_nothing():
    """After a preemption; in the same report and in later ones, before the draw and after it."""
    book = book_of(*four(min_survivors=0))
    book.probed(scored("aab") + scored("a", 0.75))
    assert book.take_stops() == []
    book.probed(scored("cd"))
    before = [book.decision(name) for name in "abcd"]
    assert len(book.take_stops()) == 2
    book.probed(scored("abcd", 0.125))
    assert [book.decision(name) for name in "abcd"] == before
    assert book.take_stops() == []


def test_the_unscored_run_on():
    book = book_of(*four(min_survivors=0))
    book.probed(scored("abcd", float("nan")))
    assert {book.decision(name).reason for name in "abcd"} == {Reason.NO_SCORE}
    assert book.take_stops() == []


def test_each_stop_is_taken_once_in_the_order_of_the_decisions():
    book = book_of(*four("z", group="z"), *four("y", group="y"))
    book.probed(scored(f"y{letter}" for letter in "abcd"))
    book.probed(scored(f"z{letter}" for letter in "abcd"))
    stops = book.take_stops()
    assert [name[0] for name in stops] == ["y", "y", "z", "z"]
    assert len(set(stops)) == 4


def test_every_probe_has_a_turn():
    book = book_of(*four(probe_tokens=(8, 16), keep_ratio=0.25, min_survivors=0))
    book.probed(scored("abcd", probe=8))
    first = book.take_stops()
    book.ended(first)
    left = [name for name in "abcd" if name not in first]
    assert len(left) == 2
    book.probed(scored(left, probe=16))
    assert {book.decision(name).probe for name in left} == {1}
    assert len(book.take_stops()) == 1


def test_what_earlier_groups_showed_serves_later_ones_without_steps():
    """Draws without siblings are uniform until enough candidates have been seen and their groups are over."""
    rng, rule = np.random.default_rng(0), {"rule": "neyman", "draw": "bernoulli", "min_survivors": 0}
    book, survivals = book_of(), []
    for number in range(12):
        for name, pruning in four(group=str(number), **rule, success_rate=0.5):
            book.add(name, pruning)
        for name in "abcd":
            book.probed(scored(name, float(rng.random())))
        survivals.append({book.decision(name).survival for name in "abcd"})
        book.ended("abcd")
    assert survivals[0] == {0.5}
    assert survivals[-1] != {0.5}


def test_the_stopped_leave_and_the_group_is_forgotten():
    book = book_of(*four())
    book.probed(scored("abcd"))
    stops = book.take_stops()
    book.ended(stops)
    assert len(book) == 2
    book.ended(set("abcd") - set(stops))
    assert (len(book), book.num_groups, opened(book)) == (0, 0, 0)


def test_the_confident_survive_where_that_is_the_rule():
    book = book_of(*four(rule="confidence"))
    confidence = {"a": -0.5, "b": -2.0, "c": -0.1, "d": -1.0}
    book.probed([ProbeScore(name, 8, 0.5, value) for name, value in confidence.items()])
    assert set(book.take_stops()) == {"b", "d"}
