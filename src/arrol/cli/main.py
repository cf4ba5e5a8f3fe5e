"""``arrol``: train with online rollout pruning, warm-start, compare, report. Help comes in a blink: commands load when
used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from arrol.errors import ArrolError

EXIT_USER_ERROR = 2
OVERRIDES = "Any field of the config can be changed: --section.field VALUE, for example --training.steps 5."


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; ``tests/contract`` freezes them."""
    parser = argparse.ArgumentParser(
        prog="arrol", description="Online rollout pruning for reinforcement learning with verifiable rewards."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _config_command(commands, "sft", "supervised warm start: make or tune a base model", resume=False)
    _config_command(commands, "train", "train a policy with online rollout pruning", resume=True)
    _config_command(commands, "compare", "train several arms on the same prompts and seeds", resume=True)
    report = commands.add_parser("report", help="table, plots and one HTML page from the records of runs")
    report.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    report.add_argument("--out", default=None, metavar="DIR", help="where to write; RUN/report when absent")
    report.add_argument("--json", action="store_true", help="print the table as JSON")
    info = commands.add_parser("info", help="versions and device, or every field of a config with its meaning")
    info.add_argument("config", nargs="?", metavar="CONFIG", help="TOML file to check and show, resolved")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _config_command(commands: argparse._SubParsersAction, name: str, text: str, *, resume: bool) -> None:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=OVERRIDES)
    command.add_argument("config", metavar="CONFIG", help="TOML file, see configs/")
    if resume:
        command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    command.add_argument("--json", action="store_true", help="print the final table as JSON")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 with one line on stderr when the user can mend it."""
    options, flags = build_parser().parse_known_args(argv)
    if flags and options.command in ("report", "info"):
        build_parser().error(f"unrecognized arguments: {' '.join(flags)}")
    try:
        return _dispatch(options, flags)
    except ArrolError as error:
        print(f"arrol: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        print(
            f"arrol: {error.filename or 'file'}: {error.strerror or error}; "
            "check the path, its rights and the free space",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("arrol: interrupted; the newest checkpoint is intact, go on with --resume", file=sys.stderr)
        return 130


def _dispatch(options: argparse.Namespace, flags: list[str]) -> int:
    if options.command in ("sft", "train", "compare"):
        from transformers.utils import logging

        logging.disable_progress_bar()  # one live line is enough
    if options.command == "sft":
        from arrol.cli.sft import run_sft

        return run_sft(options.config, flags, as_json=options.json)
    if options.command == "train":
        from arrol.cli.train import run_train

        return run_train(options.config, flags, resume=options.resume, as_json=options.json)
    if options.command == "compare":
        from arrol.cli.compare import run_compare

        return run_compare(options.config, flags, resume=options.resume, as_json=options.json)
    if options.command == "report":
        from arrol.cli.report import run_report

        return run_report(options.runs, options.out, as_json=options.json)
    from arrol.cli.info import run_info

    return run_info(options.config, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
