"""MBPP: short Python functions from a one-line description and three asserts, which are part of the prompt.

Austin et al. 2021, "Program Synthesis with Large Language Models" (arXiv 2108.07732). CC BY 4.0. `mbpp` is the full
set (test split 500 of 974), `mbpp_sanitized` the reviewed one (257 of 427). Traps: the full set calls the description
`text` and its imports `test_setup_code`, the sanitized one `prompt` and `test_imports`; asserts call the function by
its own name; code has carriage returns; 123 is slow, 596 depends on the interpreter, and 367, 601 and 927 build their
arguments from classes of the program, which plain data cannot carry: `harness selftest` lists them.
"""

from __future__ import annotations

import ast
from typing import Any

from harness.dataset import load_rows, require_texts
from harness.errors import InputError
from harness.grading.code import verdict
from harness.grading.programs import standalone
from harness.types import Completion, Problem, Task, Test

HUB = "google-research-datasets/mbpp"
REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
STOP = ("[DONE]",)


def mbpp(path: str | None = None, split: str = "test", num_fewshot: int = 0, fewshot_path: str | None = None) -> Task:
    """Short Python functions from a description and three asserts, full set (pass@k)."""
    return _task("mbpp", "full", path, split, num_fewshot, fewshot_path)


def mbpp_sanitized(
    path: str | None = None, split: str = "test", num_fewshot: int = 0, fewshot_path: str | None = None
) -> Task:
    """Short Python functions from a description and three asserts, the reviewed subset (pass@k)."""
    return _task("mbpp_sanitized", "sanitized", path, split, num_fewshot, fewshot_path)


def _task(name: str, config: str, path: str | None, split: str, num_fewshot: int, fewshot_path: str | None) -> Task:
    rows, revision = load_rows(HUB, REVISION, config=config, split=split, path=path)
    shots: list[dict[str, Any]] = []
    if num_fewshot:
        shots, _ = load_rows(HUB, REVISION, config=config, split="prompt", path=fewshot_path)
    if len(shots) < num_fewshot:
        raise InputError(f"{name} has {len(shots)} examples, not {num_fewshot}: choose a smaller num_fewshot.")
    context = "".join(f"{_prompt(row)}{_clean(row['code'])}\n[DONE]\n\n" for row in shots[:num_fewshot])
    taken = {row["task_id"] for row in shots[:num_fewshot]}
    rows = [row for row in rows if row.get("task_id") not in taken]
    return Task(
        name=name,
        problems=tuple(_problem(row, name, split, context, f"row {i} of {name}") for i, row in enumerate(rows)),
        extract=standalone,
        grade=verdict,
        gold=_gold,
        revision=revision,
        stop=STOP,
    )


def _problem(row: dict[str, Any], task: str, split: str, context: str, where: str) -> Problem:
    require_texts(row, ("code",), where)
    if not (isinstance(row.get("test_list"), list) and all(isinstance(test, str) for test in row["test_list"])):
        raise InputError(f"{where} has no 'test_list' of texts (it has {', '.join(row)}).")
    if "task_id" not in row:
        raise InputError(f"{where} has no field 'task_id' (it has {', '.join(row)}).")
    imports = row.get("test_imports") or []
    setup = "\n".join([*imports, _clean(row.get("test_setup_code") or "")])
    tests = tuple(
        Test(id=str(i), kind="script", input=_clean(line), setup=setup) for i, line in enumerate(row["test_list"])
    )
    return Problem(
        id=f"Mbpp/{row['task_id']}",
        task=task,
        split=split,
        context=context,
        prompt=_prompt(row),
        entry_point=_entry_point(_clean(row["code"]), row["test_list"], where),
        answer=_clean(row["code"]),
        tests=tests,
    )


def _prompt(row: dict[str, Any]) -> str:
    """The paper's prompt (its figure 2)."""
    description = row.get("text") or row.get("prompt") or ""
    tests = "\n".join(map(_clean, row["test_list"]))
    return (
        f"You are an expert Python programmer, and here is your task: {description} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _entry_point(code: str, tests: list[str], where: str) -> str | None:
    """The function of the reference program that the asserts call first."""
    try:
        defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
        trees = [ast.parse(_clean(test)) for test in tests]
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{where}: its code or a test is not Python ({error}).") from error
    for tree in trees:
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in calls:
            if isinstance(call, ast.Name) and call.id in defined:
                return call.id
    return None


def _clean(code: str) -> str:
    return code.replace("\r\n", "\n").replace("\r", "\n")


def _gold(problem: Problem) -> Completion:
    return Completion(problem_id=problem.id, index=0, text=problem.answer or "", form="program")
