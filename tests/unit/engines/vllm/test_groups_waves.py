"""Batches and later waves."""

import numpy as np
import pytest

from arrol.engines.vllm.groups import IDLE_S
from arrol.pruning.controller import PruningController
from arrol.types import Reason, RolloutId
from lottery import GivenQuality, all_decisions, events_of, open_groups
from vllm_requests import BATCH, Clock, asked, book_of, decided, four, opened, scored, wave


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_waits_for_groups_that_have_not_come_and_is_drawn_as_one(seed):
    """In any order of arrival: the same draws as those of a controller that gets all candidates at once."""
    rng, rates = np.random.default_rng(seed), [0.05, 0.5, None]
    rule, quality = {**BATCH, "seed": seed}, rng.random((3, 4))
    direct = PruningController(asked(**rule, group=0).rule, GivenQuality(), seed=seed)
    open_groups(direct, quality, history=rates)
    stops = direct.probed(events_of(quality))

    book, arrivals = book_of(), rng.permutation(list(np.ndindex(3, 4)))
    for group, index in arrivals:
        assert decided(book, book.request_ids) == []
        name = f"{group}/{index}"
        book.add(name, asked(**rule, group=int(group), index=int(index), success_rate=rates[group]))
        book.probed(scored([name], float(quality[group, index])))
    expected = all_decisions(direct, 3)
    assert [book.decision(f"{d.rollout_id.group}/{d.rollout_id.index}") for d in expected] == expected
    assert [book.rollout_id(name) for name in book.take_stops()] == stops


def test_a_batch_does_not_wait_again_for_a_group_that_has_gone():
    book = book_of(*four("0", **BATCH, group=0))
    book.ended(f"0{letter}" for letter in "abcd")
    for number in (1, 2):
        for name, pruning in four(str(number), **BATCH, group=number):
            book.add(name, pruning)
    book.probed(scored(book.request_ids))
    assert len(decided(book, book.request_ids)) == 8


def test_groups_of_a_batch_may_differ_in_size():
    book = book_of(("a", asked(**BATCH, group=1, size=4)), ("b", asked(**BATCH, group=0, size=2)))
    book.add("c", asked(**BATCH, group=0, size=2))
    assert book.rollout_id("c") == RolloutId(1, 0, 1)


def test_a_draw_waits_for_groups_of_the_batch_that_have_not_come_until_its_deadline():
    said = {**BATCH, "barrier_timeout": 3, "min_survivors": 0}
    book = book_of(*four(**said, group=1))
    assert (book.num_groups, opened(book)) == (1, 1)
    book.probed(scored("abcd"))
    for _ in range(3):
        book.tick()
    assert decided(book, "abcd") == []
    book.tick()
    assert {book.decision(name).reason for name in "abcd"} == {Reason.DEADLINE}
    book.ended("abcd")
    book.add("next", asked(**{**said, "step": 2}, group=0))
    assert opened(book) == 1


def test_a_batch_whose_groups_have_all_gone_may_begin_again():
    for_all = [pair for g in range(3) for pair in four(str(g), **BATCH, group=g)]
    book = book_of(*for_all)
    for _ in range(2):
        book.probed(scored(name for name, _ in for_all[:8]))
        assert decided(book, [name for name, _ in for_all]) == []
        book.probed(scored(name for name, _ in for_all[8:]))
        assert len(decided(book, [name for name, _ in for_all])) == 12
        book.ended(name for name, _ in for_all)
        for name, pruning in for_all:
            book.add(name, pruning)


@pytest.mark.parametrize("group", ["3", "named"])
def test_a_later_wave_has_a_barrier_of_its_own_and_its_rollouts_keep_their_ids(group):
    book = book_of(*four("old-", step=30, group=group), *wave("new-", 4, step=30, group=group))
    assert book.num_groups == 2
    number = book.rollout_id("old-a").group
    assert number == 3 or group != "3"
    if group == "3":
        assert [book.rollout_id(f"new-{letter}") for letter in "abcd"] == [RolloutId(30, 3, 4 + i) for i in range(4)]
    book.probed(scored(f"new-{letter}" for letter in "abcd"))
    assert len(book.take_stops()) == 2
    assert decided(book, [f"old-{letter}" for letter in "abcd"]) == []
    book.ended(list(book.request_ids))
    assert (len(book), book.num_groups) == (0, 0)


def test_the_floor_counts_the_whole_group_and_not_each_wave():
    book = book_of(*four("old-", step=30, group="3", min_survivors=4, keep_ratio=0.1))
    book.probed(scored(f"old-{letter}" for letter in "abcd"))
    assert book.take_stops() == []
    for name, pruning in wave("new-", 4, step=30, group="3", min_survivors=4, keep_ratio=0.1):
        book.add(name, pruning)
    book.probed(scored(f"new-{letter}" for letter in "abcd"))
    assert len(book.take_stops()) > 2
    book.ended(list(book.request_ids))
    assert (book.num_groups, opened(book)) == (0, 1)


@pytest.mark.parametrize("is_first_incomplete", [True, False])
def test_an_incomplete_wave_is_forgotten_and_does_not_hold_its_group(is_first_incomplete):
    clock = Clock()
    old, new = four("old-", step=30, group="3"), wave("new-", 4, step=30, group="3")
    first, second = (old[:3], new) if is_first_incomplete else (old, new[:3])
    book = book_of(*first, *second, clock=clock)
    short = "old-" if is_first_incomplete else "new-"
    book.ended(f"{short}{letter}" for letter in "abc")
    clock.now += IDLE_S
    book.tick()
    assert book.num_groups == 1
    book.ended(list(book.request_ids))
    assert book.num_groups == 0
    book.add("next", asked(step=31))
    assert opened(book) == 1


def test_a_wave_has_draws_of_its_own_however_many_groups_there_are():
    fates = set()
    for others in (0, 5):
        book = book_of(*((f"{i}", asked(step=30, group=str(i + 1), size=1)) for i in range(others)))
        for name, pruning in wave("w", 4, step=30, group="0"):
            book.add(name, pruning)
        book.probed(scored(f"w{letter}" for letter in "abcd"))
        fates.add(tuple(book.take_stops()))
    assert len(fates) == 1


def test_a_later_wave_joins_a_group_whose_rollouts_have_all_ended():
    book = book_of(*four("old-", step=30, group="3"))
    book.probed(scored(f"old-{letter}" for letter in "abcd"))
    book.ended(list(book.request_ids))
    for name, pruning in wave("new-", 4, step=30, group="3"):
        book.add(name, pruning)
    book.probed(scored(f"new-{letter}" for letter in "abcd"))
    assert len(book.take_stops()) == 2
    assert all(book.decision(f"new-{letter}").reason is Reason.DRAW for letter in "abcd")


def test_a_name_of_a_step_that_is_used_again_begins_anew():
    """The controller still knows the group, which has ended; it is no wave of it."""
    for _ in range(2):
        book = book_of(*four(step=30, group="3"))
        for _ in range(2):
            book.probed(scored("abcd"))
            assert len(book.take_stops()) == 2
            assert len(decided(book, "abcd")) == 4
            book.ended("abcd")
            for name, pruning in four(step=30, group="3"):
                book.add(name, pruning)


def test_a_batch_that_has_begun_does_not_begin_again_for_a_later_wave_or_group():
    """All groups of the batch have ended: announced again, they would hold up the later requests."""
    book = book_of(*(pair for g in range(3) for pair in four(str(g), **BATCH, group=g)))
    book.ended(list(book.request_ids))
    late = [*wave("w", 4, **BATCH, group=1), *four("n", **BATCH, group=7, later=True)]
    for name, pruning in late:
        book.add(name, pruning)
    assert book.num_groups == 2
    book.probed(scored(name for name, _ in late))
    assert len(decided(book, book.request_ids)) == 8
