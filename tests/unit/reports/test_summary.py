"""Key numbers and the sentence, on runs whose numbers are given."""

import pytest

from arrol.reports.summary import final_gap, headline, shown_arm, tiles
from arrol.reports.tables import comparison_rows
from arrol.stats import mean_interval, wilson_interval


def arm(plain_run, name, finals, seconds, flops=(), **options):
    metrics = {"compute/flops": flops, **options.pop("metrics", {})}
    return [
        plain_run(name, seed, seconds=seconds, accuracies={0: 0.1, 2: final}, metrics=metrics, **options)
        for seed, final in enumerate(finals)
    ]


@pytest.fixture
def pair(plain_run):
    new = {"pruning/kept_frac": (0.5, 0.5), "quality/auroc_within_prompt": (0.6, 0.7)}
    return [
        *arm(plain_run, "grpo", (0.40, 0.50, 0.45), (2, 2), (4e9, 4e9)),
        *arm(plain_run, "new", (0.42, 0.51, 0.48), (1, 1), (3e9, 3e9), rule="neyman", metrics=new),
    ]


def test_key_numbers_of_a_comparison(pair):
    found = {tile.name: tile for tile in tiles(comparison_rows(pair))}
    assert {name: tile.value for name, tile in found.items()} == {
        "speed-up": "2.00x",
        "kept": "50%",
        "AUROC within prompts": "0.65",
        "compute saved": "25%",
        "final accuracy": "0.470",
    }
    assert found["speed-up"].detail == "training time, new, against grpo"
    assert list(found) == ["speed-up", "kept", "AUROC within prompts", "compute saved", "final accuracy"]


def test_a_single_run_has_no_speed_up_and_estimates_what_it_saved(plain_run):
    metrics = {"tokens/saved": (20, 30), "tokens/generated": (50, 100)}
    run = plain_run(seconds=(1, 1), metrics=metrics | {"compute/flops": (1, 1)})
    found = {tile.name: tile.value for tile in tiles(comparison_rows([run]))}
    assert found == {"generation saved": "25%"}
    unpruned = plain_run(metrics={"pruning/kept_frac": (1, 1)})
    assert tiles(comparison_rows([unpruned])) == tiles(comparison_rows([plain_run()])) == tiles([]) == []


def test_the_first_arm_that_is_no_control_is_shown(plain_run):
    def shown(*names):
        return shown_arm([{"arm": name} for name in names])["arm"]

    assert shown("grpo", "uniform", "mine", "better") == "mine"
    assert shown("grpo", "uniform", "oracle") == "uniform"
    assert shown("grpo") == "grpo"


def test_the_sentence_of_paired_seeds(pair):
    low, high = mean_interval([0.02, 0.01, 0.03])
    assert headline(pair, comparison_rows(pair)) == (
        f"new against grpo shows no clear difference in final accuracy: +0.020 (95% interval {low:+.3f} to "
        f"{high:+.3f}, t over 3 paired seeds); its training took 50% of the time and 75% of the compute."
    )


@pytest.mark.parametrize(("finals", "word"), [((0.8, 0.9, 0.85), "more"), ((0.1, 0.2, 0.15), "less")])
def test_an_interval_without_zero_is_a_difference(plain_run, finals, word):
    runs = [*arm(plain_run, "grpo", (0.40, 0.50, 0.45), ()), *arm(plain_run, "new", finals, ())]
    assert headline(runs, comparison_rows(runs)).startswith(f"new ends {word} accurate than grpo: ")


def test_a_single_seed_compares_its_samples_and_says_so(plain_run):
    runs = [*arm(plain_run, "grpo", (0.4,), ()), *arm(plain_run, "new", (0.5,), ())]
    rows = comparison_rows(runs)
    gap = final_gap(runs, *rows)
    first, new = wilson_interval(40, 100), wilson_interval(50, 100)
    assert gap.mean == pytest.approx(0.1)
    assert gap.low == pytest.approx(0.1 - ((0.5 - new.low) ** 2 + (first.high - 0.4) ** 2) ** 0.5)
    assert gap.high == pytest.approx(0.1 + ((new.high - 0.5) ** 2 + (0.4 - first.low) ** 2) ** 0.5)
    assert "over the samples of one seed, without the spread over seeds" in headline(runs, rows)


def test_one_arm_says_where_it_went_and_nothing_without_an_evaluation(plain_run):
    run = plain_run(seconds=(1, 1), accuracies={0: 0.1, 2: 0.5})
    low, high = wilson_interval(50, 100)
    assert headline([run], comparison_rows([run])) == (
        f"Accuracy of grpo went from 0.100 to 0.500 (95% interval {low:.3f} to {high:.3f}, Wilson over 100 samples) "
        "in 2 steps; nothing is compared with it."
    )
    assert headline([plain_run()], comparison_rows([plain_run()])) == headline([], []) == ""
