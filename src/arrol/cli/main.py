"""``arrol``: train with online rollout pruning, warm-start, compare, evaluate, vote, report, export. Help comes in a
blink: commands load when used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from arrol.errors import ArrolError

EXIT_USER_ERROR = 2
EXIT_STOPPED = 130
OVERRIDES = "Any field of the config can be changed: --section.field VALUE, for example {example}."
EXITS = (
    "Exit status: 0 finished; 2 something to mend, named in one line on stderr, nothing overwritten; 130 stopped "
    "by SIGINT or SIGTERM: train and compare finish the step, save, go on with --resume; a second SIGINT ends at once."
)


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; ``tests/contract`` freezes them."""
    parser = argparse.ArgumentParser(
        prog="arrol",
        description="Online rollout pruning for reinforcement learning with verifiable rewards.",
        epilog=EXITS,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _config_command(commands, "sft", "supervised warm start: make or tune a base model", "--steps 5")
    _config_command(commands, "train", "train a policy with online rollout pruning", "--training.steps 5")
    _config_command(
        commands, "compare", "train several arms on the same prompts and seeds", "--seeds [0,1] --run.training.steps 5"
    )
    commands.add_parser(
        "grpo",
        help="TRL's GRPO with pruning: arrol grpo --config x.yaml, TRL's keys and ours; needs arrol[trl]",
        add_help=False,
        allow_abbrev=False,
    )
    _eval_command(commands)
    _vote_command(commands)
    report = commands.add_parser(
        "report", help="table, plots and one HTML page from the records of runs", allow_abbrev=False
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    report.add_argument("--out", default=None, metavar="DIR", help="where to write; RUN/report when absent")
    report.add_argument("--json", action="store_true", help="print the table as JSON")
    export = commands.add_parser(
        "export", help="policy and estimator of a run's newest checkpoint as a folder to serve", allow_abbrev=False
    )
    export.add_argument("run", metavar="RUN", help="folder of a run")
    export.add_argument("--to", required=True, metavar="DIR", help="new folder to write")
    export.add_argument(
        "--head-size", type=int, default=None, metavar="N", help="widen attention heads without changing the function"
    )
    export.add_argument("--json", action="store_true", help="print JSON")
    info = commands.add_parser(
        "info", help="versions and device, or every field of a config with its meaning", allow_abbrev=False
    )
    info.add_argument("config", nargs="?", metavar="CONFIG", help="TOML file to check and show, resolved")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _eval_command(commands: argparse._SubParsersAction) -> None:
    text = "standard metrics of a model, or of any file of samples"
    epilog = f"{OVERRIDES.format(example='--evaluation.samples_per_prompt 16')} {EXITS}"
    command = commands.add_parser(
        "eval", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog, allow_abbrev=False
    )
    command.add_argument(
        "source",
        nargs="?",
        metavar="CONFIG|RUN",
        help="TOML file of a run, for its model, task and sampling; or the folder of a run, for its newest checkpoint",
    )
    command.add_argument("--estimator", metavar="FILE", help="estimator that arrol export wrote, to score completions")
    command.add_argument("--confidences", action="store_true", help="keep token confidences, for DeepConf's votes")
    command.add_argument(
        "--out", metavar="FILE", help="samples file to write; samples.jsonl in the run's folder when absent"
    )
    _samples_options(command, required=False)


def _vote_command(commands: argparse._SubParsersAction) -> None:
    text = "compare ways to choose an answer on the same samples"
    command = commands.add_parser("vote", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    _samples_options(command, required=True)
    command.add_argument(
        "--rules", metavar="A,B", help="votes, for example majority,rank,confidence:tail:top10; all when absent"
    )
    command.add_argument("--window", type=int, default=2048, metavar="N", help="tokens of a window of DeepConf")


def _samples_options(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "--samples", required=required, metavar="FILE", help="JSONL, JSON or Parquet of any tool, or a folder"
    )
    command.add_argument("--k", metavar="1,4,16", help="numbers of samples; some up to all when absent")
    command.add_argument("--group-by", choices=["key", "prompt"], help="which rows of one completion belong together")
    command.add_argument("--json", action="store_true", help="print JSON, progress to stderr")


def _config_command(commands: argparse._SubParsersAction, name: str, text: str, example: str) -> None:
    epilog = f"{OVERRIDES.format(example=example)} {EXITS}"
    description = f"{text[0].upper()}{text[1:]}."
    command = commands.add_parser(name, help=text, description=description, epilog=epilog, allow_abbrev=False)
    command.add_argument("config", metavar="CONFIG", help="TOML file, see configs/")
    if name != "sft":
        command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    command.add_argument("--json", action="store_true", help="print the final table as JSON, progress to stderr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is explained in ``EXITS``."""
    options, flags = build_parser().parse_known_args(argv)
    if flags and options.command in ("report", "export", "info", "vote"):
        build_parser().error(f"unrecognized arguments: {' '.join(flags)}")
    try:
        return _dispatch(options, flags)
    except ArrolError as error:
        print(f"arrol: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        print(
            f"arrol: {error.filename or 'file'}: {error.strerror or error}; "
            "check the path, its rights and the free space",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        remedy = "go on with --resume" if options.command in ("train", "compare") else "call it again"
        print(f"arrol: interrupted; what was saved before is intact, {remedy}", file=sys.stderr)
        return EXIT_STOPPED


def _dispatch(options: argparse.Namespace, flags: list[str]) -> int:
    """Configs are checked before torch is loaded, so a mistake in one is told in a blink."""
    if options.command == "sft":
        from arrol.configs.sft import load_sft

        warm_start = load_sft(options.config, flags)
        _hush()
        from arrol.cli.sft import run_sft

        return run_sft(warm_start, as_json=options.json)
    if options.command == "train":
        from arrol.configs.run import load_run

        run = load_run(options.config, flags)
        _hush()
        from arrol.cli.train import run_train

        return run_train(run, resume=options.resume, as_json=options.json)
    if options.command == "compare":
        from arrol.configs.run import load_compare

        compare = load_compare(options.config, flags)
        _hush()
        from arrol.cli.compare import run_compare

        return run_compare(compare, resume=options.resume, as_json=options.json)
    if options.command == "grpo":
        from arrol.cli.grpo import run_grpo

        return run_grpo(flags)
    if options.command == "eval":
        _hush()
        from arrol.cli.evaluate import run_eval

        return run_eval(options, flags)
    if options.command == "vote":
        from arrol.cli.vote import run_vote

        return run_vote(options)
    if options.command == "report":
        from arrol.cli.report import run_report

        return run_report(options.runs, options.out, as_json=options.json)
    if options.command == "export":
        _hush()
        from arrol.cli.export import run_export

        return run_export(options.run, options.to, head_size=options.head_size, as_json=options.json)
    from arrol.cli.info import run_info

    return run_info(options.config, as_json=options.json)


def _hush() -> None:
    """One live line is enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
