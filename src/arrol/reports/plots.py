"""Plots of runs: one PNG per question, and a narrow one with its panels stacked where it has several.

A plot has no title of its own: the page and the Markdown around it have one.

Lines are means over seeds, bands reach from the lowest to the highest seed.
Matplotlib is imported inside the functions and used without pyplot, so its global state does not change.

Legend: ``T`` steps, ``R`` runs of an arm, ``B`` bins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arrol.errors import DataError
from arrol.records.store import Run
from arrol.reports.curves import (
    PHASES,
    aligned,
    column_mean,
    mean_evals,
    mean_rewards,
    phase_means,
    reliability_table,
    rollouts_after_warmup,
    rule_of,
    runs_by_arm,
    smoothed,
    was_at_risk,
)
from arrol.reports.lengths import reward_length
from arrol.reports.panels import PIXELS_PER_INCH, add_legend, new_panels
from arrol.reports.styles import ArmStyle, arm_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arms = Mapping[str, Sequence[Run]]

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#808080",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
PHASE_COLOURS = ("#08519c", "#4292c6", "#fdae6b", "#a63603", "#bdbdbd")


@dataclass(frozen=True)
class Plot:
    """A plot on disk and its title."""

    name: str
    title: str
    path: Path
    narrow: Path | None = None
    """The same with its panels stacked, where it has several."""


def draw_plots(runs: Sequence[Run], out_dir: str | Path) -> list[Plot]:
    """Draw every plot that the runs have data for."""
    import matplotlib as mpl

    arms, drawn = runs_by_arm(runs), []
    with mpl.rc_context(STYLE):
        for name, (title, draw) in FIGURES.items():
            figure = draw(arms) if arms else None
            if figure is None:
                continue
            path, narrow = _save(figure, Path(out_dir) / f"{name}.png"), None
            if name in STACKED and len(figure.axes) > 1:
                stacked = STACKED[name](arms, narrow=True)
                assert stacked is not None
                narrow = _save(stacked, Path(out_dir) / f"{name}-narrow.png")
            is_band = name in BANDS and any(len(members) > 1 for members in arms.values())
            drawn.append(Plot(name, f"{title} {BAND}" if is_band else title, path, narrow))
    return drawn


def _save(figure: Figure, path: Path) -> Path:
    return write_whole(path, partial(figure.savefig, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None}))


def accuracy(arms: Arms, *, narrow: bool = False) -> Figure | None:
    """Accuracy on held-out prompts against steps, training time and tokens generated."""
    curves = {arm: points for arm, runs in arms.items() if (points := mean_evals(runs)) is not None}
    label = "accuracy (share right)"
    return _three_axes(arms, curves, label, with_markers=True, narrow=narrow) if curves else None


def accuracy_compute(arms: Arms) -> Figure | None:
    """Accuracy on held-out prompts against the FLOPs of the run, for the arms that recorded them."""
    points = {arm: found for arm, runs in arms.items() if (found := mean_evals(runs, ["flops_E"])) is not None}
    curves = {arm: (flops, values_RE) for arm, (_, flops, values_RE) in points.items() if not np.isnan(flops).any()}
    if not curves:
        return None
    figure, (axes,) = new_panels(1, 1, 3.2)
    styles = arm_styles(arms)
    power = 3 * int(np.log10(max(1.0, *(flops[-1] for flops, _ in curves.values()))) // 3)
    for arm, (flops, values_RE) in curves.items():
        _line(axes, styles[arm], flops / 10.0**power, values_RE, smooth=False, marker=True)
    _share_axis(axes, [values_RE for _, values_RE in curves.values()])
    axes.set(xlabel=f"FLOPs to generate, score and train (1e{power})", ylabel="accuracy (share right)")
    add_legend(figure, [styles[arm] for arm in curves])
    return figure


def dead_groups(arms: Arms) -> Figure | None:
    """Share of dead groups (all right or all wrong), per step."""
    found = _per_step(arms, "rollout/dead_group_frac", smooth=True)
    if found is None:
        return None
    figure, axes, _ = found
    axes.set(ylabel="share of groups, moving average", ylim=(0, 1.05))
    return figure


def reward(arms: Arms, *, narrow: bool = False) -> Figure | None:
    """Success share of all rollouts started, against steps, training time and tokens generated."""
    curves = {arm: points for arm, runs in arms.items() if (points := mean_rewards(runs)) is not None}
    label = "share right, moving average"
    return _three_axes(arms, curves, label, with_markers=False, narrow=narrow) if curves else None


def kept_share(arms: Arms) -> Figure | None:
    """Share of the candidates that was kept, per step."""
    found = _per_step(arms, "pruning/kept_frac", smooth=False)
    if found is None:
        return None
    figure, axes, styles = found
    for arm, style in styles.items():
        pruning = arms[arm][0].run.section("pruning")
        wanted = pruning.get("keep_ratio") if rule_of(arms[arm][0]) not in ("", "never") else None
        if isinstance(wanted, float):
            axes.axhline(wanted, color=style.colour, linewidth=1, linestyle=":")
    axes.set(ylabel="share kept (dotted: asked for)", ylim=(0, 1.05))
    return figure


def success_before_after(arms: Arms, *, narrow: bool = False) -> Figure | None:
    """Success share of all rollouts and of the survivors, one panel per arm where they differ."""
    keys = ("rollout/success_frac_before", "rollout/success_frac_after")
    pairs = {arm: [aligned(runs, key) for key in keys] for arm, runs in arms.items()}
    shown = [
        arm
        for arm, (before, after) in pairs.items()
        if before and after and not np.array_equal(before[1], after[1], equal_nan=True)
    ]
    if not shown:
        return None
    figure, panels = _arm_panels(len(shown), narrow=narrow)
    styles = arm_styles(arms)
    for axes, arm in zip(panels, shown, strict=True):
        lines = (("all started (weighted)", "--", "#808080"), ("survivors", "-", styles[arm].colour))
        for found, (label, line, colour) in zip(pairs[arm], lines, strict=True):
            assert found is not None
            _line(axes, styles[arm]._replace(colour=colour, line=line, label=label), *found, smooth=True, marker=False)
        axes.set(title=styles[arm].label, xlabel="training step", ylabel="share right", ylim=(0, 1))
        _whole_steps(axes)
        axes.legend(loc="best", fontsize=8)
    return figure


def reliability(arms: Arms) -> Figure | None:
    """Predicted quality against the share of right rollouts, verified rollouts weighted by 1/survival."""
    tables = {arm: rows for arm, runs in arms.items() if (rows := reliability_table(runs))}
    if not tables:
        return None
    figure, (axes,) = new_panels(1, 1, 4.2)
    styles = arm_styles(arms)
    axes.plot([0, 1], [0, 1], color="#a0a0a0", linewidth=1, linestyle=":")
    legend = []
    for arm, rows in tables.items():
        style, weight_B = styles[arm], np.array([row["weight"] for row in rows])
        predicted_B, right_B = np.array([row["quality"] for row in rows]), np.array([row["right"] for row in rows])
        bars = [right_B - [row["low"] for row in rows], [row["high"] for row in rows] - right_B]
        axes.errorbar(predicted_B, right_B, np.maximum(bars, 0), fmt="none", ecolor=style.colour, alpha=0.5)
        axes.plot(predicted_B, right_B, color=style.colour, linestyle=style.line)
        area_B = 20 + 180 * weight_B / weight_B.sum()
        axes.scatter(predicted_B, right_B, s=area_B, color=style.colour, marker=style.marker, zorder=3)
        ece = float(np.sum(weight_B * np.abs(predicted_B - right_B)) / weight_B.sum())
        legend.append(style._replace(label=f"{style.label} (ECE {ece:.3f})"))
    axes.set(
        xlabel="predicted quality (probability)",
        ylabel="share that ended right",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    add_legend(figure, legend)
    return figure


def survival(arms: Arms, *, narrow: bool = False) -> Figure | None:
    """Survival probabilities of the candidates after warm-up, kept and stopped, one panel per arm."""
    drawn = {
        arm: rows
        for arm, runs in arms.items()
        if (rows := [row for run in runs for row in rollouts_after_warmup(run) if was_at_risk(row)])
    }
    if not drawn:
        return None
    figure, panels = _arm_panels(len(drawn), narrow=narrow)
    styles = arm_styles(arms)
    for axes, (arm, rows) in zip(panels, drawn.items(), strict=True):
        kept = [row.survival for row in rows if row.keep]
        stopped = [row.survival for row in rows if not row.keep]
        axes.hist(
            [kept, stopped],
            bins=list(np.linspace(0, 1, 21)),
            stacked=True,
            color=[styles[arm].colour, "#d9d9d9"],
            edgecolor="white",
            label=[f"kept ({len(kept)})", f"stopped ({len(stopped)})"],
        )
        axes.set(title=styles[arm].label, xlabel="survival probability", ylabel="candidates (rollouts)", xlim=(0, 1))
        axes.legend(loc="best", fontsize=8)
    return figure


def phase_times(arms: Arms) -> Figure | None:
    """Mean seconds of a training step by phase, one bar per arm."""
    bars = {arm: phases for arm, runs in arms.items() if sum((phases := phase_means(runs)).values()) > 0}
    if not bars:
        return None
    figure, (axes,) = new_panels(1, 1, 1.6 + 0.45 * len(bars))
    styles = arm_styles(arms)
    left = np.zeros(len(bars))
    for phase, colour in zip(PHASES, PHASE_COLOURS, strict=True):
        widths = np.array([phases[phase] for phases in bars.values()])
        axes.barh(range(len(bars)), widths, left=left, height=0.62, color=colour, label=phase, edgecolor="white")
        left += widths
    for position, total in enumerate(left):
        axes.annotate(f"{total:.3g} s", (total, position), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), [styles[arm].label for arm in bars])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel="time per training step (s), without evaluation", xlim=(0, 1.12 * float(left.max())))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


FIGURES: dict[str, tuple[str, Callable[[Arms], Figure | None]]] = {
    "accuracy": ("Accuracy on held-out prompts", accuracy),
    "reward": ("Success share in training, of all rollouts started", reward),
    "accuracy_compute": ("Accuracy on held-out prompts against total compute", accuracy_compute),
    "reward_length": ("Mean reward by length of the completion, survivors weighted", reward_length),
    "kept_share": ("How many of the candidates were kept", kept_share),
    "success_before_after": ("What pruning does to the share of right rollouts", success_before_after),
    "dead_groups": ("Groups whose survivors are all right or all wrong", dead_groups),
    "reliability": ("Does predicted quality come true? (dot area: share of rollouts; bars: 95%)", reliability),
    "survival": ("Survival probabilities of the candidates", survival),
    "phase_times": ("Where the time of a training step goes", phase_times),
}
"""File name -> (title, how it is drawn); the order is that of the report."""
BAND = "(mean over seeds; band: lowest to highest seed)"
BANDS = ("accuracy", "reward")
"""Plots whose title explains the band, where an arm has several seeds."""
STACKED: dict[str, Callable[..., Figure | None]] = {
    "accuracy": accuracy,
    "reward": reward,
    "success_before_after": success_before_after,
    "survival": survival,
}
"""Plots that may have several panels: drawn stacked with ``narrow``."""


def _three_axes(
    arms: Arms, curves: Mapping[str, tuple[np.ndarray, ...]], ylabel: str, *, with_markers: bool, narrow: bool
) -> Figure:
    """Three panels: against steps, seconds and tokens."""
    figure, panels = new_panels(3, 1, 8.4) if narrow else new_panels(1, 3, 3.4)
    styles = arm_styles(arms)
    tokens = max((float(np.nanmax(curve[2], initial=0)) for curve in curves.values()), default=0)
    scale, prefix = (1e6, "millions") if tokens >= 2e6 else (1e3, "thousands")
    for arm, (steps, seconds, spent, values_RT) in curves.items():
        for axes, x in zip(panels, (steps, seconds, spent / scale), strict=True):
            if not np.isnan(x).all():
                _line(axes, styles[arm], x, values_RT, smooth=False, marker=with_markers)
    xlabels = ("training steps", "training time (s)", f"tokens generated ({prefix})")
    _whole_steps(panels[0])
    for axes, xlabel in zip(panels, xlabels, strict=True):
        axes.set(xlabel=xlabel)
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
    panels[0].set_ylabel(ylabel)
    _share_axis(panels[0], [curve[-1] for curve in curves.values()])
    for axes in panels[1:]:
        axes.sharey(panels[0])
        if narrow:
            axes.set_ylabel(ylabel)
        else:
            axes.tick_params(labelleft=False)
    add_legend(figure, [styles[arm] for arm in curves], markers=with_markers)
    return figure


def _per_step(arms: Arms, key: str, *, smooth: bool) -> tuple[Figure, Axes, dict[str, ArmStyle]] | None:
    """One panel with a metric of every step, and the styles of the arms that have it; None when none has."""
    series = {arm: found for arm, runs in arms.items() if (found := aligned(runs, key)) is not None}
    if not series:
        return None
    figure, (axes,) = new_panels(1, 1, 3.2)
    styles = {arm: style for arm, style in arm_styles(arms).items() if arm in series}
    for arm, (steps_T, values_RT) in series.items():
        _line(axes, styles[arm], steps_T, values_RT, smooth=smooth, marker=False)
    axes.set(xlabel="training step")
    _whole_steps(axes)
    add_legend(figure, list(styles.values()), markers=False)
    return figure, axes, styles


def _line(axes: Axes, style: ArmStyle, x: np.ndarray, values_RT: np.ndarray, *, smooth: bool, marker: bool) -> None:
    """Mean over runs, with a band from the lowest to the highest where there are several."""
    if smooth:
        values_RT = np.array([smoothed(row) for row in values_RT])
    known = ~np.isnan(x) & ~np.isnan(values_RT).all(axis=0)
    x, values_RT = x[known], values_RT[:, known]
    if not x.size:
        return
    axes.plot(
        x,
        column_mean(values_RT),
        color=style.colour,
        linestyle=style.line,
        marker=style.marker if marker or x.size == 1 else "",
        label=style.label,
    )
    if len(values_RT) > 1:
        low, high = np.nanmin(values_RT, axis=0), np.nanmax(values_RT, axis=0)
        axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)


def _share_axis(axes: Axes, values: Sequence[np.ndarray]) -> None:
    """Shares of 0 alone get no axis of negative shares."""
    if all((each <= 0).all() for each in values):
        axes.set_ylim(-0.02, 0.5)


def _whole_steps(axes: Axes) -> None:
    """No tick between two steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _arm_panels(count: int, *, narrow: bool) -> tuple[Figure, list[Axes]]:
    """One panel per arm, two in a row unless ``narrow``."""
    columns = 1 if narrow else min(count, 2)
    rows = -(-count // columns)
    figure, panels = new_panels(rows, columns, 0.5 + 2.9 * rows)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """``write`` a part file and move it into place, so a reader never finds half a file."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except OSError as error:
        shown = str(path)
        raise DataError(f"out = {shown!r}: cannot be written ({error.strerror}); choose another folder") from None
    return path
