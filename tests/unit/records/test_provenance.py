"""Who made a record, and where: commit, versions, device, and no path of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import arrol.records.store as store
from arrol.records.store import (
    device_text,
    portable,
    portable_command,
    portable_path,
    provenance,
)


class TestProvenance:
    def test_paths_of_the_machine_are_removed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert portable_path(str(tmp_path / "runs" / "a")) == "runs/a"
        assert portable_path("/home/anna/models/arithmetic") == "models/arithmetic"
        assert portable_path("/home/anna") == "anna"
        assert portable_path(r"C:\Users\anna\models\base") == "models/base"
        assert portable_path(str(tmp_path)) == "."

    @pytest.mark.parametrize(
        "text", ["models/base", "Qwen/Qwen3-1.7B-Base", "/think", "https://a.b/c/d", "/a/b\n/c", "", "plain words"]
    )
    def test_what_is_no_path_of_the_machine_stays(self, text):
        assert portable_path(text) == text

    def test_nested_values(self):
        assert portable({"a": ["/x/y/z/w", 1], "b": Path("/x/y/z/w"), "c": None}) == {
            "a": ["z/w", 1],
            "b": "z/w",
            "c": None,
        }

    @pytest.mark.parametrize(
        ("argv", "shown"),
        [
            (["/usr/local/bin/arrol", "train", "--out_dir=/tmp/x/y/z"], "arrol train --out_dir=y/z"),
            (["/site-packages/arrol/cli/main.py", "info"], "arrol info"),
            (["/opt/a/b/__main__.py", "report", "/opt/runs/demo"], "arrol report runs/demo"),
            (["benchmarks/generate.py", "--quick"], "python benchmarks/generate.py --quick"),
            (["arrol", "train", "--name", "two words"], "arrol train --name 'two words'"),
            ([], "arrol"),
        ],
    )
    def test_command_as_a_person_would_type_it(self, argv, shown):
        assert portable_command(argv) == shown

    def test_facts_of_this_machine(self):
        facts = provenance(["arrol", "train"], [1, 2], gpu="Some GPU")
        assert facts.seeds == (1, 2)
        assert set(facts.versions) == {"arrol", "python", "torch", "transformers", "numpy"}
        assert facts.device.endswith("Some GPU")
        assert "core" in device_text()
        assert len(facts.commit) == 40 or (facts.commit, facts.dirty) == ("unknown", True)

    def test_commit_and_dirty_flag_of_a_checkout(self, tmp_path, monkeypatch):
        def git(*words: str) -> None:
            subprocess.run(
                ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
                cwd=tmp_path,
                check=True,
                capture_output=True,
            )

        source = tmp_path / "src" / "arrol" / "records" / "store.py"
        source.parent.mkdir(parents=True)
        source.write_text("one")
        monkeypatch.setattr(store, "__file__", str(source))
        monkeypatch.setattr(store.metadata, "distribution", no_distribution)
        assert store._commit() == ("unknown", True)
        git("init", "-q")
        git("add", ".")
        git("commit", "-q", "-m", "x")
        monkeypatch.setenv("GIT_DIR", "/nowhere")  # set while a git hook runs; must not mislead
        commit, dirty = store._commit()
        assert (len(commit), dirty) == (40, False)
        (tmp_path / "notes.txt").write_text("untracked, outside the package")
        assert store._commit() == (commit, False)
        (source.parent / "new.py").write_text("untracked code")
        assert store._commit() == (commit, True)
        (source.parent / "new.py").unlink()
        source.write_text("two")
        assert store._commit() == (commit, True)

    def test_without_git(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(store.metadata, "distribution", no_distribution)
        assert store._commit() == ("unknown", True)

    def test_commit_of_a_wheel_built_from_a_repository(self, monkeypatch):
        class Wheel:
            def read_text(self, _: str) -> str:
                return '{"vcs_info": {"commit_id": "f00"}}'

        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(store.metadata, "distribution", lambda _: Wheel())
        assert store._commit() == ("f00", False)

    def test_run_record_of_a_resume_continues_the_first(self):
        facts = provenance(["arrol", "train"], [4])
        first = facts.run_record(name="demo", arm="grpo", seed=4, config={"out_dir": "/a/b/c/d"})
        second = facts.run_record(name="demo", arm="grpo", seed=4, config={}, previous=first, resume_step=7)
        assert first.config == {"out_dir": "c/d"}
        assert (first.segment, second.segment, second.resume_step) == (0, 1, 7)
        assert first.run_id == second.run_id
        assert first.started_at.endswith("+00:00")
        assert facts.run_record(name="demo", arm="grpo", seed=4, config={}).run_id != first.run_id

    def test_no_torch_is_loaded(self):
        code = "import sys, arrol.records.store as s; s.provenance(['arrol']); assert 'torch' not in sys.modules"
        environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def no_distribution(_: str) -> None:
    raise store.metadata.PackageNotFoundError
