"""Wrong inputs, as a new user types them: ``wrong_inputs.toml`` has command, files and the whole message.

Every row ends with exit code 2, one line on stderr, nothing on stdout, and no file written or changed. The commands run
in a folder with ``FILES``, a model ``m``, a run ``runs/done`` with a checkpoint and a warm start ``runs/warm``.
"""

import json
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from arrol.cli.main import build_parser, main
from arrol.cli.words import commands_of
from arrol.records.manifest import write_manifest
from arrol.records.schema import RunRecord, StepRecord
from arrol.records.state import write_state
from arrol.records.store import RecordWriter
from integration import tiny

RUN = """name = "mine"
model = "m"
device = "cpu"
[task]
name = "arithmetic"
[sampling]
max_completion_tokens = 20
[pruning]
rule = "uniform"
probe_tokens = [8]
[training]
group_size = 8
"""
ROW = '{"prompt": "1+1?", "completion": "#### 2", "answer": "2"}\n'
FILES = {
    "run.toml": RUN,
    "compare.toml": '[run]\nmodel = "m"\ntask.name = "arithmetic"\n[[arms]]\nname = "a"\n[[arms]]\nname = "b"\n',
    "sft.toml": 'model = "m"\nsteps = 3\n[task]\nname = "arithmetic"\n',
    "s.jsonl": ROW,
    "torn.jsonl": ROW + '{"prompt": "1+\n' + ROW,
    "words.jsonl": '{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "answer": "four"}\n' * 20,
    "long.jsonl": "".join(json.dumps({"question": f"{n}+1", "answer": "1"}) + "\n" for n in range(60))
    + json.dumps({"question": "1" * 70, "answer": "1"}),
    "gold.jsonl": '{"prompt": "2+2?", "completion": "four", "answer": "four"}\n',
    "data/notes.txt": "",
    "adapters/adapter_config.json": '{"peft_type": "LORA", "base_model_name_or_path": "gone/away/model"}',
    "prefix/adapter_config.json": '{"peft_type": "PREFIX_TUNING", "base_model_name_or_path": "m"}',
    "data/empty/notes.txt": "",
}
"""Name -> content of what lies in the folder of every row."""

ROWS = [
    (row["command"], row.get("files", {}), row["message"])
    for row in tomllib.loads(Path(__file__).with_name("wrong_inputs.toml").read_text("utf-8"))["rows"]
]
"""Command, files of its own, and the whole message after ``arrol: ``."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder in which every command runs."""
    folder = tmp_path_factory.mktemp("world")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    tiny.save_model(folder / "m", alphabet="0123456789+-*=,:;#")
    config = {"name": "done", "model": "m", "task": {"name": "arithmetic"}}
    facts = {"run_id": "x", "command": "arrol", "commit": "0", "dirty": False, "versions": {}, "device": "a CPU"}
    with RecordWriter(folder / "runs" / "done" / "records.jsonl") as records:
        records.write(RunRecord(name="done", arm="done", seed=0, config=config, started_at="2026-01-01", **facts))
        records.write(StepRecord(step=1, metrics={}))
    checkpoint = folder / "runs" / "done" / "checkpoints" / "step-000001"
    shutil.copytree(folder / "m", checkpoint / "policy")
    write_state(checkpoint, "state", {"config": config, "estimator": {"version": 0}})
    write_manifest(checkpoint, {})
    (folder / "runs" / "warm" / "model").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("command", "files", "message"), ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_wrong_input_is_one_line_and_nothing_is_written(command, files, message, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = [make_file(world, *each) for each in files.items()]
    before = contents(world)
    try:
        assert main(shlex.split(command)) == 2
        out, err = capsys.readouterr()
        commands = ", ".join(commands_of(build_parser()))
        whole = message.replace("{world}", str(world)).replace("{commands}", commands)
        assert (out, err) == ("", f"arrol: {whole}\n")
        assert contents(world) == before
    finally:
        for path in made:
            shutil.rmtree(world / path.relative_to(world).parts[0]) if path.parent != world else path.unlink()


def make_file(world, name, content):
    """A file of one row; in a folder of its own, the model's files lie beside it."""
    path = world / name
    if path.parent != world and not path.parent.exists():
        shutil.copytree(world / "m", path.parent)
    path.write_text(content, "utf-8")
    return path


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_the_table_is_large_and_says_each_thing_once():
    assert len(ROWS) > 150
    assert len({(command, *files) for command, files, _ in ROWS}) == len(ROWS)
