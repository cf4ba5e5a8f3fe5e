"""What the book forgets, and what one client can do to the others."""

import numpy as np
import pytest

from arrol.engines.vllm import groups
from arrol.engines.vllm.groups import IDLE_S, GroupBook
from arrol.types import Reason
from lottery import GivenQuality
from vllm_requests import BATCH, Clock, asked, book_of, decided, four, opened, scored


@pytest.mark.parametrize("changes", [{"keep_ratio": 0.75}, {"run": "b"}, {"rule": "neyman"}, {"seed": 1, "step": 30}])
def test_other_runs_and_rules_have_a_controller_of_their_own(changes):
    asked_for = []
    book = GroupBook(lambda pruning: asked_for.append(pruning) or GivenQuality())
    for name, pruning in (*four(), *four("other-", **changes)):
        book.add(name, pruning)
    assert [pruning.controller_key for pruning in asked_for] == [
        asked().controller_key,
        asked(**changes).controller_key,
    ]
    assert book.num_groups == 2
    book.probed(scored("abcd"))
    assert decided(book, [f"other-{name}" for name in "abcd"]) == []
    book.probed(scored([*"abcd", *(f"other-{name}" for name in "abcd")]))
    assert len(decided(book, book.request_ids)) == 8


def test_a_complete_group_of_a_step_is_forgotten_with_its_step():
    book = book_of(*four(step=30), *four("x", step=30, group="x")[:1])
    book.ended("abcd")
    assert (book.num_groups, opened(book)) == (1, 2)
    book.add("next", asked(step=31))
    assert opened(book) == 2


def test_without_steps_another_seed_is_another_group_of_the_same_controller():
    book = book_of(*four(), *four("other-", seed=1))
    assert (len(book._owners), book.num_groups) == (1, 2)
    book.probed(scored("abcd"))
    assert decided(book, [f"other-{name}" for name in "abcd"]) == []
    for seed in range(2, 202):
        book.add(f"{seed}", asked(seed=seed, size=1))
    assert len(book._owners) == 1


def test_draws_are_those_of_the_seed():
    fates = set()
    for seed in range(8):
        book = book_of(*four(seed=seed))
        book.probed(scored("abcd"))
        fates.add(tuple(book.take_stops()))
    assert len(fates) > 2


def test_two_runs_of_one_configuration_do_not_share_a_group():
    one, other = (
        [(f"{run}{letter}", asked(run=run, step=30, group="3", index=i)) for i, letter in enumerate("abcd")]
        for run in ("x", "y")
    )
    book = book_of(*(pair for both in zip(one, other, strict=True) for pair in both))
    book.probed(scored(f"x{letter}" for letter in "abcd"))
    assert len(book.take_stops()) == 2
    assert decided(book, [f"y{letter}" for letter in "abcd"]) == []


def test_no_client_can_lock_the_others_out():
    """A thousand rules in use at once, of one run or of as many."""
    book = book_of()
    for number in range(1000):
        keep, run = 0.1 + 0.0005 * number, "same" if number % 2 else f"run-{number}"
        book.add(f"{number}", asked(keep_ratio=keep, run=run, size=1))
    for name, pruning in four(run="honest"):
        book.add(name, pruning)
    book.probed(scored("abcd"))
    assert len(book.take_stops()) == 2
    book.ended(list(book.request_ids))
    book.add("one-more", asked(run="other"))
    assert len(book._owners) <= groups.MAX_IDLE_RULES


def test_the_rules_of_a_run_that_is_not_busy_go_by_age_and_leave_those_of_others(monkeypatch):
    monkeypatch.setattr(groups, "MAX_IDLE_RULES_OF_A_RUN", 2)
    monkeypatch.setattr(groups, "MAX_IDLE_RULES", 4)

    def use(run, keep):
        book.add("a", asked(run=run, keep_ratio=keep, size=1))
        book.ended("a")

    book = book_of(("busy", asked(run="many", keep_ratio=0.9)))
    for run, keep in (("x", 0.5), ("many", 0.2), ("many", 0.3), ("many", 0.2), ("many", 0.4), ("y", 0.5)):
        use(run, keep)
    known = {(key.run, owner.controller._config.keep_ratio) for key, owner in book._owners.items()}
    assert known == {("many", 0.9), ("x", 0.5), ("many", 0.2), ("many", 0.4), ("y", 0.5)}
    use("z", 0.5)
    assert "x" not in {key.run for key in book._owners}, "the one asked for least recently"
    assert "busy" in book


@pytest.mark.parametrize("step", [None, 30])
def test_a_group_whose_siblings_never_come_is_forgotten_by_wall_time(step):
    clock = Clock()
    book = book_of(*four(step=step)[:3], clock=clock)
    clock.now += 2 * IDLE_S
    book.tick()
    assert book.num_groups == 1, "a request of it is running"
    book.ended("abc")
    clock.now += IDLE_S - 1
    book.tick()
    assert book.num_groups == 1, "the others may still come"
    clock.now += 1
    book.tick()
    assert (book.num_groups, opened(book)) == (0, 0)
    book.add("d", asked(step=step))
    assert (len(book), book.num_groups, opened(book)) == (1, 1, 1)


def test_the_clock_runs_while_no_request_is_watched():
    clock = Clock()
    book = book_of(*four()[:3], clock=clock)
    book.ended("abc")
    clock.now += IDLE_S
    book.add("x", asked(group="other"))
    assert book.num_groups == 1


def test_groups_without_a_running_request_are_few_however_many_begin():
    book = book_of()
    for number in range(groups.MAX_IDLE_GROUPS + 50):
        book.add(str(number), asked(group=f"g{number}"))
        book.ended([str(number)])
    book.tick()
    assert book.num_groups == groups.MAX_IDLE_GROUPS == opened(book)


def test_one_step_in_every_request_still_frees_groups():
    clock = Clock()
    book = book_of(clock=clock)
    for number in range(groups.MAX_IDLE_GROUPS + 50):
        book.add(str(number), asked(group=str(number), size=1, step=1))
        book.ended([str(number)])
    assert opened(book) <= groups.MAX_IDLE_GROUPS + 1
    clock.now += IDLE_S
    book.tick()
    assert (opened(book), book.num_groups) == (0, 0)


def test_a_number_that_a_client_names_costs_nothing():
    """Groups of a batch and rollouts of earlier waves are never counted one by one."""
    book = book_of(("a", asked(**{**BATCH, "batch_groups": 2**16}, group=0)), ("b", asked(first=2**16, group="late")))
    assert (book.num_groups, opened(book)) == (2, 2)
    assert (
        sum(len(group.stopped) for owner in book._owners.values() for group in owner.controller._groups.values()) == 0
    )


@pytest.mark.parametrize("draw", ["systematic", "bernoulli"])
def test_the_floor_counts_only_rollouts_that_came(draw):
    """Four of eight come, the deadline passes: two of them stay, not two of eight."""
    for seed in range(5):
        coming = four(size=8, keep_ratio=0.1, min_survivors=2, barrier_timeout=1, draw=draw, seed=seed)
        book = book_of(*coming)
        book.probed(scored("abcd"))
        for _ in range(3):
            book.tick()
        assert len(decided(book, "abcd")) == 4
        assert len(book.take_stops()) <= 2


def test_data_parallel_engines_draw_independently():
    """Each has a part of the group and numbers it from 0."""
    fates = []
    for rank in (0, 1):
        book = book_of(rank=rank)
        for group in range(32):
            for name, pruning in four(f"{group}", group=str(group), step=30, draw="bernoulli", min_survivors=0):
                book.add(name, pruning)
        book.probed(scored(list(book.request_ids)))
        fates.append([book.decision(name).keep for name in book.request_ids])
    assert 0.3 < np.mean(np.equal(*fates)) < 0.7


def test_an_idle_controller_knows_the_time():
    """Its steps are not counted while it has no request; the next candidate waits the whole ``barrier_timeout``."""
    book = book_of(*four(barrier_timeout=5))
    book.tick()
    book.ended("abcd")
    book.add("other", asked(keep_ratio=0.9))
    for _ in range(50):
        book.tick()
    for name, pruning in four("new-", barrier_timeout=5):
        book.add(name, pruning)
    book.probed(scored(["new-a"]))
    for _ in range(4):
        book.tick()
    assert book.decision("new-a") is None
    book.tick()
    assert book.decision("new-a").reason is Reason.DEADLINE
    assert book.num_late == 1
