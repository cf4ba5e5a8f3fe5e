"""All or nothing: what was saved comes back, what went wrong leaves the older ones alone."""

import errno
import json
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from arrol.errors import CheckpointError, DataError
from arrol.records.manifest import file_sum
from arrol.records.texts import TextWriter
from arrol.training import checkpoint as module
from arrol.training.checkpoint import (
    SAMPLED,
    Content,
    damaged,
    forget_checkpoints,
    forget_partial,
    load_optimizer,
    load_state,
    manifest_of,
    newest_checkpoint,
    reading,
    require_policy,
    require_same_config,
    save_checkpoint,
    set_aside,
    sound_checkpoint,
)

STATE = {
    "config": {"seed": 0, "training": {"steps": 3}},
    "step": 2,
    "rate": 0.1,
    "nothing": None,
    "name": "a/b",
    "buffers": {
        "0": {"x": np.arange(6.0).reshape(2, 3), "empty": np.zeros((0, 4), np.float32)},
        "1": [np.array(3), [1, 2]],
    },
}


class Folder:
    """Stands for a model or a tokenizer."""

    def __init__(self, name, error=None):
        self.name, self.error = name, error

    def save_pretrained(self, folder):
        if self.error:
            raise self.error
        folder.mkdir(exist_ok=True)
        (folder / self.name).write_text(self.name)


def stepped_optimizer(steps=2):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.5)
    for _ in range(steps):
        (weight**2).sum().backward()
        optimizer.step()
    return weight, optimizer


def save(folder, step=2, *, error=None, state=STATE, run=()):
    parts = Content(Folder("model", error), Folder("tokenizer"), stepped_optimizer()[1], state, dict(run))
    return save_checkpoint(folder, step, parts)


def sound(folder, *parts):
    """What is found below ``folder``, and what was said."""
    heard = []
    path = sound_checkpoint(folder, heard.append, parts or ("",))
    return path and path.name, heard


def without_sums(path):
    """The checkpoint as an older release wrote it."""
    (path / "manifest.json").unlink()
    state = json.loads((path / "state.json").read_text())
    del state["__sums__"]
    (path / "state.json").write_text(json.dumps(state))


def test_what_was_saved_comes_back(tmp_path):
    path = save(tmp_path / "checkpoints")
    assert path.name == "step-000002"
    assert sorted(file.name for file in (path / "policy").iterdir()) == ["model", "tokenizer"]
    state = load_state(path)
    buffers, saved = state.pop("buffers"), {key: value for key, value in STATE.items() if key != "buffers"}
    assert state == saved
    np.testing.assert_array_equal(buffers["0"]["x"], STATE["buffers"]["0"]["x"])
    assert (buffers["0"]["empty"].shape, buffers["0"]["empty"].dtype) == ((0, 4), np.float32)
    assert buffers["1"][0].shape == ()
    assert buffers["1"][1] == [1, 2]
    assert {file.suffix for file in path.iterdir() if file.is_file()} == {".safetensors", ".json"}


def test_an_optimizer_goes_on_where_it_was(tmp_path):
    path = save(tmp_path)
    weight, straight = stepped_optimizer()
    other = torch.nn.Parameter(weight.detach().clone())
    resumed = torch.optim.AdamW([other], lr=9.0)
    load_optimizer(path, resumed, 0.5)
    for parameter, optimizer in ((weight, straight), (other, resumed)):
        parameter.grad = torch.full((2, 2), 0.3)
        optimizer.step()
    assert torch.equal(weight, other)


def test_an_optimizer_that_never_stepped_can_be_saved(tmp_path):
    optimizer = stepped_optimizer(0)[1]
    path = save_checkpoint(tmp_path, 1, Content(Folder("model"), Folder("tokenizer"), optimizer, STATE))
    load_optimizer(path, optimizer, 0.5)
    assert optimizer.state_dict()["state"] == {}


def test_the_newest_checkpoint_counts_and_leftovers_go(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step)
    (tmp_path / "step-x").mkdir()
    (tmp_path / ".partial-000007").mkdir()
    assert newest_checkpoint(tmp_path).name == "step-1000000"
    assert (tmp_path / ".partial-000007").exists()
    forget_partial(tmp_path)
    forget_checkpoints(tmp_path, 2, 1_000_000)
    assert {path.name for path in tmp_path.iterdir()} == {"step-999999", "step-1000000", "step-x"}


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    folder = tmp_path / "checkpoints"
    assert sound(folder) == (None, [])
    for step in (1, 2, 3):
        save(folder, step)
    assert sound(folder) == ("step-000003", [])
    (folder / "step-000003" / "optimizer.safetensors").write_bytes(b"")
    (folder / "step-000002" / "policy" / "model").write_text("m0del")
    size = (folder / "step-000001" / "optimizer.safetensors").stat().st_size
    third = f"checkpoint step-000003: optimizer.safetensors has 0 of its {size} bytes; step-000001 is used"
    second = "checkpoint step-000002: policy/model is not what was written; step-000001 is used"
    assert sound(folder) == ("step-000001", [third, second])
    assert sound(folder, *SAMPLED) == ("step-000003", [])  # sampling needs no optimizer
    (folder / "step-000001" / "state.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        sound_checkpoint(folder, print)
    assert str(caught.value) == (
        f"checkpoint = {str(folder)!r}: step-000003: optimizer.safetensors has 0 of its {size} bytes; step-000002: "
        "policy/model is not what was written; step-000001: state.json is absent; none is whole: copy the damaged "
        f"files back, or begin another run with --model {folder / 'step-000003' / 'policy'} and another --name"
    )


def test_records_before_a_checkpoint_are_part_of_it(tmp_path):
    folder, records = tmp_path / "checkpoints", tmp_path / "records.jsonl"
    for step in (1, 2):
        records.write_text("row\n" * step)
        save(folder, step, run={"records.jsonl": file_sum(records)})
    records.write_text("row\nrow\nrow\n")
    assert sound(folder) == ("step-000002", [])
    records.write_text("row\nro")
    line = "checkpoint step-000002: records.jsonl has 6 of its 8 bytes; step-000001 is used"
    assert sound(folder) == ("step-000001", [line])
    assert sound(folder, *SAMPLED) == ("step-000002", [])
    records.unlink()
    with pytest.raises(CheckpointError, match=r"step-000002: records.jsonl is absent; step-000001: records.jsonl is"):
        sound_checkpoint(folder, print)


def test_damaged_texts_are_said_and_do_not_matter(tmp_path):
    writer = TextWriter(tmp_path, 2**20)
    for step in (1, 2):
        writer.write(step, [])
    folder = tmp_path / "checkpoints"
    save(folder, 2, run=writer.sync())
    (tmp_path / "texts" / "00000002.json.gz").write_bytes(b"")
    name, heard = sound(folder)
    assert name == "step-000002"
    assert len(heard) == 1
    assert heard[0].startswith("texts/00000002.json.gz has 0 of its ")
    assert heard[0].endswith(" bytes: the viewer lacks the completions of that step, training does not need them")


def test_a_manifest_that_is_damaged_or_gone_is_named(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-000003" / "manifest.json").unlink()
    (tmp_path / "step-000002" / "manifest.json").write_text("{}")
    assert sound(tmp_path) == (
        "step-000001",
        [
            "checkpoint step-000003: manifest.json is absent; step-000001 is used",
            "checkpoint step-000002: manifest.json is not what was written; step-000001 is used",
        ],
    )


def test_a_checkpoint_of_an_older_release_is_used_and_said(tmp_path):
    path = save(tmp_path)
    without_sums(path)
    (path / "policy" / "config.json").write_text("{}")
    (path / "policy" / "model.safetensors").write_bytes((path / "state.safetensors").read_bytes())
    text = "checkpoint step-000002 has no manifest.json, as of older releases, so its files were not checked"
    assert sound(tmp_path) == ("step-000002", [text])
    assert manifest_of(path).run == {}
    (path / "policy" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"policy/model.safetensors is damaged or absent; it is the only one"):
        sound_checkpoint(tmp_path, print)


def test_damaged_checkpoints_are_hidden_until_the_next_is_saved(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    set_aside(tmp_path, after=2)
    set_aside(tmp_path, after=2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-000001", "step-000002", ".damaged-step-000003"}
    forget_partial(tmp_path)
    save(tmp_path, 3)
    set_aside(tmp_path, after=2)
    save(tmp_path, 4)
    save(tmp_path, 9)  # of another line of the run
    forget_checkpoints(tmp_path, 2, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"step-000002", "step-000004"}


def test_the_same_step_replaces_a_damaged_one(tmp_path):
    save(tmp_path)
    path = save(tmp_path, state={**STATE, "rate": 0.2})
    assert load_state(path)["rate"] == 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full; free some space"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied; make the folder writable"),
        (
            safetensors.SafetensorError("I/O error: No space left on device (os error 28)"),
            "the disk is full; free some space",
        ),
        (Exception("File too large (os error 27)"), "the disk is full; free some space"),
    ],
)
def test_a_disk_that_refuses_is_one_line_and_older_checkpoints_stay(tmp_path, error, reason):
    folder = tmp_path / "runs" / "mine" / "checkpoints"
    save(folder, 1)
    with pytest.raises(CheckpointError) as caught:
        save(folder, 2, error=error)
    text = str(caught.value)
    assert text.startswith("out_dir = ")
    assert f"the checkpoint could not be saved, {reason} and go on with --resume" in text
    assert "\n" not in text
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_a_mistake_of_ours_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, error=TypeError("not a tensor"))


def test_a_half_deleted_checkpoint_does_not_look_whole(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(module.shutil, "rmtree", lambda *args, **kwargs: None)  # as if killed there
    forget_checkpoints(tmp_path, 1, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000002"]
    assert newest_checkpoint(tmp_path).name == "step-000002"
    assert len(list(tmp_path.iterdir())) == 2  # a reader leaves a checkpoint alone that a run is writing
    forget_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_damaged_state_is_one_line(tmp_path, name, content):
    path = save(tmp_path)
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_state(path)
    begin = f"checkpoint = {str(path)!r}: {name} is damaged or absent; "
    assert str(caught.value) == f"{begin}it is the only one, so give another --name"
    path.with_name("step-000001").mkdir()
    assert str(damaged(path, name)) == f"{begin}delete that folder to go on from an older one"


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("m", "sub/m", True),
        ("../a/m", "/x/a/m", True),
        ("a/m", "b/m", False),
        ("m", "n", False),
        ("", "m", False),
        (None, "m", False),
    ],
)
def test_a_path_seen_from_another_folder_is_the_same(old, new, is_same):
    if is_same:
        require_same_config({"model": old}, {"model": new}, frozenset())
        return
    with pytest.raises(CheckpointError, match=f"^model = {new!r}: the checkpoint was made with {old!r}"):
        require_same_config({"model": old}, {"model": new}, frozenset())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_policy_is_one_line(tmp_path, name):
    path = save(tmp_path)
    shutil.rmtree(path / "policy", ignore_errors=True)
    (path / "policy").mkdir()
    for file in ("config.json", "tokenizer.json"):
        (path / "policy" / file).write_text("{}")
    (path / "policy" / "model.safetensors").write_bytes((path / "state.safetensors").read_bytes())
    require_policy(path)
    (path / "policy" / name).write_text("{")
    with pytest.raises(CheckpointError, match=rf"^checkpoint = '{path}': policy/{name} is damaged or absent; it is"):
        require_policy(path)
    if name != "tokenizer.json":
        (path / "policy" / name).unlink()
        with pytest.raises(CheckpointError, match=f"policy/{name} is damaged or absent"):
            require_policy(path)


def test_a_damaged_optimizer_is_one_line(tmp_path):
    path = save(tmp_path)
    (path / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors is damaged"):
        load_optimizer(path, stepped_optimizer()[1], 0.5)


def test_an_array_that_is_missing_is_damage(tmp_path):
    path = save(tmp_path)
    without_sums(path)
    tree = json.loads((path / "state.json").read_text())
    tree["buffers"]["0"]["x"]["__array__"] = "elsewhere"
    (path / "state.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path)


def test_the_first_field_that_differs_is_named():
    saved = {"a": {"b": 1, "c": [1]}, "d": 2, "free": 1}
    require_same_config(saved, {**saved, "free": 2}, frozenset({"free"}))
    with pytest.raises(CheckpointError) as caught:
        require_same_config(saved, {"a": {"b": 1, "c": [2]}, "d": 3, "free": 2}, frozenset({"free"}), where="run")
    assert str(caught.value) == (
        "a.c = [2]: the run was made with [1]; resume with that value or give the run another name"
    )
    with pytest.raises(CheckpointError, match=r"^e = 1: the checkpoint was made with None"):
        require_same_config(saved, {**saved, "e": 1}, frozenset())


@pytest.mark.parametrize(
    "change", [{"0.exp_avg": np.zeros(3, np.float32)}, {"99.exp_avg": np.zeros(2, np.float32)}, {"x": np.zeros(2)}]
)
def test_moments_of_other_weights_are_one_line(tmp_path, change):
    """AdamW takes them, and fails in its next step."""
    path = save(tmp_path)
    flat = safetensors.numpy.load_file(path / "optimizer.safetensors")
    safetensors.numpy.save_file({**flat, **change}, path / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors is damaged or absent"):
        load_optimizer(path, stepped_optimizer()[1], 0.5)


@pytest.mark.parametrize(
    "error", [KeyError("a"), TypeError("a"), ValueError("a"), RuntimeError("a"), OverflowError("a")]
)
def test_what_cannot_be_loaded_is_damage(tmp_path, error):
    with (
        pytest.raises(CheckpointError, match=r"state.json is damaged or absent"),
        reading(tmp_path / "a", "state.json"),
    ):
        raise error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), DataError("a"), KeyboardInterrupt()])
def test_want_of_memory_and_our_own_errors_are_no_damage(tmp_path, error):
    with pytest.raises(type(error)), reading(tmp_path / "a", "state.json"):
        raise error
