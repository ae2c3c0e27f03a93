"""The arrows of the design: who may import whom, read from the source, not from what happens to be loaded."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOUNDATION = {"types", "config", "errors", "registry", "store"}
ALLOWED = {
    "types": set(),
    "errors": set(),
    "config": {"errors"},
    "registry": {"errors"},
    "dataset": {"errors"},
    "progress": set(),
    "ahead": set(),
    "store": {"errors", "types"},
    "prompts": {"types", "errors"},
    "metrics": {"types"},
    "scorers": FOUNDATION,
    "columns": FOUNDATION | {"scorers"},
    "selectable": FOUNDATION | {"metrics"},
    "selectors": FOUNDATION | {"metrics", "selectable"},
    "suites": FOUNDATION | {"dataset", "evaluate", "finished", "grading", "progress", "sandbox"},
    "judge_model": FOUNDATION | {"grading", "samplers", "scorers"},
    "verifiers": FOUNDATION | {"evaluate", "columns", "finished", "grading", "progress", "scorers", "suites"},
    "grading": FOUNDATION,
    "sandbox": FOUNDATION,
    "samplers": FOUNDATION | {"dataset"},
    "command": {"errors"},
    "recipes": FOUNDATION | {"command"},
    "rewards": FOUNDATION | {"recipes", "grading", "scorers"},
    "rows": FOUNDATION | {"recipes", "rewards", "grading"},
    "distinct": FOUNDATION | {"rewards", "rows"},
    "retention": FOUNDATION | {"recipes"},
    "controls": FOUNDATION | {"recipes"},
    "convert": FOUNDATION | {"dataset"},
    "results": FOUNDATION,
    "estimates": FOUNDATION | {"metrics", "selectors", "results"},
    "manifest": FOUNDATION,
    "gold": FOUNDATION | {"progress"},
    "evaluate": FOUNDATION | {"ahead", "gold", "grading", "manifest", "results", "estimates", "progress", "sandbox"},
    "processes": {"errors"},
    "trials": FOUNDATION | {"recipes", "retention", "controls"},
    "training": FOUNDATION | {"processes", "trials", "progress", "rewards", "evaluate", "sandbox", "samplers"},
    "service": FOUNDATION | {"gold", "grading", "progress", "recipes", "rewards"},
    "scoring": FOUNDATION | {"progress", "recipes", "rewards", "sandbox", "service"},
    "delivered": FOUNDATION | {"samplers"},
    "external": FOUNDATION
    | {
        "command",
        "delivered",
        "recipes",
        "trials",
        "training",
        "evaluate",
        "scoring",
        "service",
        "progress",
        "samplers",
    },
    "appraisal": FOUNDATION | {"trials", "training", "evaluate", "distinct", "grading", "progress", "rewards"},
    "bases": FOUNDATION | {"processes", "progress"},
    "treat": FOUNDATION
    | {
        "appraisal",
        "recipes",
        "trials",
        "training",
        "external",
        "retention",
        "evaluate",
        "progress",
        "rewards",
        "rows",
    },
    "finished": FOUNDATION | {"columns", "suites", "manifest", "evaluate", "results", "convert", "progress", "sandbox"},
    "selftest": FOUNDATION | {"evaluate", "grading", "sandbox"},
    "doctor": FOUNDATION | {"sandbox"},
    "power": FOUNDATION | {"evaluate", "metrics"},
    "sweeps": FOUNDATION
    | {"appraisal", "bases", "controls", "metrics", "power", "recipes", "retention", "sweep", "training", "trials"},
    "sweep": FOUNDATION | {"bases", "processes", "progress", "sweeps", "training", "treat"},
    "cli_options": FOUNDATION | {"results"},
    "cli_finished": FOUNDATION | {"cli_options", "doctor", "finished", "power", "progress", "selftest"},
    "cli_verifiers": FOUNDATION | {"cli_options", "progress", "suites", "verifiers"},
    "cli": FOUNDATION
    | {"cli_finished", "cli_verifiers", "cli_options", "evaluate", "progress", "sweep", "sweeps", "treat", "trials"},
    "__main__": {"cli"},
}
HEAVY = {
    "torch": {"harness/samplers", "trainers"},
    "transformers": {"harness/samplers", "trainers"},
    "peft": {"trainers/lm.py"},
    "trl": {"trainers/external"},
    "datasets": {"harness/dataset.py", "trainers/external"},
    "pyarrow": {"harness/dataset.py"},
    "math_verify": {"harness/grading"},
    "docker": {"harness/sandbox"},
    "httpx2": {"harness/samplers/http_client.py"},
    "vllm": {"harness/samplers"},
    "matplotlib": {"leaderboards"},
}


def sources() -> Iterator[Path]:
    for folder in ("harness", "tasks", "trainers", "leaderboards"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "harness":
                yield from (f"harness.{name.name}" for name in node.names)
            yield node.module


def part_of(path: Path) -> str:
    """`metrics` for harness/metrics/subsets.py, `store` for harness/store.py."""
    return path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [p for p in sources() if p.is_relative_to(ROOT / "harness")], ids=str)
def test_the_core_imports_only_along_the_arrows(path):
    part = part_of(path)
    if part == "__init__":
        return
    used = {name.split(".")[1] for name in imported(path) if name.startswith("harness.")} - {part, "__version__"}
    assert used <= ALLOWED[part], f"{part} may not import {used - ALLOWED[part]}"


@pytest.mark.parametrize("path", list(sources()), ids=str)
def test_heavy_packages_are_imported_where_they_belong_and_lazily(path):
    where = path.relative_to(ROOT).as_posix()
    for name in imported(path):
        for package, places in HEAVY.items():
            if name.split(".")[0] == package:
                assert any(where.startswith(place) for place in places), f"{where} imports {package}"


def test_a_folder_of_tasks_is_not_a_package():
    for folder in ("tasks", "trainers", "leaderboards"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_public_names_are_sorted_and_there():
    import harness

    assert list(harness.__all__) == sorted(harness.__all__)
    assert all(hasattr(harness, name) for name in harness.__all__)
    assert callable(harness.evaluate)
