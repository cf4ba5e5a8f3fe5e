"""What is locked has a licence that we may use and no known vulnerability: the checks of ``make audit`` find faults."""

import doctest
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
licences, vulnerabilities = map(import_module, ("licences", "vulnerabilities"))
sys.path.remove(str(ROOT / "tools"))
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
INDEX = """
import json, sys
known = {known}
lock = open(sys.argv[sys.argv.index("-r") + 1]).read().split()
print(json.dumps({{"dependencies": [known.get(pin, {{"name": pin, "version": "1", "vulns": []}}) for pin in lock]}}))
"""


def install(folder, name, facts, files=()):
    """A package as pip leaves it, of version 1."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", "Version: 1", *facts]
    (info / "METADATA").write_text("Metadata-Version: 2.4\n" + "\n".join(lines) + "\n\n")
    for file, text in files:
        (info / file).write_text(text)
    (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file, _ in files))


def check_licences(folder, lock, capsys):
    (folder / "some.lock").write_text(lock)
    status = licences.main(["--path", str(folder), str(folder / "some.lock")])
    out, err = capsys.readouterr()
    assert "not locked" in out
    return status, err


def index(folder, known):
    """A command in place of pip-audit, whose answers are known for some pins."""
    script = folder / "index.py"
    script.write_text(INDEX.format(known=repr(known)))
    return [sys.executable, "-S", str(script)]


def test_make_audit_reads_every_lock():
    text = (ROOT / "Makefile").read_text("utf-8")
    recipe = text[text.index("\naudit:") : text.index("$(AUDIT_VENV)/.ready: ")]
    assert set(re.findall(r"requirements[a-z0-9-]*\.lock", recipe)) == set(LOCKS)
    assert "tools/vulnerabilities.py $(firstword $(TORCH)) requirements*.lock" in recipe
    assert len(LOCKS) == 8


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_pins_a_version(name):
    assert len(licences.locked_packages(ROOT / name)) > 3


def test_exceptions_are_argued_and_still_locked():
    locked = {package for name in LOCKS for package in licences.locked_packages(ROOT / name)}
    assert set(licences.EXCEPTIONS) <= locked
    assert all(len(reason) > 10 for _, reason in licences.EXCEPTIONS.values())
    assert all(len(reason) > 10 for reason in vulnerabilities.ACCEPTED.values())


def test_expressions_are_read():
    assert doctest.testmod(licences).failed == 0


@pytest.mark.parametrize(
    ("facts", "files", "said"),
    [
        (["License-Expression: MIT AND ISC"], (), "MIT AND ISC"),
        (["Classifier: License :: OSI Approved :: MIT License"], (), "MIT"),
        (["License: Apache 2.0"], (), "Apache-2.0"),
        (["License: Permission is hereby granted, free of charge", " to you", " and others"], (), "MIT"),
        (["License-File: LICENSE"], [("LICENSE", "\n   Apache License\n   Version 2.0\n")], "Apache-2.0"),
        (["Summary: nothing said"], (), ""),
        (["License-Expression: GPL-3.0-or-later"], (), "GPL-3.0-or-later"),
    ],
)
def test_licence_of_a_package(facts, files, said, tmp_path, capsys):
    install(tmp_path, "some", facts, files)
    assert licences.licence(licences.distributions(str(tmp_path))["some"]) == said
    is_good = licences.is_allowed(said)
    assert is_good == (said not in ("", "GPL-3.0-or-later"))
    status, err = check_licences(tmp_path, "Some==1\n", capsys)
    assert status == (not is_good)
    assert ("argue it in EXCEPTIONS" in err) == (not is_good)


def test_an_exception_holds_for_its_licence_alone(tmp_path, capsys, monkeypatch):
    install(tmp_path, "some", ["License-Expression: GPL-2.0-only"])
    monkeypatch.setitem(licences.EXCEPTIONS, "some", ("GPL-2.0-only", "runs apart"))
    assert check_licences(tmp_path, "some==1\n", capsys) == (0, "")
    monkeypatch.setitem(licences.EXCEPTIONS, "some", ("GPL-3.0-only", "runs apart"))
    assert check_licences(tmp_path, "some==1\n", capsys)[0] == 1


def test_a_package_that_is_absent_or_of_another_version_is_a_fault(tmp_path, capsys):
    install(tmp_path, "some", ["License-Expression: MIT"])
    status, err = check_licences(tmp_path, "some==2\nother==1\n", capsys)
    assert status == 1
    assert "some: 1 is installed, 2 locked" in err
    assert "other 1: locked, not installed" in err


def test_a_package_that_is_not_locked_is_named_and_not_judged_except_torch(tmp_path, capsys):
    for name in ("some", "own", "torch"):
        install(tmp_path, name, ["License-Expression: " + ("MIT" if name == "some" else "GPL-3.0-only")])
    status, err = check_licences(tmp_path, "some==1\n", capsys)
    assert status == 1
    assert "torch 1: licence" in err
    assert "own" not in err


def test_an_advisory_is_a_fault_until_it_is_accepted(tmp_path, capsys, monkeypatch):
    lock = tmp_path / "some.lock"
    lock.write_text("some==1\nother==1\n")
    advisory = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    command = index(tmp_path, {"some==1": {"name": "some", "version": "1", "vulns": [advisory]}})
    assert vulnerabilities.main([str(lock), "torch==3"], command) == 1
    out, err = capsys.readouterr()
    assert err == ("some 1: PYSEC-1; mended in 2; lock that, or argue it in ACCEPTED of tools/vulnerabilities.py\n")
    assert out == "vulnerabilities: 3 of 3 packages checked, 1 faults\n"
    for name in ("CVE-1", "PYSEC-1"):
        with monkeypatch.context() as patch:
            patch.setitem(vulnerabilities.ACCEPTED, name, "not called by us")
            assert vulnerabilities.main([str(lock)], command) == 0


def test_two_versions_of_a_package_are_both_asked_for(tmp_path, capsys):
    locks = [tmp_path / "a.lock", tmp_path / "b.lock"]
    for number, lock in enumerate(locks):
        lock.write_text(f"some=={number}\n")
    advisory = {"id": "PYSEC-1", "fix_versions": []}
    known = {f"some=={number}": {"name": "some", "version": str(number), "vulns": [advisory]} for number in (0, 1)}
    assert vulnerabilities.main([str(lock) for lock in locks], index(tmp_path, known)) == 1
    err = capsys.readouterr().err
    assert [line.split(":")[0] for line in err.splitlines()] == ["some 0", "some 1"]


def test_an_index_without_advisories_is_said_and_is_no_fault(tmp_path, capsys):
    lock = tmp_path / "some.lock"
    lock.write_text("some==1\n")
    silent = index(tmp_path, {"some==1": {"name": "some", "skip_reason": "not found"}})
    assert vulnerabilities.main([str(lock)], silent) == 0
    assert capsys.readouterr().out == "vulnerabilities: not checked, 0 of 1 packages (not found)\n"
    assert vulnerabilities.main([str(lock)], [sys.executable, "-S", "-c", "raise SystemExit('no way there')"]) == 0
    assert capsys.readouterr().out == "vulnerabilities: not checked, 0 of 1 packages (no way there)\n"


def test_a_package_that_alone_was_not_checked_is_named(tmp_path, capsys):
    lock = tmp_path / "some.lock"
    lock.write_text("some==1\nother==1\n")
    command = index(tmp_path, {"some==1": {"name": "some", "skip_reason": "withdrawn"}})
    assert vulnerabilities.main([str(lock)], command) == 0
    assert "some: not checked (withdrawn)\n" in capsys.readouterr().out
