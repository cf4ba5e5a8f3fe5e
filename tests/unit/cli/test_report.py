"""From records to a table and a folder."""

import json

from arrol.cli.main import main


def test_a_comparison_folder_becomes_a_report_beside_it(tmp_path, write_run, capsys):
    for arm in ("grpo", "pruned"):
        write_run(tmp_path / f"{arm}-seed0", arm)
    assert main(["report", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "speed-up" in out
    assert err == ""
    assert f"report: {tmp_path}/report/report.md and {tmp_path}/report/report.html" in out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.md", "report.html", "plots"}


def test_json_is_all_that_stands_on_stdout(tmp_path, write_run, capsys):
    runs = [write_run(tmp_path / arm, arm) / "records.jsonl" for arm in ("grpo", "pruned")]
    assert main(["report", *map(str, runs), "--json", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    rows = {row["arm"]: row for row in json.loads(out)}
    assert rows["pruned"]["kept_frac"] == 0.5
    assert list(rows) == ["grpo", "pruned"]
    assert err.startswith("report: ")


def test_a_records_file_gets_its_report_beside_it(tmp_path, write_run, capsys):
    write_run(tmp_path / "run", "grpo")
    assert main(["report", str(tmp_path / "run" / "records.jsonl")]) == 0
    assert (tmp_path / "run" / "report" / "report.md").is_file()
