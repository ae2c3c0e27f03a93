"""The README is true: its examples run, its tree is the tree, its table is what the demo prints."""

import json
import re
from pathlib import Path

from harness import sweeps
from harness.doctor import promises
from tests.in_process import run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def block(heading: str, language: str) -> str:
    section = README.partition(f"## {heading}")[2].partition("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"no {language} block under {heading}"
    return found[1]


def harness(*arguments: object) -> str:
    return run(*arguments).stdout


def test_the_task_in_ten_lines_works(tmp_path):
    code = block("Add a task", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "capitals.py").write_text(code)
    rows = [("capitals/0", " Paris"), ("capitals/1", "Cuzco"), ("capitals/1", "lima.")]
    lines = [json.dumps({"problem_id": name, "text": text}) + "\n" for name, text in rows]
    (tmp_path / "completions.jsonl").write_text("".join(lines))
    task = f"{tmp_path}/capitals.py:capitals"
    options = ["--tasks", task, "--model", "replay", "--model_args", f"path={tmp_path}/completions.jsonl"]
    assert "75.0000" in harness("eval", *options, "--output_path", tmp_path / "run")
    assert re.search(r"gold: capitals +\| 2 +\| 0 +\| 0", harness("selftest", "--tasks", task, "--only", "gold"))


def test_the_problem_as_a_json_line_works(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(block("Add a task", "json").replace("\n", "") + "\n")
    found = harness("selftest", "--tasks", "jsonl", "--task_args", f"path={path}", "--only", "gold")
    assert re.search(r"gold: jsonl +\| 1 +\| 0 +\| 0", found)


def test_the_python_example_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(block("Evaluate what you have", "python"), {"__name__": "__main__"})


def test_every_file_of_the_tree_exists_and_every_file_is_in_it():
    tree = block("The tree", "")
    for name in re.findall(r"^  (\w+\.py|\w+/) ", tree, re.MULTILINE):
        assert (ROOT / "harness" / name).exists(), name
    for path in (ROOT / "harness").glob("[a-z]*.py"):
        assert f"  {path.name} " in tree, path.name


def test_the_promises_of_the_tiers_are_in_the_readme():
    assert promises() in README


def test_the_commands_of_the_readme_exist():
    commands = set(re.findall(r"^harness (\w+)", README, re.MULTILINE))
    assert commands >= {"eval", "report", "score", "convert", "selftest", "ls"}
    for command in commands:
        harness(command, "--help")


def test_the_trainer_of_ones_own_is_the_one_that_is_tested():
    assert block("Your own trainer", "python") == (ROOT / "tests" / "own_trainer.py").read_text()


def test_the_sweep_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "check_problems", lambda *_: None)  # which would look for datasets on the Hub
    path = tmp_path / "sweep.yaml"
    path.write_text(block("On your GPU", "yaml"))
    made = sweeps.sweep(path)
    assert made.placebos("mbpp", "rest_em") == ["random reward"]
    assert made.settings["mbpp"].base == "Qwen/Qwen2.5-Coder-0.5B"


def test_the_tables_of_the_demo_are_those_of_its_report():
    tables = README.partition("## On your GPU")[0]
    committed = (ROOT / "leaderboards" / "demo.md").read_text()
    rows = [line for line in tables.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * 7
    assert all(row in committed for row in rows)


def test_the_table_of_selectors_is_that_of_its_report():
    section = README.partition("## Choose one of many")[2].partition("\n## ")[0]
    committed = (ROOT / "leaderboards/selection/humaneval_codegen16b.md").read_text()
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 9
    assert all(row in committed for row in rows)


def test_two_made_up_systems_give_the_table_of_the_readme(tmp_path):
    for system in ("careful", "hasty"):
        options = ["--tasks", "first_steps", "--model", "first_steps", "--model_args", f"system={system}"]
        harness("eval", *options, "--k", "1,2,4", "--output_path", tmp_path / system)
    printed = harness("report", tmp_path / "careful", tmp_path / "hasty").splitlines()
    table = [line for line in printed if line.startswith("|")]
    assert len(table) == 4
    for line in table:
        assert line in README
