"""Words of a command line: options, flags, and what is neither."""

import argparse

import pytest

from arrol.cli.main import build_parser
from arrol.cli.words import Parser, commands_of, parsed, split_flags
from arrol.errors import ConfigError

COMMANDS = ", ".join(commands_of(build_parser()))
KNOWN_ELSEWHERE = "arrol eval and arrol vote have it; leave it out"


@pytest.mark.parametrize(
    ("argv", "options", "flags"),
    [
        (["export", "r", "--to=x", "--head_size", "64"], {"head_size": 64, "to": "x"}, []),
        (["export", "r", "--to=x", "--head-size=64"], {"head_size": 64}, []),
        (["vote", "--samples", "s", "--group_by", "prompt"], {"group_by": "prompt"}, []),
        (["eval", "r", "--group_by=key", "--out-dir", "x"], {"group_by": "key", "source": "r"}, ["--out-dir", "x"]),
        (["eval", "--out-dir", "x", "r"], {"source": "r"}, ["--out-dir", "x"]),
        (["sft", "a.toml", "--bf16"], {"config": "a.toml"}, ["--bf16"]),
        (["sft", "a.toml", "--name", "--json"], {"json": True}, ["--name"]),
        (["grpo", "--config", "x.yaml", "--json", "1"], {"command": "grpo"}, ["--config", "x.yaml", "--json", "1"]),
        (["train", "a.toml", "--res", "x"], {"resume": False}, ["--res", "x"]),
    ],
)
def test_options_are_told_from_flags(argv, options, flags):
    words, found = split_flags(build_parser(), argv)
    parsed = vars(build_parser().parse_args(words))
    assert found == flags
    assert {name: parsed[name] for name in options} == options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", f"COMMAND: missing; choose {COMMANDS}; "
             "arrol --help explains them"),
        ("trainn a.toml", "COMMAND = 'trainn': unknown; write arrol train"),
        ("fly", f"COMMAND = 'fly': unknown; choose {COMMANDS}"),
        ("train", "CONFIG: missing; write arrol train CONFIG"),
        ("report", "RUN: missing; write arrol report RUN"),
        ("vote", "--samples: missing; write arrol vote --samples FILE"),
        ("export r", "--to: missing; write arrol export RUN --to DIR"),
        ("vote --samples", "--samples: has no value; write --samples FILE"),
        ("vote --samples s --window x", "--window = 'x': not a whole number; write --window N"),
        ("vote --samples s --group-by row", "--group-by = 'row': unknown; choose key or prompt"),
        ("train a.toml --resume=1", "--resume = '1': takes no value; write --resume alone"),
        ("train a.toml --resume yes", "'yes': not understood; arrol train takes CONFIG; a field of the config is "
                                      "--section.field VALUE"),
        ("train a.toml steps=5", "'steps=5': not understood; arrol train takes CONFIG; a field of the config is "
                                 "--section.field VALUE"),
        ("vote x --samples s", "'x': not understood; arrol vote takes options only"),
        ("report r --outt x", "--outt: no option of arrol report; write --out"),
        ("report r --training.steps 5", "--training.steps: no option of arrol report; it takes --help, --json, --out"),
        ("report r --samples x", "--samples: no option of arrol report; " + KNOWN_ELSEWHERE),
        ("sft a.toml --samples x", "--samples: no option of arrol sft; " + KNOWN_ELSEWHERE),
        ("train a.toml --plots x", "--plots: no option of arrol train; arrol advise has it; leave it out"),
        ("train a.toml --resum", "--resum: no option of arrol train; write --resume"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line(argv, message):
    with pytest.raises(ConfigError) as caught:
        parsed(build_parser(), argv.split())
    assert str(caught.value) == message


@pytest.mark.parametrize("flags", [["--group-size", "8"], ["--verifier=integer"], ["--training.steps", "1"], ["--zzz"]])
def test_what_may_be_a_field_is_left_to_the_config(flags):
    assert parsed(build_parser(), ["train", "a.toml", *flags])[1] == flags


def test_another_message_of_the_parser_is_passed_on():
    parser = Parser(prog="arrol x")
    with pytest.raises(ConfigError, match=r"^not foreseen; arrol x --help lists what it takes$"):
        parser.error("not foreseen")
    assert set(commands_of(build_parser())) >= {"train", "info"}
    assert all(isinstance(each, argparse.ArgumentParser) for each in commands_of(build_parser()).values())
