"""The scheduler alone, with a runner that makes up tokens and scores: two steps in flight, as on a GPU."""

import numpy as np
import pytest

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

from vllm.v1.request import RequestStatus

from arrol.engines.vllm import groups
from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.scheduler import PruningScheduler
from arrol.errors import ConfigError
from vllm_host import SchedulerLoop, assert_nothing_is_left, engine_config, snapshot_of

PROBE, TOTAL = 20, 64


def test_the_stopped_have_exactly_the_probed_tokens_and_one_is_wasted_for_each(make_loop):
    loop = make_loop()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    loop.run()
    assert len(loop.pruned()) == 2
    for request_id, output in loop.answers.items():
        is_stopped = request_id in loop.pruned()
        assert loop.tokens(request_id) == (PROBE if is_stopped else TOTAL)
        assert str(output.finish_reason) == ("stop" if is_stopped else "length")
        if is_stopped:
            assert output.new_token_ids == []
            assert StopReport.parse(output.stop_reason).score == float(request_id[-1])
    assert loop.wasted == len(loop.pruned())
    assert_nothing_is_left(loop)


def test_without_overlap_nothing_is_wasted(model):
    loop = SchedulerLoop(engine_config(model, is_async=False), PruningScheduler, depth=1, snapshot=snapshot_of(PROBE))
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    loop.run()
    assert [loop.tokens(request_id) for request_id in loop.pruned()] == [PROBE, PROBE]
    assert loop.wasted == 0


def test_memory_of_the_stopped_is_free_at_once(make_loop):
    loop = make_loop()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    while not loop.pruned():
        loop.step()
    assert loop.free - loop.num_free == 2  # 30 of 32 places of a block, and two requests are left
    ((before, after), (also_before, also_after)) = loop.scheduler.kv_usage
    assert before > after == also_before > also_after


def test_tables_that_arrive_while_no_request_is_watched_are_not_lost(make_loop):
    loop = make_loop()
    loop.add("plain0", 3)
    loop.run()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    assert len(loop.run().pruned()) == 2


def test_only_the_asked_are_watched_and_only_until_their_last_probe(make_loop):
    loop = make_loop(depth=1)
    loop.add("plain0", TOTAL)
    loop.add_group("g", 1, TOTAL, probe_tokens=PROBE)
    watched = []
    while loop.scheduler.has_requests():
        loop.schedule()
        watched.append(getattr(loop.inflight[-1][0], "arrol_watched", {}))
        loop.step()
    assert {request_id for plan in watched for request_id in plan} == {"g.0"}
    assert [plan["g.0"].start for plan in watched if plan] == [-10, *range(PROBE)]


def test_a_rule_without_probes_watches_no_request(make_loop):
    loop = make_loop()
    loop.add_group("g", 2, TOTAL, rule="never")
    assert len(loop.scheduler.book) == 0
    loop.run()
    assert_nothing_is_left(loop)


def test_requests_are_preempted_scored_again_and_judged_once(model):
    config = engine_config(model, enable_prefix_caching=False)
    loop = SchedulerLoop(config, PruningScheduler, blocks=9, snapshot=snapshot_of(PROBE))
    for name in "abcd":
        loop.add_group(name, 4, TOTAL, probe_tokens=PROBE, barrier_timeout=500)
    loop.run()
    assert sum(request.num_preemptions for request in loop.requests.values()) > 0
    assert max(loop.times_scored.values()) > 1
    assert len(loop.pruned()) == 8
    assert all(loop.tokens(i) == TOTAL for i in loop.requests if i not in loop.pruned())
    assert_nothing_is_left(loop)


def test_a_request_is_stopped_while_it_is_preempted(make_loop):
    loop = make_loop()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    while loop.tokens("g.0") < PROBE:
        loop.step()
    for request in [r for r in loop.requests.values() if r.status == RequestStatus.RUNNING]:
        loop.scheduler.running.remove(request)
        loop.scheduler._preempt_request(request, 0.0)
    while not loop.pruned():
        loop.step()
    assert [loop.requests[i].num_computed_tokens for i in loop.pruned()] == [0, 0], "nothing was computed again"
    assert [loop.tokens(i) for i in loop.pruned()] == [PROBE, PROBE]
    assert [loop.tokens(i) for i in loop.run().requests if i not in loop.pruned()] == [TOTAL, TOTAL]
    assert_nothing_is_left(loop)


@pytest.mark.parametrize("known", range(PROBE - 4, PROBE + 2))
def test_tokens_thrown_away_by_a_reset_of_the_cache_are_not_judged(make_loop, known):
    """Tokens under way are sampled again, so their scores would belong to tokens that no client gets."""
    loop = make_loop()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE, barrier_timeout=10)
    while loop.tokens("g.0") < known:
        loop.step()
    loop.scheduler.reset_prefix_cache(reset_running_requests=True)
    loop.run()
    assert all(loop.tokens(i) >= PROBE for i in loop.requests)
    assert_nothing_is_left(loop)


def test_a_child_that_the_client_aborts_is_not_waited_for(make_loop):
    loop = make_loop()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE, barrier_timeout=1000)
    while loop.tokens("g.0") < 5:
        loop.step()
    loop.abort("g.1")
    loop.run()
    assert len(loop.pruned()) in (1, 2)
    assert [loop.tokens(i) for i in loop.pruned()] == [PROBE] * len(loop.pruned())
    assert_nothing_is_left(loop)


@pytest.mark.parametrize(("floor", "num_pruned"), [(1, 1), (2, 0)])
def test_an_abort_at_the_barrier_releases_its_siblings_and_does_not_count_for_the_floor(make_loop, floor, num_pruned):
    loop = make_loop()
    arguments = pruning_args(group="g", size=3, probe_tokens=PROBE, barrier_timeout=1000, min_survivors=floor)
    loop.add("g.0", 200, pruning=arguments)
    loop.add("g.1", 200, pruning=arguments)
    while loop.tokens("g.0") < 30:
        loop.step()
    loop.add("g.2", 200, pruning=arguments)
    while loop.tokens("g.2") < 10:
        loop.step()
    assert loop.pruned() == []
    loop.abort("g.2")
    loop.step()
    assert len(loop.pruned()) == num_pruned
    loop.run()
    assert_nothing_is_left(loop)


def test_when_all_siblings_end_before_the_probe_the_group_is_over(make_loop):
    loop = make_loop()
    loop.add_group("g", 4, [3, 5, 7, PROBE], probe_tokens=PROBE, report=True)
    loop.run()
    assert {output.stop_reason for output in loop.answers.values()} == {None}
    assert [loop.tokens(f"g.{i}") for i in range(4)] == [3, 5, 7, PROBE]
    assert_nothing_is_left(loop)


def test_the_deadline_judges_candidates_whose_siblings_never_come(make_loop):
    loop, timeout = make_loop(), 9
    arguments = pruning_args(
        group="g",
        size=8,
        probe_tokens=PROBE,
        barrier_timeout=timeout,
        report=True,
        keep_ratio=0.1,
        min_survival=0.05,
        min_survivors=0,
    )
    for index in range(4):
        loop.add(f"g.{index}", TOTAL, pruning=arguments)
    loop.run()
    reports = [StopReport.parse(output.stop_reason) for output in loop.answers.values()]
    assert {report.reason for report in reports} == {"deadline"}
    assert loop.pruned()
    assert {loop.tokens(i) for i in loop.pruned()} == {PROBE + timeout}
    assert len(loop.scheduler.book) == 0


def test_a_group_that_stays_incomplete_is_forgotten(make_loop, monkeypatch):
    monkeypatch.setattr(groups, "IDLE_S", 0.0)
    loop = make_loop()
    loop.add("half.0", 4, pruning=pruning_args(group="half", size=2, probe_tokens=PROBE))
    loop.run()
    loop.add_group("g", 2, TOTAL, probe_tokens=PROBE)
    loop.run()
    assert_nothing_is_left(loop)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrol_group": "h", "arrol_keep_ratio": 3}, "arrol_keep_ratio = 3"),
        ({"arrol_group": "h", "arrol_typo": 1}, "arrol_typo"),
        ({"arrol_group": "h", "arrol_rule": "oracle"}, "oracle"),
        ({"arrol_group": "h", "arrol_probe_tokens": [9]}, "arrol_probe_tokens = [9]: the loaded head was trained at"),
        ({"arrol_size": 3}, "arrol_size = 3: group 'g' has size 2"),
        ({"arrol_index": 0}, "arrol_index = 0: taken in group 'g'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_others_go_on(make_loop, changes, words):
    loop, good = make_loop(), pruning_args(group="g", size=2, probe_tokens=PROBE, min_survivors=1)
    loop.add("plain0", 3)
    loop.run()
    loop.add("g.0", TOTAL, pruning=good)
    loop.add("bad0", TOTAL, pruning=good | changes)
    loop.add("g.1", TOTAL, pruning=good)
    loop.run()
    output = loop.answers["bad0"]
    assert output.stop_reason.startswith("refused:arrol_")
    assert words in output.stop_reason
    assert (str(output.finish_reason), loop.tokens("bad0")) == ("error", 0), "HTTP 500; no trainer trains on it"
    assert len(loop.pruned()) == 1
    assert_nothing_is_left(loop)


def test_a_refusal_is_delivered_when_no_other_request_runs(make_loop):
    loop = make_loop()
    loop.add("bad0", TOTAL, pruning={"arrol_group": "g"})
    assert loop.scheduler.has_requests()
    loop.step()
    assert loop.answers["bad0"].stop_reason.startswith("refused:arrol_size")
    assert_nothing_is_left(loop)


def test_a_head_that_reads_logprobs_refuses_requests_without_them(make_loop):
    loop = make_loop()
    loop.add("plain0", 3)
    loop.run()
    loop.add("bad0", TOTAL, logprobs=None, pruning=pruning_args(group="g", size=1, probe_tokens=PROBE))
    loop.run()
    assert loop.answers["bad0"].stop_reason.startswith("refused:logprobs = None")


def test_all_can_be_aborted_at_once(make_loop):
    loop = make_loop()
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    loop.add("plain0", TOTAL)
    while loop.tokens("g.0") < 8:
        loop.step()
    loop.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
    loop.run()
    assert loop.answers == {}
    assert_nothing_is_left(loop)


def test_each_client_gets_its_own_answers(make_loop):
    loop, arguments = make_loop(), pruning_args(group="g", size=4, probe_tokens=PROBE)
    for index in range(4):
        loop.add(f"g.{index}", TOTAL, client=index % 2, pruning=arguments)
    loop.run()
    assert len(loop.answers) == 4
    assert len(loop.pruned()) == 2


def test_several_probes_are_judged_one_after_the_other(make_loop):
    loop = make_loop(snapshot=snapshot_of(5, 20, 40))
    loop.add_group("g", 8, TOTAL, probe_tokens=(5, 20, 40), probe_keep_ratios=(0.75, 0.5, 0.25), keep_ratio=0.25)
    loop.run()
    assert sorted(loop.tokens(i) for i in loop.requests) == [5, 5, 20, 20, 40, 40, TOTAL, TOTAL]
    assert_nothing_is_left(loop)


def test_long_prompts_fed_in_portions_count_from_their_first_completion_token(config):
    config.scheduler_config.max_num_batched_tokens = 16
    loop = SchedulerLoop(config, PruningScheduler, snapshot=snapshot_of(PROBE))
    loop.scheduler.max_num_scheduled_tokens = 16
    arguments = pruning_args(group="g", size=4, probe_tokens=PROBE)
    for index in range(4):
        loop.add(f"g.{index}", TOTAL, prompt=50 + 7 * index, pruning=arguments)
    loop.run()
    assert len(loop.pruned()) == 2
    assert all(loop.tokens(i) >= PROBE for i in loop.pruned())
    assert_nothing_is_left(loop)


def test_settings_under_which_decisions_would_be_wrong_end_the_start(config):
    config.parallel_config.distributed_executor_backend = "external_launcher"
    config.parallel_config.world_size = 2
    with pytest.raises(ConfigError, match="external_launcher"):
        SchedulerLoop(config, PruningScheduler)


@pytest.mark.parametrize("total", [PROBE, TOTAL])
def test_a_request_stopped_in_the_step_that_accepts_the_probed_token_keeps_it(make_loop, total):
    """So it is with drafts. One that ends in that very step has lost its lottery all the same: it is no survivor."""
    loop = make_loop(lead=1)
    loop.add_group("g", 4, total, probe_tokens=PROBE)
    loop.run()
    assert [loop.tokens(i) for i in loop.pruned()] == [PROBE, PROBE]
    assert [str(loop.answers[i].finish_reason) for i in loop.pruned()] == ["stop", "stop"]
    assert_nothing_is_left(loop)


@pytest.mark.slow
def test_requests_at_random_are_all_answered_once_and_leave_nothing_behind(make_loop):
    """Five thousand: all rules, draws and probes, any prompt and length, clients that leave, memory for a few."""
    probes, rng = (5, 12, 30), np.random.default_rng(0)
    loop = make_loop(blocks=14, snapshot=snapshot_of(*probes), score=lambda request_id, length: rng.normal())
    names, alive, added, target = 0, set(), 0, 5_000
    while added < target or loop.inflight or loop.scheduler.has_requests():
        while added < target and len(loop.scheduler.requests) < 40:
            size, names = int(rng.integers(1, 9)), names + 1
            arguments = pruning_args(
                group=f"g{names}", size=size, rule=str(rng.choice(["uniform", "neyman", "confidence", "paper"])),
                draw=str(rng.choice(["systematic", "bernoulli"])), probe_tokens=probes[: int(rng.integers(1, 4))],
                barrier_timeout=20, min_survivors=int(rng.integers(0, 3)),
            )  # fmt: skip
            for index in range(size):
                request_id = f"g{names}.{index}"
                loop.add(request_id, int(rng.integers(1, 40)), prompt=int(rng.integers(1, 60)), pruning=arguments)
                alive.add(request_id)
            added += size
        loop.step()
        alive &= set(loop.scheduler.requests)
        if rng.random() < 0.05 and alive:
            loop.abort(
                *rng.choice(sorted(alive), size=min(len(alive), int(rng.integers(1, 4))), replace=False).tolist()
            )
    loop.run()
    assert set(loop.answers) == set(loop.requests)
    assert sum(request.num_preemptions for request in loop.requests.values()) > 100
    assert 0.1 < len(loop.pruned()) / added < 0.6
    assert_nothing_is_left(loop)
