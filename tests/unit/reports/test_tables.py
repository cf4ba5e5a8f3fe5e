"""The comparison table, number by number."""

import dataclasses
import json
import math

import pytest

from arrol.records.schema import RolloutRecord
from arrol.reports.tables import (
    ABSENT,
    comparison_notes,
    comparison_rows,
    count_text,
    display_rows,
    escape_markdown,
    flops_text,
    markdown_table,
    markdown_tables,
    speedup,
)
from arrol.stats import wilson_interval


def row_of(runs, arm, **options):
    return next(row for row in comparison_rows(runs, **options) if row["arm"] == arm)


class TestAccuracy:
    def test_three_seeds_have_a_t_interval(self, plain_run):
        finals = (0.50, 0.52, 0.54)
        runs = [plain_run(seed=seed, accuracies={0: 0.2, 5: value}) for seed, value in enumerate(finals)]
        row = row_of(runs, "grpo")
        # sd 0.02, t(0.975, 2) = 4.30265: half = 4.30265 * 0.02 / sqrt(3) = 0.049683
        assert (row["start_accuracy"], row["final_accuracy"]) == pytest.approx((0.2, 0.52))
        assert (row["final_low"], row["final_high"]) == pytest.approx((0.52 - 0.049683, 0.52 + 0.049683), abs=1e-6)
        assert row["interval"] == "t over 3 seeds"
        assert row["seeds"] == [0, 1, 2]

    def test_t_intervals_of_shares_end_at_the_edges(self, plain_run):
        runs = [plain_run(seed=seed, accuracies={5: value}) for seed, value in enumerate((0.9, 1.0))]
        row = row_of(runs, "grpo")
        assert (row["final_low"] > 0, row["final_high"]) == (True, 1.0)

    def test_one_seed_has_a_wilson_interval_over_samples(self, plain_run):
        row = row_of([plain_run(accuracies={5: 0.5})], "grpo")
        assert (row["final_low"], row["final_high"]) == pytest.approx(wilson_interval(50, 100))
        assert row["interval"] == "Wilson over 100 samples"

    def test_an_interval_that_the_evaluation_made_otherwise_is_kept_and_named(self, plain_run):
        run = plain_run(accuracies={5: 0.5})
        wide = dataclasses.replace(run.evals[0], low=0.3, high=0.7)
        row = row_of([dataclasses.replace(run, evals=(wide,))], "grpo")
        assert (row["final_low"], row["final_high"], row["interval"]) == (0.3, 0.7, "as evaluated, over 100 samples")

    def test_a_single_evaluation_is_a_start_or_an_end_but_not_both(self, plain_run):
        start, end = (row_of([plain_run(accuracies={step: 0.4})], "grpo") for step in (0, 7))
        assert (start["start_accuracy"], start["final_accuracy"]) == (0.4, None)
        assert (end["start_accuracy"], end["final_accuracy"]) == (None, 0.4)


class TestCosts:
    def test_sums_and_means_over_seeds(self, plain_run):
        metrics = {"tokens/scored": (1, 2), "tokens/trained": (5, 5)}
        runs = [
            plain_run(seed=0, seconds=(1, 2), tokens=(10, 20), metrics=metrics),
            plain_run(seed=1, seconds=(3, 4), tokens=(30, 40), metrics=metrics),
        ]
        row = row_of(runs, "grpo")
        assert (row["train_s"], row["tokens_generated"]) == (5.0, 50.0)
        assert (row["tokens_scored"], row["tokens_trained"], row["steps"]) == (3.0, 10.0, 2)

    def test_kept_share_counts_candidates_after_warmup(self, plain_run):
        # Step 1 is warm-up; 10 of 100 and 45 of 50 kept after it: 55 / 150.
        metrics = {"pruning/kept_frac": (1, 0.1, 0.9), "pruning/candidates": (100, 100, 50)}
        row = row_of([plain_run("x", rule="paper", warmup=1, metrics=metrics)], "x")
        assert row["kept_frac"] == pytest.approx(55 / 150)

    def test_kept_share_without_candidate_counts_is_a_plain_mean(self, plain_run):
        assert row_of([plain_run(metrics={"pruning/kept_frac": (0.2, 0.4)})], "grpo")["kept_frac"] == pytest.approx(0.3)

    def test_auroc_is_a_mean_after_warmup_of_the_steps_that_have_one(self, plain_run):
        metrics = {
            "quality/auroc_within_prompt": (0.1, 0.6, math.nan, 0.8),
            "quality/auroc_pooled": (0.1, 0.9, 0.9, 0.9),
        }
        row = row_of([plain_run("x", rule="paper", warmup=1, metrics=metrics)], "x")
        assert row["auroc_within_prompt"] == pytest.approx(0.7)
        assert row["auroc_pooled"] == pytest.approx(0.9)


class TestSpeedup:
    def test_same_seeds_take_the_median_of_pairs(self, plain_run):
        base = [plain_run(seed=seed, seconds=(time,)) for seed, time in enumerate((10, 10, 30))]
        arm = [plain_run("x", seed, seconds=(time,)) for seed, time in enumerate((5, 8, 10))]
        assert speedup(base, arm) == 2.0  # 2, 1.25 and 3

    def test_other_seeds_take_the_ratio_of_means(self, plain_run):
        base = [plain_run(seed=seed, seconds=(time,)) for seed, time in enumerate((10, 20))]
        assert speedup(base, [plain_run("x", 7, seconds=(5,))]) == 3.0

    def test_only_steps_that_both_have_are_compared(self, plain_run):
        assert speedup([plain_run(seconds=(4, 4, 4, 4))], [plain_run("x", seconds=(2, 2))]) == 2.0

    @pytest.mark.parametrize("seconds", [(), (0.0,)])
    def test_no_time_no_speedup(self, plain_run, seconds):
        assert speedup([plain_run(seconds=(1,))], [plain_run("x", seconds=seconds)]) is None

    def test_baseline_against_itself(self, plain_run):
        assert row_of([plain_run(seconds=(3,))], "grpo")["speedup"] == 1.0


class TestCompute:
    def runs(self, plain_run):
        """The arm computes 0.5, 0.8 and 0.25 of what the first arm does, step by step, and learns as much."""
        base = [
            plain_run(seed=seed, accuracies={0: 0.2, 2: 0.7}, metrics={"compute/flops": (2e12, 2e12)})
            for seed in range(3)
        ]
        metrics = [
            {"compute/flops": flops, "rollout/per_prompt": (8, 16), "rollout/dead_group_frac": (0.5, 0.1)}
            for flops in ((1e12, 1e12), (1e12, 2.2e12), (0.5e12, 0.5e12))
        ]
        return base + [
            plain_run("x", seed, rule="paper", warmup=1, accuracies={0: 0.2, 2: 0.7}, metrics=metrics[seed])
            for seed in range(3)
        ]

    def test_totals_ratios_and_means_over_all_steps(self, plain_run):
        first, row = comparison_rows(self.runs(plain_run))[:2]
        assert (first["flops"], first["flops_ratio"], first["rollouts_per_prompt"]) == (4e12, 1.0, None)
        assert row["flops"] == pytest.approx(6.2e12 / 3)
        assert row["flops_ratio"] == pytest.approx(0.5)
        assert (row["rollouts_per_prompt"], row["dead_group_frac"]) == pytest.approx((12, 0.3))
        assert row["flops_to_target"] == pytest.approx(0.9 * 2e12)

    def test_columns_and_notes(self, plain_run):
        rows = comparison_rows(self.runs(plain_run))
        first, row = display_rows(rows)[:2]
        assert (first["total compute"], first["rollouts per prompt"], first["dead groups"]) == (
            "4 TFLOP",
            *[ABSENT] * 2,
        )
        assert (row["total compute"], row["compute ratio"], row["compute to 0.650"]) == (
            "2.07 TFLOP",
            "0.50",
            "1.8 TFLOP",
        )
        assert (row["rollouts per prompt"], row["dead groups"]) == ("12.0", "0.30")
        notes = " ".join(comparison_notes(rows))
        for words in ("Compute: FLOPs", "its ratio: to grpo", "time, tokens and compute", "means over all steps"):
            assert words in notes

    def test_records_that_know_neither_show_no_such_column(self, plain_run):
        old = comparison_rows([plain_run(metrics={"rollout/dead_group_frac": (0.5,)}, accuracies={0: 0.1, 1: 0.2})])
        assert old[0]["dead_group_frac"] == 0.5
        heads = list(display_rows(old)[0])
        assert not [head for head in heads if "compute" in head or head in ("dead groups", "rollouts per prompt")]
        assert "ompute" not in " ".join(comparison_notes(old))


class TestTarget:
    def runs(self, plain_run, *arm_finals):
        base = plain_run(seconds=(10, 10), tokens=(100, 100), accuracies={0: 0.2, 1: 0.5, 2: 0.7})
        return [base] + [
            plain_run("x", seed, rule="paper", seconds=(5, 5), tokens=(50, 50), accuracies={0: 0.2, 2: final})
            for seed, final in enumerate(arm_finals)
        ]

    def test_default_is_ninety_percent_of_what_the_baseline_gained(self, plain_run):
        rows = comparison_rows(self.runs(plain_run, 0.7))
        # 0.2 + 0.9 * 0.5 = 0.65: baseline at 10 + (0.65 - 0.5) / 0.2 * 10 = 17.5 s, arm at 0.9 of 10 s and 100 tokens.
        assert rows[0]["target_accuracy"] == pytest.approx(0.65)
        assert (rows[0]["time_to_target_s"], rows[0]["tokens_to_target"]) == pytest.approx((17.5, 175))
        assert (rows[1]["time_to_target_s"], rows[1]["tokens_to_target"]) == pytest.approx((9, 90))

    def test_given_target(self, plain_run):
        row = row_of(self.runs(plain_run, 0.7), "x", target=0.45)
        assert (row["target_accuracy"], row["time_to_target_s"]) == pytest.approx((0.45, 5))

    def test_a_seed_that_never_arrives_counts_as_infinite(self, plain_run):
        two_of_three = row_of(self.runs(plain_run, 0.7, 0.3, 0.65), "x")
        assert two_of_three["target_reached"] == [2, 3]
        assert two_of_three["time_to_target_s"] == pytest.approx(10)
        one_of_two = row_of(self.runs(plain_run, 0.7, 0.3), "x")
        assert (one_of_two["target_reached"], one_of_two["time_to_target_s"]) == ([1, 2], None)
        assert display_rows([one_of_two])[0]["time to 0.650"] == "not reached (1 of 2)"
        assert display_rows([two_of_three])[0]["time to 0.650"] == "10.0 s (2 of 3)"
        cells = display_rows([one_of_two, two_of_three], narrow=True)
        assert [cell["time to 0.650"] for cell in cells] == ["not yet", "10.0 s"]
        assert [cell["reached 0.650"] for cell in cells] == ["1 of 2", "2 of 3"]

    def test_reached_without_a_clock(self, plain_run):
        runs = [plain_run(accuracies={0: 0.1, 2: 0.7}), plain_run("x", seconds=(1, 1), accuracies={0: 0.1, 2: 0.7})]
        assert [cells["time to 0.640"] for cells in display_rows(comparison_rows(runs))] == [ABSENT, "1.8 s"]

    def test_no_target_when_the_baseline_learnt_nothing(self, plain_run):
        rows = comparison_rows([plain_run(seconds=(1,), accuracies={0: 0.5, 1: 0.4})])
        assert rows[0]["target_accuracy"] is None
        assert "time to target" not in display_rows(rows)[0]


class TestRows:
    def test_controls_that_were_not_run_are_a_note_not_a_row(self, plain_run):
        rows = comparison_rows([plain_run("grpo"), plain_run("uniform", rule="uniform")])
        assert [row["arm"] for row in rows] == ["grpo", "uniform"]
        assert "Controls not run: oracle, small_group." in comparison_notes(rows)
        assert "not run" not in " ".join(comparison_notes(rows[:1]))

    @pytest.mark.parametrize("baseline", ["trl", "verl", "grpo"])
    def test_never_is_a_missing_control_where_no_baseline_stands_for_it(self, plain_run, baseline):
        rows = comparison_rows([plain_run(baseline), plain_run("x", rule="paper")])
        assert "Controls not run: uniform, oracle, small_group." in comparison_notes(rows)
        rows = comparison_rows([plain_run(arm, rule="paper") for arm in ("x", "y")])
        assert "Controls not run: never, uniform, oracle, small_group." in comparison_notes(rows)

    def test_a_run_on_its_own_is_no_comparison(self, plain_run):
        assert [row["arm"] for row in comparison_rows([plain_run("x", rule="paper")])] == ["x"]

    def test_rows_are_json(self, comparison):
        rows = comparison_rows(comparison)
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows

    def test_realistic_comparison(self, comparison):
        shown = {row["arm"]: row for row in display_rows(comparison_rows(comparison))}
        assert shown["grpo"]["speed-up"] == "1.00x"
        assert float(shown["balanced"]["speed-up"][:-1]) > 1.2
        assert shown["uniform (control)"]["kept"] == "0.50"
        assert shown["grpo"]["AUROC within prompt"] == ABSENT

    def test_empty_run_and_no_run(self, plain_run):
        row = comparison_rows([plain_run()])[0]
        assert list(display_rows([row])[0]) == ["arm", "seeds"]
        assert row["steps"] is None
        assert comparison_rows([]) == []
        assert markdown_tables([]) == markdown_table([], ("arm", "steps")) == "| arm |\n| :-- |\n"
        assert comparison_notes([]) == []

    def test_notes_say_how_numbers_were_made(self, comparison, plain_run):
        notes = " ".join(comparison_notes(comparison_rows(comparison)))
        for words in ("t over 3 seeds", "against grpo", "Target accuracy 0.5", "Fewer than five seeds"):
            assert words in notes
        five = [plain_run(seed=seed, accuracies={3: 0.5}) for seed in range(5)]
        assert "Fewer than five" not in " ".join(comparison_notes(comparison_rows(five)))


class TestWithoutHead:
    """An oracle whose decisions lost their scores ran its doubly robust correction as ipw."""

    def rows(self, plain_run, algorithm, *, rule="oracle", score=None):
        drawn = () if score is None else (outcome_row(score),)
        run = plain_run("oracle", rule=rule, rollouts=drawn)
        run.run.config["algorithm"] = algorithm
        return comparison_rows([plain_run("grpo"), run])

    @pytest.mark.parametrize(
        ("algorithm", "score", "expected"),
        [
            ({"estimator": "doubly_robust"}, None, True),
            ({"estimator": "doubly_robust"}, math.nan, True),
            ({"correction": "doubly_robust"}, math.nan, True),
            ({"correction": "doubly_robust"}, 0.3, False),
            ({"correction": "doubly_robust"}, None, False),
            ({"estimator": "ipw"}, None, False),
            ({"correction": "plain"}, math.nan, False),
        ],
    )
    def test_it_is_told_by_the_record(self, plain_run, algorithm, score, expected):
        rows = self.rows(plain_run, algorithm, score=score)
        assert [row["without_head"] for row in rows] == [False, expected]
        assert display_rows(rows)[1]["arm"] == f"oracle{'*' * expected} (control)"
        note = "* oracle ran without the head's scores, so its doubly_robust correction was ipw."
        assert (note in comparison_notes(rows)) is expected
        assert (r"| oracle\* (control) |" in markdown_tables(rows)) is expected

    def test_other_rules_keep_their_scores(self, plain_run):
        assert not self.rows(plain_run, {"estimator": "doubly_robust"}, rule="uniform")[1]["without_head"]


def outcome_row(score):
    return RolloutRecord(
        step=3,
        group=0,
        index=0,
        prompt_key="p",
        level=1,
        finish_reason="stop",
        completion_tokens=9,
        reward=1.0,
        score=score,
        quality=score,
        survival=0.5,
        reason="outcome",
        keep=True,
    )


class TestMarkdown:
    def test_three_tables_hold_every_column_once(self, comparison):
        rows = comparison_rows(comparison)
        tables = markdown_tables(rows).split("\n\n")
        heads = [[head.strip() for head in table.splitlines()[0].strip("| ").split("|")] for table in tables]
        assert [head[0] for head in heads] == ["arm"] * 3
        assert sorted(head for group in heads for head in group[1:]) == sorted([*display_rows(rows)[0]][1:])
        for table, head in zip(tables, heads, strict=True):
            lines = table.splitlines()
            assert len(head) <= 8
            assert {line.count(" |") for line in lines} == {len(head)}
            assert lines[1].startswith("| :-- | --: |")
            assert len(lines) == 2 + 4

    def test_chosen_columns(self, comparison):
        table = markdown_table(comparison_rows(comparison), columns=("arm", "final accuracy", "speed-up", "absent"))
        assert table.splitlines()[0] == "| arm | final accuracy (95% interval) | speed-up |"

    def test_hostile_names_stay_text_in_their_cell(self, plain_run):
        table = markdown_table(comparison_rows([plain_run("<script>|[x](y)\n`z`")]), ("arm",))
        assert r"| &lt;script&gt;\|\[x\](y) \`z\` |" in table
        assert "<script>" not in table

    def test_escaping(self):
        assert escape_markdown("a & b\\*") == r"a &amp; b\\\*"
        assert escape_markdown("small_group  x\n") == "small_group x"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, ABSENT),
            (0, "0"),
            (999.4, "999"),
            (999.6, "1 k"),
            (12_345, "12.3 k"),
            (999_400, "999 k"),
            (999_600, "1 M"),
            (1_234_567, "1.23 M"),
            (2.5e9, "2.5 G"),
            (4.2e12, "4.2 T"),
            (4.2e21, "4200 E"),
        ],
    )
    def test_counts(self, value, text):
        assert count_text(value) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(None, ABSENT), (950, "950 FLOP"), (1.234e12, "1.23 TFLOP"), (999.6e12, "1 PFLOP")]
    )
    def test_operations(self, value, text):
        assert flops_text(value) == text


def test_rows_have_the_findings_of_each_seed(plain_run):
    """What ``--json`` of train, compare and report prints."""
    idle = {"tokens/trained": (0.0,) * 3, "rollout/dead_group_frac": (1.0,) * 3}
    runs = [plain_run("grpo", seed, seconds=(1, 1, 1), metrics=idle if seed else {}) for seed in (0, 1)]
    (row,) = comparison_rows(runs)
    assert [(found["seed"], found["kind"]) for found in row["findings"]] == [(1, "nothing_learned"), (1, "dead_groups")]
    assert row["findings"][0]["text"] == "nothing was learned: no rollout trained in any of 3 steps"
