"""Every picture is drawn from what there is, wide or narrow, and touches nothing outside its file."""

import dataclasses
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import arrol.reports.plots as plots
from arrol.errors import DataError
from arrol.reports.panels import NARROW_INCHES, PIXELS_PER_INCH
from arrol.reports.plots import FIGURES, STACKED, draw_plots

NARROW = round(NARROW_INCHES * PIXELS_PER_INCH)


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


@pytest.fixture(scope="module")
def drawn(comparison, tmp_path_factory):
    return draw_plots(comparison, tmp_path_factory.mktemp("plots"))


def test_every_question_has_its_picture(drawn):
    assert [plot.name for plot in drawn] == list(FIGURES)
    for plot in drawn:
        width, height = size_of(plot.path)
        assert width == (1200 if plot.narrow else NARROW)
        assert 200 < height < 2000
        assert plot.path.name == f"{plot.name}.png"
        assert plot.title.isascii()


def test_plots_with_several_panels_have_a_stacked_form(drawn):
    assert {plot.name for plot in drawn if plot.narrow} == set(STACKED)
    for plot in drawn:
        if plot.narrow:
            width, height = size_of(plot.narrow)
            assert width == NARROW
            assert height > size_of(plot.path)[1]


def test_the_title_is_left_to_the_page(comparison):
    arms = {"grpo": [run for run in comparison if run.run.arm == "grpo"]}
    figure = plots.accuracy(arms)
    assert figure.get_suptitle() == ""
    assert figure.axes[0].get_ylabel() == "accuracy (share right)"


def test_no_half_written_file_is_left(drawn):
    files = sorted([f"{name}.png" for name in FIGURES] + [f"{name}-narrow.png" for name in STACKED])
    assert sorted(path.name for path in drawn[0].path.parent.iterdir()) == files


def test_the_same_runs_draw_the_same_bytes(plain_run, tmp_path):
    runs = [plain_run(seconds=(1, 2), accuracies={0: 0.1, 2: 0.3})]
    first, second = (draw_plots(runs, tmp_path / name)[0].path.read_bytes() for name in "ab")
    assert first == second


def test_one_seed_one_arm_one_evaluation(plain_run, tmp_path):
    (plot,) = draw_plots([plain_run(accuracies={4: 0.4})], tmp_path)
    assert plot.name == "accuracy"


def test_an_empty_run_draws_nothing(plain_run, tmp_path):
    assert draw_plots([plain_run()], tmp_path) == []
    assert draw_plots([], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_arm_without_data_is_left_out_of_the_picture(plain_run):
    arms = {"grpo": [plain_run(accuracies={0: 0.1, 1: 0.2})], "new": [plain_run("new")]}
    figure = plots.accuracy(arms)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grpo"]
    assert [len(axes.lines) for axes in figure.axes] == [1, 0, 0]  # costs are unknown


def test_compute_is_drawn_for_the_arms_that_know_it(plain_run):
    accuracies = {0: 0.1, 1: 0.2}
    known = plain_run("new", rule="paper", accuracies=accuracies, metrics={"compute/flops": (2.5e12,)})
    old = {"grpo": [plain_run(accuracies=accuracies)]}
    assert plots.accuracy_compute(old) is None
    figure = plots.accuracy_compute({**old, "new": [known]})
    (axes,) = figure.axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0, 2.5]]
    assert axes.get_xlabel().endswith("(1e12)")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["new"]


def test_shares_of_zero_have_no_axis_of_negative_shares(plain_run):
    flops = {"compute/flops": (2.5e12,)}
    for value, least in ((0.0, -0.02), (0.25, 0.2)):
        arms = {"grpo": [plain_run(accuracies={0: value, 1: value}, metrics=flops)]}
        for figure in (plots.accuracy(arms), plots.accuracy_compute(arms)):
            low, high = figure.axes[0].get_ylim()
            assert least <= low <= value < high


def test_dead_groups_are_drawn_step_by_step(plain_run):
    run = plain_run(metrics={"rollout/dead_group_frac": (0.5, 0.25)})
    (axes,) = plots.dead_groups({"grpo": [run], "x": [plain_run("x")]}).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.5, 0.25]]
    assert plots.dead_groups({"grpo": [plain_run()]}) is None


def test_before_and_after_is_drawn_where_pruning_changed_something(plain_run):
    keys = ("rollout/success_frac_before", "rollout/success_frac_after")
    same, other = ({keys[0]: (0.2, 0.3), keys[1]: after} for after in ((0.2, 0.3), (0.4, 0.5)))
    arms = {"grpo": [plain_run(metrics=same)], "x": [plain_run("x", metrics=other)]}
    assert [axes.get_title() for axes in plots.success_before_after(arms).axes] == ["x"]
    assert plots.success_before_after({"grpo": arms["grpo"]}) is None


def test_survival_shows_only_those_at_risk(comparison, plain_run):
    arms = {"balanced": [run for run in comparison if run.run.arm == "balanced"]}
    (axes,) = plots.survival(arms).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    at_risk = [row for run in arms["balanced"] for row in run.rollouts if row.reason == "draw"]
    assert labels == [
        f"kept ({sum(row.keep for row in at_risk)})",
        f"stopped ({sum(not row.keep for row in at_risk)})",
    ]
    warm = plain_run(rollouts=tuple(row for row in arms["balanced"][0].rollouts if row.reason == "warmup"))
    assert plots.survival({"x": [warm]}) is None


def test_reliability_says_the_error(comparison):
    arms = {"balanced": [run for run in comparison if run.run.arm == "balanced"]}
    (text,) = plots.reliability(arms).legends[0].get_texts()
    assert text.get_text().startswith("balanced (ECE 0.0")


def test_phase_bars_add_up_to_the_step(comparison):
    arms = {"grpo": [run for run in comparison if run.run.arm == "grpo"]}
    (axes,) = plots.phase_times(arms).axes
    total = sum(bar.get_width() for bars in axes.containers for bar in bars)
    steps = [step.metrics["time/step_s"] for run in arms["grpo"] for step in run.steps]
    assert total == pytest.approx(sum(steps) / len(steps))


def test_hostile_arm_names_draw_without_a_warning(learning_run, tmp_path):
    names = ("grpo", "$\\frac{", "_x", "\u6f22\u5b57 <b>", "y" * 200)
    runs = [learning_run(name, 0, "never" if name == "grpo" else "paper", num_steps=8, warmup=2) for name in names]
    widths = {plot.name: size_of(plot.path)[0] for plot in draw_plots(runs, tmp_path)}
    assert widths == {name: 1200 if name in STACKED else NARROW for name in FIGURES}


def test_a_folder_that_cannot_be_written_is_a_one_line_error(plain_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out = .*accuracy\.png': cannot be written"):
        draw_plots([plain_run(accuracies={1: 0.4})], tmp_path / "file")


def test_global_state_of_matplotlib_stays(comparison, tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_plots([dataclasses.replace(comparison[0], rollouts=())], tmp_path)
    assert dict(mpl.rcParams) == before


def test_import_loads_neither_matplotlib_nor_torch():
    code = (
        "import sys, arrol.reports.page, arrol.reports.plots\n"
        "assert not {'matplotlib', 'torch', 'transformers', 'arrol.training', 'arrol.evaluation'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(plots.__file__).parents[2])})
