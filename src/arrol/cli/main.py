"""``arrol``: train with online rollout pruning, warm-start, compare, evaluate, vote, report, export.

A command's code loads when the command is called, so help needs no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from arrol.cli.words import Parser, ShowVersion, parsed
from arrol.errors import ArrolError
from arrol.training.stopping import ended_by_signals

if TYPE_CHECKING:
    from arrol.configs.run import RunConfig
    from arrol.configs.sft import SftConfig

EXIT_USER_ERROR = 2
EXIT_STOPPED = 130
EXIT_PIPE = 141
"""As of a program that the signal of a closed pipe ends: ``arrol info CONFIG | head``."""
VISITS = 8
"""Visits of each prompt on which arrol advise judges a lever."""
OVERRIDES = "Any field of the config can be changed: --section.field VALUE, for example {example}."
EXITS = (
    "Exit status: 0 finished; 2 wrong input, named in one line on stderr, nothing overwritten; 130 stopped by SIGINT, "
    "SIGTERM or a closed terminal: train, compare and sft leave what they sample, save and go on with --resume, which "
    "repeats it; a second SIGINT ends at once."
)


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; ``tests/contract`` freezes them."""
    parser = Parser(
        prog="arrol",
        description="Online rollout pruning for reinforcement learning with verifiable rewards.",
        epilog=EXITS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    sft = _command(commands, "sft", "supervised warm start: make or tune a base model", "--steps 5")
    train = _command(commands, "train", "train a policy with online rollout pruning", "--training.steps 5")
    compare = _command(
        commands, "compare", "train several arms on the same prompts and seeds", "--seeds 0,1 --run.training.steps 5"
    )
    demo = _command(
        commands,
        "demo",
        "GRPO with and without pruning on a small task, from a model in this package; 5 minutes on 2 cores",
        "--run.training.steps 5",
    )
    init = _command(commands, "init", "write a commented config for a data file and a model, after looking at both")
    init.add_argument("data", metavar="DATA", help="file, folder, or name of a data set on the hub")
    init.add_argument("--model", required=True, metavar="MODEL", help="folder or hub name of the base model")
    init.add_argument(
        "--reward", action="append", default=[], metavar="MODULE:FUNCTION", help="reward function, in place of answers"
    )
    init.add_argument("--out", default="run.toml", metavar="FILE", help="config to write; default run.toml")
    for command in (sft, train, compare):
        command.add_argument("config", metavar="CONFIG", help="TOML file, see configs/")
    for command in (sft, train, compare, demo):
        command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    for command in (train, compare, demo):
        command.add_argument("--live", action="store_true", help="curves in the terminal, and on a page of each run")
    commands.add_parser(
        "grpo",
        help="TRL's GRPO with pruning: arrol grpo --config x.yaml, TRL's keys and ours; needs the extra trl",
        add_help=False,
        allow_abbrev=False,
    )
    _judging(commands)
    _reading(commands)
    return parser


def _judging(commands: argparse._SubParsersAction) -> None:
    """``eval``, ``vote``, ``lab`` and ``advise``."""
    evaluate = _command(
        commands, "eval", "standard metrics of a model or of a samples file", "--evaluation.samples_per_prompt 16"
    )
    evaluate.add_argument(
        "source",
        nargs="?",
        metavar="CONFIG|RUN|MODEL",
        help="TOML file of a run; folder of a run, for its newest checkpoint; folder or hub name of a model",
    )
    evaluate.add_argument("--estimator", metavar="FILE", help="estimator that arrol export wrote, to score completions")
    evaluate.add_argument("--confidences", action="store_true", help="keep token confidences, for DeepConf's votes")
    evaluate.add_argument("--out", metavar="FILE", help="file to write: samples (RUN/samples.jsonl), or verdicts")
    vote = _command(commands, "vote", "compare ways to choose an answer on the same samples")
    for command in (evaluate, vote):
        _samples_options(command, required=command is vote)
    vote.add_argument(
        "--rules", metavar="A,B", help="votes, for example majority,rank,confidence:tail:top10; default all"
    )
    vote.add_argument("--window", type=int, default=2048, metavar="N", help="tokens of a window of DeepConf")
    _lab_options(
        _command(commands, "lab", "collect rollouts with gradients, and judge designs on them", "--task.max_ops 8")
    )
    _advise_options(_command(commands, "advise", "what each lever would gain on a workload, and one recommendation"))


def _reading(commands: argparse._SubParsersAction) -> None:
    """``report``, ``view``, ``export`` and ``info``."""
    report = _command(commands, "report", "table, plots and one HTML page from the records of runs")
    report.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    report.add_argument("--out", default=None, metavar="DIR", help="where to write; default RUN/report")
    view = _command(commands, "view", "the rollouts of runs as a page on this machine, also while they train")
    view.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    view.add_argument(
        "--port", type=int, metavar="N", help="port on 127.0.0.1; default the first free one from 8017 on"
    )
    view.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
    export = _command(commands, "export", "policy and estimator of a run's newest checkpoint as a folder to serve")
    export.add_argument("run", metavar="RUN", help="folder of a run")
    export.add_argument("--to", required=True, metavar="DIR", help="new folder to write")
    export.add_argument(
        "--head-size", type=int, default=None, metavar="N", help="widen attention heads without changing the function"
    )
    info = _command(
        commands, "info", "versions and device, or every field of a config with its meaning", "--pruning.rule paper"
    )
    info.add_argument("config", nargs="?", metavar="CONFIG", help="TOML file to check and show, resolved")


def _command(commands: argparse._SubParsersAction, name: str, text: str, example: str = "") -> argparse.ArgumentParser:
    """A command; ``example`` shows one of the config's flags that it takes."""
    epilog = f"{OVERRIDES.format(example=example)} {EXITS}" if example else EXITS
    description = f"{text[0].upper()}{text[1:]}."
    command = commands.add_parser(name, help=text, description=description, epilog=epilog, allow_abbrev=False)
    command.add_argument("--json", action="store_true", help="print JSON, progress to stderr")
    return command


def _lab_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="CONFIG|RUN|POOL",
        help="TOML file of a run, or the folder of one, to collect; a pool (.safetensors) to judge",
    )
    command.add_argument("--out", metavar="POOL", help="pool to write; default RUN/pool.safetensors")
    for name, default, text in (
        ("--prompts", 64, "training prompts of the pool"),
        ("--rollouts", 96, "rollouts of each prompt"),
        ("--sketch-size", 512, "numbers of a gradient's sketch; 0 leaves gradients out"),
        ("--visits", 64, "visits of each prompt on which a design is judged"),
        ("--workers", 1, "processes that judge designs"),
    ):
        command.add_argument(name, type=int, default=default, metavar="N", help=f"{text}; default {default}")
    command.add_argument(
        "--parameters", action="append", default=[], metavar="PATTERN", help="parameters to sketch, such as '*.29.*'"
    )
    command.add_argument("--record", metavar="FILE", help="file of records to write, as results/ holds them")
    command.add_argument("--designs", metavar="FILE", help="TOML file of designs to judge instead of the usual ones")
    command.add_argument("--peers", action="store_true", help="judge published rules too, at the config's group size")
    command.add_argument(
        "--cost", action="append", default=[], metavar="NAME", help="flops, measured, 1.3b, 7b, 13b, or such as 4:3"
    )


def _advise_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="CONFIG|RUN|POOL|SAMPLES",
        help="pool of arrol lab, or the config or run that it is of; records of a run; completions with rewards",
    )
    command.add_argument(
        "--cost", action="append", default=[], metavar="NAME", help="as in arrol lab; the first ranks the levers"
    )
    command.add_argument("--group-size", type=int, metavar="N", help="your own group size; default the source's")
    command.add_argument(
        "--visits", type=int, default=VISITS, metavar="N", help=f"visits of each prompt per lever; default {VISITS}"
    )
    command.add_argument(
        "--designs", metavar="FILE", help="TOML file of designs to judge in addition to the usual levers"
    )
    command.add_argument("--plots", metavar="DIR", help="write plots there")
    _reading_options(command)


def _samples_options(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "--samples", required=required, metavar="FILE", help="JSONL, JSON, CSV, TSV or Parquet of any tool, or a folder"
    )
    command.add_argument("--k", metavar="1,4,16", help="numbers of samples; default some up to all")
    _reading_options(command)


def _reading_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--group-by", choices=["key", "prompt"], help="which rows of one completion belong together")
    command.add_argument(
        "--verifier",
        choices=["integer", "symbolic"],
        help="judge every completion of the file anew, with this verifier",
    )
    command.add_argument(
        "--mark", action="append", default=[], metavar="TEXT", help="text before an answer, such as '####'; judges anew"
    )
    command.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of a field, such as answer=solution"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; ``EXITS`` explains the status that is returned."""
    command = None
    try:
        options, flags = parsed(build_parser(), sys.argv[1:] if argv is None else argv)
        command = options.command
        with nullcontext() if command == "grpo" else ended_by_signals():  # TRL's launcher has handlers of its own
            status = _dispatch(options, flags)
        sys.stdout.flush()  # a pipe that was closed is met here, not at exit
        return status
    except ArrolError as error:
        print(f"arrol: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - where the interpreter writes what is left at exit
        return EXIT_PIPE
    except OSError as error:
        print(
            f"arrol: {error.filename or 'file'}: {error.strerror or error}; "
            "check the path, its rights and the free space",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        remedy = "go on with --resume" if command in ("sft", "train", "compare", "demo") else "call it again"
        print(f"arrol: interrupted; what was saved before is intact, {remedy}", file=sys.stderr)
        return EXIT_STOPPED


def _dispatch(options: argparse.Namespace, flags: list[str]) -> int:
    """Run the command."""
    if options.command in ("sft", "train", "compare", "demo"):
        return _dispatch_config(options, flags)
    if options.command == "grpo":
        from arrol.cli.names import require_trl_names

        require_trl_names(flags)
        from arrol.cli.grpo import run_grpo

        return run_grpo(flags)
    if options.command in ("eval", "lab", "advise", "export"):
        _check_source(options, flags)
    if options.command == "eval":
        from arrol.cli.evaluate import run_eval

        return run_eval(options, flags)
    if options.command == "init":
        from arrol.cli.first_config import draft

        _before_loading(draft(options.data, options.model, options.reward))
        from arrol.cli.init import run_init

        return run_init(options)
    if options.command == "vote":
        from arrol.cli.vote import run_vote

        return run_vote(options)
    if options.command == "lab":
        from arrol.cli.lab import run_lab

        return run_lab(options, flags)
    if options.command == "advise":
        from arrol.cli.advise import run_advise

        return run_advise(options)
    if options.command == "report":
        from arrol.cli.report import run_report

        return run_report(options.runs, options.out, as_json=options.json)
    if options.command == "view":
        from arrol.cli.view import run_view

        return run_view(options.runs, port=options.port, browser=not options.no_browser, as_json=options.json)
    if options.command == "export":
        from arrol.cli.export import run_export

        return run_export(options.run, options.to, head_size=options.head_size, as_json=options.json)
    from arrol.cli.info import run_info

    return run_info(options.config, flags, as_json=options.json)


def _dispatch_config(options: argparse.Namespace, flags: list[str]) -> int:
    """Configs, the names in them and the runs to resume are checked before torch is loaded."""
    from arrol.cli.run_folder import require_run
    from arrol.configs.learning import require_signal

    if options.command == "sft":
        from arrol.configs.sft import load_sft

        warm_start = load_sft(options.config, flags)
        if options.resume:
            require_run([Path(warm_start.out_dir) / warm_start.name])
        _before_loading(warm_start)
        from arrol.cli.sft import run_sft

        return run_sft(warm_start, resume=options.resume, as_json=options.json)
    if options.command == "train":
        from arrol.configs.run import load_run

        run = load_run(options.config, flags)
        require_signal(run)
        if options.resume:
            require_run([Path(run.out_dir) / run.name])
        _before_loading(run)
        from arrol.cli.train import run_train

        return run_train(run, resume=options.resume, live=options.live, as_json=options.json)
    from arrol.configs.run import load_compare, planned_runs

    if options.command == "demo":
        from arrol.cli.demo import CONFIG, demo_flags

        compare = load_compare(CONFIG, demo_flags(flags))
    else:
        compare = load_compare(options.config, flags)
    plan = [config for _, config in planned_runs(compare)]
    for config in plan:
        require_signal(config)
    if options.resume:
        require_run([Path(config.out_dir) / config.name for config in plan])
    _before_loading(*plan)
    from arrol.cli.compare import run_compare

    return run_compare(compare, resume=options.resume, live=options.live, as_json=options.json)


def _check_source(options: argparse.Namespace, flags: list[str]) -> None:
    """As :func:`_before_loading`, for a command whose source is a config, a run or a file."""
    source = getattr(options, "source", None)
    is_file = getattr(options, "samples", None) or str(source).endswith(".safetensors")
    if options.command in ("eval", "lab") and source and not is_file:
        from arrol.cli.policies import find_policy

        policy = find_policy(source, flags, options.command, lambda _: None, ("state.",))  # the command checks it all
        _before_loading(policy.config.model_copy(update={"model": policy.source}))
        return
    if options.command != "advise" and not getattr(options, "samples", None):  # records and files need no transformers
        _before_loading()


def _before_loading(*configs: RunConfig | SftConfig) -> None:
    """Check names and rewards of configs; then hide transformers' bars, which would break the one live line of ours."""
    from arrol.cli.names import require_names, require_rewards

    for config in configs:
        require_names(config)
    require_rewards([config.task for config in configs])
    from transformers.utils import logging

    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
