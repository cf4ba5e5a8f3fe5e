"""Files of a run that are cut off or have a changed bit: each is named, or the resumed run is the same without them."""

import gzip
import os
import random
import shutil
import signal

import pytest

from arrol.cli.main import main
from arrol.errors import CheckpointError
from arrol.records.manifest import read_manifest
from arrol.records.texts import read_texts, text_steps
from arrol.training.checkpoint import sound_checkpoint
from integration import tiny
from integration.sameness import assert_same_run, assert_same_texts


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """It takes longer than all the rest and is drawn from the records alone."""
    monkeypatch.setattr("arrol.cli.train.report_after", lambda *_: None)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, model_folder, prompt_folder):
    """A run that died in step 8 of 8, with checkpoints of steps 4 and 6; and its config."""
    folder = tmp_path_factory.mktemp("killed")
    config = tiny.save_config(folder / "tiny.toml", model_folder, prompt_folder, folder / "runs")
    moment = ("arrol.training.trainer", "Trainer._sample", 8)
    assert tiny.finish(["train", config], folder / "log", moment) == -signal.SIGKILL
    run = folder / "runs" / "tiny"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    return run


@pytest.fixture
def run(killed, config, tmp_path):
    """A copy of it where ``config`` looks for it."""
    shutil.copytree(killed, tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


def damages(content, rng, start=0, end=None):
    """The content cut off, and with one bit changed, at random places between ``start`` and ``end``."""
    place = rng.randrange(start, len(content) if end is None else end)
    changed = bytearray(content)
    changed[place] ^= 1 << rng.randrange(8)
    return content[:place], bytes(changed)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def heard(run):
    """What a resumed run would say; an error is one line."""
    lines = []
    try:
        sound_checkpoint(run / "checkpoints", lines.append)
    except CheckpointError as error:
        lines.append(str(error))
    return lines


def resumed(config, capsys):
    """What resuming prints."""
    capsys.readouterr()
    assert main(["train", str(config), "--resume"]) == 0
    return capsys.readouterr().out


def test_damage_of_every_file_that_a_resumed_run_needs_is_named(run):
    newest, rng = run / "checkpoints" / "step-000006", random.Random(0)
    held = read_manifest(newest).run
    assert set(held) == {"records.jsonl", "rollouts.jsonl", *(f"texts/{step:08d}.json.gz" for step in range(1, 7))}
    ends = dict.fromkeys(files(newest)) | {run / name: each.size for name, each in held.items()}
    assert len(ends) > 15
    assert heard(run) == []
    for path, end in ends.items():
        whole = path.read_bytes()
        for content in damages(whole, rng, end=end):
            path.write_bytes(content)
            lines = heard(run)
            is_blank = path.name == "manifest.json" and lines == []  # a blank that became another
            assert is_blank or any(path.name in line for line in lines), (path, len(whole), content[:9], lines)
            if is_blank:
                path.write_bytes(whole)
                assert read_manifest(newest).run == held
        path.unlink()
        if path.name != "00000001.json.gz":  # as if the size limit had removed it
            assert any(path.name in line for line in heard(run)), path
        path.write_bytes(whole)
    assert heard(run) == []


def test_damage_behind_the_checkpoint_changes_nothing(run, config, capsys, whole):
    """Rows and texts of the step that is computed again, and the checkpoint that is not used."""
    rng, held = random.Random(0), read_manifest(run / "checkpoints" / "step-000006").run
    for name in ("records.jsonl", "rollouts.jsonl"):
        path = run / name
        assert path.stat().st_size > held[name].size
        path.write_bytes(rng.choice(damages(path.read_bytes(), rng, start=held[name].size)))
    (run / "texts" / "00000007.json.gz").write_bytes(gzip.compress(b"{}"))
    for path in files(run / "checkpoints" / "step-000004"):
        path.write_bytes(rng.choice(damages(path.read_bytes(), rng)))
    assert "warning" not in resumed(config, capsys)
    assert_same_run(run, whole)
    assert_same_texts(run, whole)


@pytest.mark.parametrize("kind", ["cut", "changed"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run, config, capsys, whole, kind):
    rng = random.Random(kind)
    path = rng.choice([path for path in files(run / "checkpoints" / "step-000006") if path.name != "manifest.json"])
    path.write_bytes(damages(path.read_bytes(), rng)[kind == "changed"])
    out = resumed(config, capsys)
    name = path.relative_to(run / "checkpoints" / "step-000006").as_posix()
    assert f"warning: tiny: checkpoint step-000006: {name} " in out, path
    assert "; step-000004 is used\n" in out
    assert_same_run(run, whole)
    assert_same_texts(run, whole)


def test_records_that_were_halved_between_two_checkpoints_are_written_again(run, config, capsys, whole):
    records = run / "records.jsonl"
    size = read_manifest(run / "checkpoints" / "step-000004").run["records.jsonl"].size
    os.truncate(records, size + 99)
    assert "warning: tiny: checkpoint step-000006: records.jsonl has " in resumed(config, capsys)
    assert_same_run(run, whole)


def test_damaged_texts_are_named_and_training_goes_on(run, config, capsys, whole):
    path = run / "texts" / "00000003.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert "warning: tiny: texts/00000003.json.gz has " in resumed(config, capsys)
    assert_same_run(run, whole)
    assert {step for step, text in texts_or_damage(run).items() if text is None} == {3}


def texts_or_damage(run):
    found = {}
    for step in text_steps(run):
        try:
            found[step] = read_texts(run, step)
        except ValueError:
            found[step] = None
    return found
