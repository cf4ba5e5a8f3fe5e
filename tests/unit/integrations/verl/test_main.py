"""The helper as a command; verl's own config is composed in tests/with_verl."""

import pytest

from arrol.errors import ConfigError
from arrol.integrations.verl import __main__ as helper
from arrol.integrations.verl import derive, refusals
from integrations.verl.test_derive import CONFIG, applied, changed


@pytest.fixture(autouse=True)
def fixed_config(monkeypatch):
    monkeypatch.setattr(refusals, "trl_conflict", lambda: None)
    monkeypatch.setattr(helper, "compose", lambda overrides: CONFIG)


def test_lines_go_to_standard_output(capsys):
    assert helper.main(["data.train_batch_size=8"]) == 0
    assert capsys.readouterr().out.splitlines() == derive.derived_overrides(CONFIG)


def test_a_refusal_is_one_line_and_code_2(monkeypatch, capsys):
    monkeypatch.setattr(helper, "compose", lambda overrides: {**CONFIG, "arrol": {"rule": "oracle"}})
    assert helper.main(["x=1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: arrol.rule = 'oracle'")
    assert err.count("\n") == 1


def test_a_note_goes_to_standard_error(monkeypatch, capsys):
    taken = changed({"trainer.checkpoint_callback_class": "mine.Callback"})
    monkeypatch.setattr(helper, "compose", lambda overrides: taken)
    assert helper.main(["x=1"]) == 0
    assert capsys.readouterr().err.startswith("note: ")


def test_a_missing_plus_sign_is_named(monkeypatch, capsys):
    monkeypatch.undo()
    assert helper.main(["data.train_batch_size=8", "arrol.rule=uniform"]) == 2
    assert (
        capsys.readouterr().err
        == "error: arrol.rule=uniform: verl's config has no key 'arrol'; write +arrol.rule=uniform\n"
    )


def test_check_judges_installation_and_command(monkeypatch, capsys):
    monkeypatch.setattr(helper, "installation", lambda: ["arrol 1", "verl 2"])
    monkeypatch.setattr(helper, "compose", lambda overrides: applied(CONFIG, derive.derived_overrides(CONFIG)))
    assert helper.main(["--check", "x=1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["arrol 1", "verl 2", "rule uniform, way two_calls: sound"]


def test_an_entry_point_that_does_not_load_is_told(monkeypatch):
    class Broken:
        name = "arrol"

        def load(self):
            raise ImportError("no such thing")

    monkeypatch.setattr(helper.metadata, "entry_points", lambda group: [Broken()])
    with pytest.raises(ConfigError, match="does not load"):
        helper.installation()
    monkeypatch.setattr(helper.metadata, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="not installed"):
        helper.installation()


def test_help_says_what_it_does(capsys):
    assert helper.main([]) == 0
    assert "usage: python -m arrol.integrations.verl" in capsys.readouterr().out
