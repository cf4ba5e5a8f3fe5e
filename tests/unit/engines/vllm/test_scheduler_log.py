"""What the scheduler says in the log: the head, requests that meet none, slots that are too few, refusals."""

import pytest

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)


from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE, HEADLESS, PruningScheduler
from vllm_host import SchedulerLoop, assert_nothing_is_left, engine_config, snapshot_of

PROBE, TOTAL = 20, 64


def test_before_the_first_head_all_are_kept_and_one_warning_says_so(make_loop, said):
    loop = make_loop(snapshot=None, score=None)
    loop.add_group("unpruned", 2, TOTAL, rule="never", probe_tokens=PROBE, observe=True)
    loop.run()
    assert said == [f"arrol: no head; {HEADLESS}"]
    loop.add_group("g", 4, TOTAL, rule="balanced", probe_tokens=PROBE, report=True)
    loop.run()
    assert loop.pruned() == []
    assert {loop.answers[f"g.{i}"].stop_reason for i in range(4)} == {None}
    loop.add_group("h", 4, TOTAL, rule="balanced", probe_tokens=PROBE)
    loop.run()
    assert said[1:] == [f"arrol: group 'g' met no head; {HEADLESS}"]
    assert_nothing_is_left(loop)


def test_a_rule_that_reads_no_quality_needs_no_head(make_loop, said):
    loop = make_loop(snapshot=None, score=None)
    loop.add_group("g", 4, TOTAL, probe_tokens=(PROBE, 40), probe_keep_ratios=(0.75, 0.5), report=True)
    loop.run()
    assert sorted(loop.tokens(i) for i in loop.requests) == [PROBE, 40, TOTAL, TOTAL]
    reports = [StopReport.parse(output.stop_reason) for output in loop.answers.values()]
    assert {report.reason for report in reports} == {"draw"}
    assert sorted({report.survival for report in reports}) == pytest.approx([0.5, 0.75])
    assert said == [f"arrol: no head; {HEADLESS}"]
    assert_nothing_is_left(loop)


def test_the_head_named_by_the_environment_is_there_from_the_start(make_loop, tmp_path, monkeypatch, said):
    snapshot_of(PROBE, version=3).write(tmp_path / "head.safetensors")
    monkeypatch.setenv(ESTIMATOR_VARIABLE, str(tmp_path / "head.safetensors"))
    loop = make_loop(snapshot=None)
    loop.add_group("g", 4, TOTAL, probe_tokens=PROBE)
    assert len(loop.run().pruned()) == 2
    assert {StopReport.parse(loop.answers[i].stop_reason).version for i in loop.pruned()} == {3}
    assert said == [f"arrol: head version 3, probes [{PROBE}]"]


def test_a_group_larger_than_the_slots_is_named_when_it_begins_and_when_it_is_drawn_late(model, said, monkeypatch):
    """vLLM admits 4 of 8 siblings, which run past the probe and are drawn at the deadline: fewer stop than at once."""
    now = [100.0]
    monkeypatch.setattr("arrol.engines.vllm.scheduler.time.monotonic", lambda: now[0])
    loop = SchedulerLoop(engine_config(model, max_num_seqs=4), PruningScheduler, snapshot=snapshot_of(PROBE))
    loop.add_group("g", 8, TOTAL, probe_tokens=PROBE, barrier_timeout=9)
    assert said[1:] == [
        "arrol: max_num_seqs = 4: below the 8 rollouts that are drawn together (arrol_size = 8), so candidates are "
        "drawn at barrier_timeout without the others; raise max_num_seqs, or set arrol_draw = 'bernoulli'"
    ]
    now[0] += 40.0
    loop.run()
    assert said[2:] == [
        "arrol: 4 candidates were drawn at barrier_timeout without their siblings (groups of up to 8, max_num_seqs = "
        "4); raise max_num_seqs to the rollouts in flight, raise arrol_barrier_timeout, or set arrol_draw = "
        "'bernoulli' (7 more since the last warning)"
    ]


@pytest.mark.parametrize(
    ("size", "changes"), [(8, {"draw": "bernoulli"}), (8, {"rule": "never", "observe": True}), (4, {})]
)
def test_no_warning_where_siblings_need_not_meet(model, said, size, changes):
    loop = SchedulerLoop(engine_config(model, max_num_seqs=4), PruningScheduler, snapshot=snapshot_of(PROBE))
    loop.add_group("g", size, TOTAL, probe_tokens=PROBE, barrier_timeout=9, **changes)
    loop.run()
    assert len(said) == 1


def test_refusals_are_in_the_log_but_cannot_flood_it(make_loop, said, monkeypatch):
    loop, now = make_loop(), [100.0]
    monkeypatch.setattr("arrol.engines.vllm.scheduler.time.monotonic", lambda: now[0])
    for name in "abcd":
        now[0] += 40.0 * (name == "d")
        loop.add(f"{name}0", TOTAL, pruning=pruning_args(group="g", size=2, probe_tokens=PROBE) | {"arrol_index": 2})
    problem = "arrol: request refused: arrol_index = 2: must be less than arrol_size = 2"
    assert said[1:] == [problem, f"{problem} (2 more since the last warning)"]
