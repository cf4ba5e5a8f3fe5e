"""``arrol vote``: ways to choose an answer, compared on the same samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from arrol.cli.evaluate import judge, parsed_ks, print_facts, print_warnings, samples_of
from arrol.cli.tables import print_columns, print_json
from arrol.errors import ConfigError, DataError
from arrol.evaluation.cautions import cautions_of
from arrol.evaluation.judging import is_by_function
from arrol.evaluation.online import online_rows
from arrol.evaluation.summary import (
    Row,
    facts,
    possible_votes,
    require_samples,
    require_votes,
    usual_ks,
    vote_rows,
)


def run_vote(options: argparse.Namespace) -> int:
    console = Console(stderr=options.json, markup=False, highlight=False)
    asked = parsed_ks(options.k)
    if options.window < 1:
        raise ConfigError(f"--window = {options.window}: give a number of tokens from 1")
    names = options.rules.split(",") if options.rules else []
    require_votes([], names)
    warnings: list[str] = []
    problems = samples_of(options, warnings)
    require_votes(problems, names)
    ks = asked or usual_ks(problems)
    require_samples(problems, ks)
    found = judge(problems, options, console)
    if is_by_function(found):
        raise DataError(
            f"--samples = {options.samples!r}: reward functions judged, and no sample has an answer to vote on; use "
            "arrol eval"
        )
    warnings += cautions_of(found)
    names = names or possible_votes(problems)
    with console.status("counting votes"):
        rows = vote_rows(found, names, ks, window=options.window)
        online = online_rows(found, window=options.window)
    if options.json:
        print_json({"facts": facts(found), "warnings": warnings, "votes": rows, "online": online})
    else:
        _print(console, rows, ks)
        _print_online(console, online)
        print_facts(console, found)
    print_warnings(console, warnings)
    return 0


def _print(console: Console, rows: Sequence[Row], ks: Sequence[int]) -> None:
    """A line per vote, a column per k: accuracy, and how far it is ahead of the majority."""
    names = list(dict.fromkeys(row["vote"] for row in rows))
    columns = [[f"k = {k}", *(_cell(row) for row in rows if row["k"] == k)] for k in ks]
    tokens = {row["k"]: row["tokens_per_problem"] for row in rows}
    if all(value is not None for value in tokens.values()):
        names.append("tokens per problem")
        columns = [[*column, f"{tokens[k]:.0f}"] for column, k in zip(columns, ks, strict=True)]
    print_columns(console, "", ["vote", *names], columns)
    console.print(
        "Accuracy, and how far it is ahead of the majority of the same samples; * where the 95% interval of that "
        "leaves 0 out (--json has the intervals).",
        soft_wrap=True,
    )


def _print_online(console: Console, rows: Sequence[Row]) -> None:
    """A column per strategy: what it spends, and the majority of samples that cost or achieve as much."""
    if not rows:
        return
    labels = ["strategy", "accuracy", "tokens per problem", "ahead of the majority of as many tokens"]
    labels += ["95% interval, from", "95% interval, to", "tokens of the majority for equal accuracy"]
    columns = []
    for row in rows:
        needed = row["majority_tokens_at_equal_accuracy"]
        ahead = [f"{row[key]:+.3f}" for key in ("ahead", "ahead_low", "ahead_high")]
        needs = "more than all" if needed is None else f"{needed:.0f}"
        columns.append([row["strategy"], f"{row['value']:.3f}", f"{row['tokens_per_problem']:.0f}", *ahead, needs])
    print_columns(console, "online, replayed on the same samples", labels, columns)


def _cell(row: Row) -> str:
    if row["vote"] == "majority" or row["k"] == 1:
        return f"{row['value']:.3f}"
    mark = "*" if row["ahead_low"] > 0 or row["ahead_high"] < 0 else " "
    return f"{row['value']:.3f} {mark}{row['ahead']:+.3f}"
