"""However tokens are fed, the features at a probe are those of a direct computation, and each probe is scored once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrol.configs.method import QualityConfig
from arrol.engines.vllm import probing
from arrol.engines.vllm.probing import FIRST_SLOTS, Fed, ProbeReader, Tag, Watch
from arrol.quality.calibration import Calibration
from arrol.quality.features import FeatureLayout
from arrol.quality.head import QualityHead
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import RolloutId

WIDTH, PROBES = 6, (3, 7)
ALL = ("last_hidden", "mean_hidden", "logprobs")
seeded = settings(max_examples=60, deadline=None, derandomize=True)
layouts = pytest.mark.parametrize(
    "names", [ALL, ("last_hidden",), ("logprobs", "mean_hidden"), ("logprobs",)], ids="+".join
)


def snapshot_of(names=ALL, probes=PROBES):
    layout = FeatureLayout(names, WIDTH)
    heads = [QualityHead(layout.num_features, 8, seed=number) for number in range(len(probes))]
    for number, head in enumerate(heads):
        torch.nn.init.normal_(head.second.weight, generator=torch.Generator().manual_seed(number))
    tables = [Calibration(QualityConfig()) for _ in probes]
    return EstimatorSnapshot(layout, probes, heads, tables, version=5)


class Rollout:
    """A completion whose hidden states and log-probabilities are known beforehand."""

    def __init__(self, name, seed=0, *, prompt=4, length=12, probes=PROBES, has_logprobs=True):
        rng = np.random.default_rng(seed)
        self.name, self.prompt, self.probes, self.has_logprobs = name, prompt, probes, has_logprobs
        self.hidden_TD = rng.normal(size=(prompt + length, WIDTH)).astype(np.float32)
        self.logprob_T = -rng.exponential(size=length).astype(np.float32)
        self.rollout_id = RolloutId(1, 2, seed)
        self.tag = Tag("", self.rollout_id)

    def features(self, names, length):
        known_TD, logprob_T = self.hidden_TD[self.prompt :][:length], self.logprob_T[:length]
        parts = {
            "last_hidden": known_TD[-1],
            "mean_hidden": known_TD.mean(0),
            "logprobs": [logprob_T.sum(), logprob_T.min(), logprob_T.mean()],
        }
        return np.concatenate([parts[name] for name in names]).astype(np.float32)


def step(reader, portions, *, drafts=0, between=None):
    """One forward pass over (rollout, start, count), ``drafts`` rows after each of them wrong; returns the scores."""
    fed, rows, sampled = [], [], {}
    for rollout, start, count in portions:
        fed.append(Fed(rollout.name, Watch(start, rollout.probes, rollout.tag), count, len(rows)))
        rows += [*rollout.hidden_TD[rollout.prompt + start :][:count], *np.full((drafts, WIDTH), 99, np.float32)]
        new = rollout.logprob_T[max(start + count, 0) :][:1] if start + count >= 0 else rollout.logprob_T[:0]
        sampled[rollout.name] = new if rollout.has_logprobs else None
    hidden_ND = torch.from_numpy(np.array(rows))
    gathered = reader.gather(fed, hidden_ND)
    hidden_ND.fill_(float("nan"))  # the engine uses its buffer again
    if between is not None:
        between()
    return reader.finish(fed, sampled, gathered)


def play(reader, rollout, cuts):
    """Feed a rollout in portions that end at these completion indices."""
    scores, start = [], -rollout.prompt
    for cut in cuts:
        scores += step(reader, [(rollout, start, cut - start)])
        start = cut
    return scores


def assert_features(reader, rollout, names=ALL, probes=PROBES):
    kept = reader.take_kept()[rollout.rollout_id]
    assert tuple(kept) == probes
    for length in probes:
        np.testing.assert_allclose(kept[length], rollout.features(names, length), rtol=1e-5, atol=1e-6)


def assert_scores(scores, rollouts, names=ALL, probes=PROBES):
    """Each probe of each rollout once, with the head of that probe."""
    assert sorted((s.request_id, s.probe_tokens) for s in scores) == [(r.name, p) for r in rollouts for p in probes]
    known, judge = {rollout.name: rollout for rollout in rollouts}, snapshot_of(names, probes)
    for one in scores:
        rollout = known[one.request_id]
        features_CF = rollout.features(names, one.probe_tokens)[None]
        (expected,) = judge.scores(features_CF, probes.index(one.probe_tokens))
        assert one.score == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert one.confidence == pytest.approx(rollout.logprob_T[: one.probe_tokens].mean(), rel=1e-5)


@layouts
def test_one_token_at_a_time_gives_the_features_of_a_direct_computation(names):
    reader, rollout = ProbeReader(snapshot_of(names)), Rollout("a")
    scores = play(reader, rollout, range(10))
    assert_scores(scores, [rollout], names)
    assert_features(reader, rollout, names)


def test_a_score_comes_in_the_step_in_which_its_token_is_fed():
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a")
    lengths = [[s.probe_tokens for s in step(reader, [(rollout, start, 1)])] for start in range(-1, 8)]
    assert lengths == [[], [], [], [3], [], [], [], [7], []]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32_whatever_the_model_computes_in(dtype):
    """A half-precision sum of 4096 ones would stop growing long before."""
    rollout = Rollout("a", length=4097, probes=(4096,))
    reader = ProbeReader(snapshot_of(("mean_hidden",), (4096,)))
    for start in range(0, 4096, 256):
        fed = [Fed("a", Watch(start, (4096,), rollout.tag), 256, 0)]
        gathered = reader.gather(fed, torch.ones(256, WIDTH, dtype=dtype))
    reader.finish(fed, {}, gathered)
    assert reader.take_kept()[rollout.rollout_id][4096].tolist() == [1.0] * WIDTH


@seeded
@given(seed=st.integers(0, 2**20))
def test_portions_of_any_size_and_recomputation_change_nothing(seed):
    """Four requests of random pace in one batch; a preempted one begins again at the prompt, in other portions, and
    samples nothing until it is back where it was."""
    rng = np.random.default_rng(seed)
    reader = ProbeReader(snapshot_of())
    rollouts = [Rollout(str(i), seed + i, prompt=int(rng.integers(1, 9))) for i in range(4)]
    place, sampled = {r.name: -r.prompt for r in rollouts}, dict.fromkeys("0123", 0)
    scores = []
    while min(place.values()) < 9:
        portions = []
        for rollout in (rollouts[i] for i in rng.permutation(4)):
            start = place[rollout.name]
            if rng.random() < 0.1:
                start = -rollout.prompt
            known = sampled[rollout.name] - start
            if start < 9 and rng.random() < 0.8:
                count = int(rng.integers(1, known + 1))
                portions.append((rollout, start, count))
                start += count
                rollout.has_logprobs = start + 1 > sampled[rollout.name]
                sampled[rollout.name] = max(sampled[rollout.name], start + 1)
            place[rollout.name] = start
        if portions:
            scores += step(reader, portions)
    assert_scores(scores, rollouts)
    kept = reader.take_kept()
    for rollout in rollouts:
        for length in PROBES:
            np.testing.assert_allclose(
                kept[rollout.rollout_id][length], rollout.features(ALL, length), rtol=1e-4, atol=1e-5
            )


def speculate(reader, rollout, accepted):
    """Each step feeds the newest token and three drafts, of which so many are accepted; several tokens are sampled."""
    scores, start = step(reader, [(rollout, -rollout.prompt, rollout.prompt)]), 0
    for count in accepted:
        fed = [Fed(rollout.name, Watch(start, rollout.probes, rollout.tag), 1 + count, 0)]
        right_ND = rollout.hidden_TD[rollout.prompt + start :][: 1 + count]
        hidden_ND = torch.from_numpy(np.vstack([right_ND, np.full((3 - count, WIDTH), 99, np.float32)]))
        sampled = rollout.logprob_T[start + 1 :][: 1 + count]
        scores += reader.finish(fed, {rollout.name: sampled}, reader.gather(fed, hidden_ND))
        start += 1 + count
    return scores


@seeded
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_rejected_drafts_leave_no_trace(accepted):
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a", length=40)
    assert_scores(speculate(reader, rollout, accepted), [rollout])
    assert_features(reader, rollout)


@layouts
def test_two_probes_in_one_portion_are_two_scores(names):
    probes = (2, 3, 5)
    reader, rollout = ProbeReader(snapshot_of(names, probes)), Rollout("a", length=40, probes=probes)
    scores = speculate(reader, rollout, [3, 2])
    assert [s.probe_tokens for s in scores] == [2, 3, 5]
    assert_scores(scores, [rollout], names, probes)
    assert_features(reader, rollout, names, probes)


def test_each_probe_is_scored_once():
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a")
    play(reader, rollout, range(10))
    assert play(reader, rollout, [0, 3, 7, 9]) == []
    assert play(reader, rollout, [9]) == []


@pytest.mark.parametrize(("skipped", "silent"), [(0, [True, True]), (1, [True, True]), (2, [True]), (5, [False, True])])
def test_a_request_that_skipped_a_position_has_no_score(skipped, silent):
    """One that skipped the token at a probe does not reach that probe."""
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a")
    scores = []
    for index in range(-1, 9):
        if index != skipped:
            scores += step(reader, [(rollout, index, 1)])
    assert [np.isnan(s.score) for s in scores] == silent
    assert np.isnan(reader.take_kept()[rollout.rollout_id][7]).all()


def test_a_gap_is_not_mended_by_recomputation():
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a")
    step(reader, [(rollout, 1, 1)])
    assert np.isnan([s.score for s in play(reader, rollout, range(10))]).all()


def test_a_gap_of_one_request_is_not_anothers():
    reader, rollouts = ProbeReader(snapshot_of()), [Rollout("a", 0), Rollout("b", 1)]
    for index in range(-1, 7):
        scores = step(reader, [(r, index, 1) for r in rollouts if (r.name, index) != ("a", 4)])
    assert [(s.request_id, np.isnan(s.score)) for s in scores] == [("a", True), ("b", False)]


@layouts
def test_without_logprobs_only_a_head_that_reads_them_is_silent(names):
    reader, rollout = ProbeReader(snapshot_of(names)), Rollout("a", has_logprobs=False)
    scores = play(reader, rollout, range(10))
    assert [np.isnan(s.score) for s in scores] == ["logprobs" in names] * 2
    assert [s.confidence for s in scores] == [0, 0]


def test_one_missing_logprob_silences_the_probes_behind_it():
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a")
    scores = []
    for start in range(-1, 8):
        rollout.has_logprobs = start != 4
        scores += step(reader, [(rollout, start, 1)])
    assert [np.isnan(s.score) for s in scores] == [False, True]


def test_a_probe_without_a_head_has_no_score():
    reader, rollout = ProbeReader(snapshot_of(probes=(3,))), Rollout("a")
    assert [np.isnan(s.score) for s in play(reader, rollout, range(10))] == [False, True]


def test_without_an_estimator_nothing_is_read():
    reader, rollout = ProbeReader(), Rollout("a")
    assert play(reader, rollout, range(5)) == []
    reader.snapshot = snapshot_of()
    late, fresh = [step(reader, [(r, i, 1)]) for r in (rollout, Rollout("b")) for i in range(5, 7)], None
    assert np.isnan([s.score for scores in late for s in scores]).all()
    fresh = Rollout("c", 3)
    assert_scores(play(reader, fresh, range(10)), [fresh])


@pytest.mark.parametrize(("before", "after"), [(("logprobs",), ALL), (ALL, ("logprobs",)), (("last_hidden",), ALL)])
def test_an_estimator_that_reads_more_is_silent_about_running_requests(before, after):
    reader, rollouts = ProbeReader(snapshot_of(before)), [Rollout("a", 0), Rollout("b", 1)]
    play(reader, rollouts[0], range(3))
    reader.snapshot = snapshot_of(after)
    scores = [s for start in range(2, 8) for s in step(reader, [(rollouts[0], start, 1)])]
    assert [np.isnan(s.score) for s in scores] == [after == ALL] * 2
    assert_scores(play(reader, rollouts[1], range(10)), rollouts[1:], after)


def test_slots_grow_are_used_again_and_begin_at_zero():
    reader = ProbeReader(snapshot_of())
    for wave in range(3):
        rollouts = [Rollout(f"{wave}/{number:03}", 1000 * wave + number) for number in range(FIRST_SLOTS + 40)]
        scores = []
        for start in range(-1, 8):
            scores += step(reader, [(r, start, 1) for r in rollouts])
        assert_scores(scores, rollouts)
        assert len(reader._sum_SD) == 2 * FIRST_SLOTS
        reader.forget([r.name for r in rollouts])
    assert len(reader._free) == len(set(reader._free)) == 2 * FIRST_SLOTS
    assert reader._records == {}


def test_slots_grow_while_others_are_half_way():
    reader, early = ProbeReader(snapshot_of()), Rollout("early", 7)
    scores = play(reader, early, range(3))
    for number in range(FIRST_SLOTS + 1):
        step(reader, [(Rollout(str(number), number), -1, 2)])
    scores += [s for start in range(2, 8) for s in step(reader, [(early, start, 1)])]
    assert_scores(scores, [early])


def test_forgetting_is_harmless_when_it_is_repeated_or_unfounded():
    reader, rollout = ProbeReader(snapshot_of()), Rollout("a")
    play(reader, rollout, range(3))
    reader.forget({"a", "unknown"})
    reader.forget(["a"])
    assert_scores(play(reader, rollout, range(10)), [rollout])


@layouts
@pytest.mark.parametrize("index", [2, 3])
def test_a_request_may_be_forgotten_between_the_halves_of_a_step(names, index):
    """Under asynchronous scheduling the next step has begun, and taken its slot, before this one's tokens come."""
    reader, gone, other = ProbeReader(snapshot_of(names)), Rollout("gone"), Rollout("other", 1)
    play(reader, gone, range(index))

    def next_step():
        reader.forget(["gone"])
        step(reader, [(other, -1, 3)])

    scores = step(reader, [(gone, index - 1, 1)], between=next_step)
    assert [s.probe_tokens for s in scores] == [3] * (index == 3)
    assert "gone" not in reader._records
    rest = [s for start in range(2, 8) for s in step(reader, [(other, start, 1)])]
    assert [np.isnan(s.score) for s in rest] == ["logprobs" in names] * 2, "its first log-probs were never sampled"


def test_the_next_step_may_begin_before_the_tokens_of_this_one_are_known():
    reader, rollouts = ProbeReader(snapshot_of()), [Rollout("a", 0), Rollout("b", 1)]
    scores, flying = [], []
    for start in range(-1, 9):
        fed = [Fed(r.name, Watch(start, PROBES, r.tag), 1, row) for row, r in enumerate(rollouts)]
        hidden_ND = torch.from_numpy(np.stack([r.hidden_TD[r.prompt + start] for r in rollouts]))
        flying.append((fed, {r.name: r.logprob_T[start + 1 :][:1] for r in rollouts}, reader.gather(fed, hidden_ND)))
        if len(flying) == 2:
            scores += reader.finish(*flying.pop(0))
    assert_scores(scores, rollouts)


def test_features_are_kept_on_request_and_taken_once():
    reader, asks, does_not = ProbeReader(snapshot_of()), Rollout("a"), Rollout("b", 1)
    does_not.tag = None
    for rollout in (asks, does_not):
        assert len(play(reader, rollout, range(10))) == 2
    assert list(reader.take_kept()) == [asks.rollout_id]
    assert reader.take_kept() == {}


def test_no_trainer_takes_the_features_of_another():
    reader, mine, other = ProbeReader(snapshot_of()), Rollout("a"), Rollout("b", 1)
    mine.tag, other.tag = Tag("mine", mine.rollout_id), Tag("other", mine.rollout_id)
    for rollout in (mine, other):
        play(reader, rollout, range(10))
    assert reader.take_kept() == {}
    for run, rollout in (("mine", mine), ("other", other)):
        (kept,) = reader.take_kept(run).values()
        np.testing.assert_allclose(kept[PROBES[0]], rollout.features(ALL, PROBES[0]), rtol=1e-5)


def test_features_that_are_not_fetched_are_bounded_and_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr(probing, "MAX_KEPT", 3)
    reader = ProbeReader(snapshot_of())
    for number in range(5):
        play(reader, Rollout(str(number), number), range(10))
    assert list(reader.take_kept()) == [(1, 2, 2), (1, 2, 3), (1, 2, 4)]


def test_kept_features_are_what_was_scored():
    reader, rollouts = ProbeReader(snapshot_of()), [Rollout("a", 0), Rollout("b", 1)]
    scores = [s for start in range(-1, 8) for s in step(reader, [(r, start, 1) for r in rollouts])]
    kept, judge = reader.take_kept(), snapshot_of()
    for one in scores:
        features_F = kept[(1, 2, "ab".index(one.request_id))][one.probe_tokens]
        assert features_F.dtype == np.float32
        assert judge.scores(features_F[None], PROBES.index(one.probe_tokens)) == pytest.approx(one.score, rel=1e-5)
