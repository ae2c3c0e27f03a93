"""Writes a finished run in other tools' formats: `convert(records, results, to=..., output=..., model=...)`.

| `to` | files |
|---|---|
| `humaneval` | samples.jsonl {"task_id", "completion"} and samples.jsonl_results.jsonl with "result" and "passed" |
| `evalplus` | samples.jsonl {"task_id", "solution"}, or "completion" where the text goes on where the prompt stops |
| `livecodebench` | generations_eval_all.json [{"question_id", "code_list", "graded_list", "pass@1", ...}] |
| `lm_eval` | MODEL/results_DATE.json and MODEL/samples_TASK_DATE.jsonl |
| `model_index` | README.md whose front matter is a Hub model card's `model-index` |
| `parquet` | completions.parquet, one row a completion with its verdict |
| `jsonl` | completions.jsonl, the same rows |

`output` is a folder, or the file itself where it has the format's suffix. Ungraded completions have the verdict null.
What is written, the sampler `replay` reads back. Not handled: completions of a form that the format cannot hold are
refused, with the name of a format that can.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from harness import __version__
from harness.dataset import write_parquet
from harness.errors import InputError, UnknownName
from harness.types import Completion, Problem, Status, Verdict

FORMATS: dict[str, str] = {
    "humaneval": "HumanEval samples.jsonl {task_id, completion}, and its results file",
    "evalplus": "EvalPlus samples.jsonl {task_id, solution}",
    "livecodebench": "LiveCodeBench [{question_id, code_list, graded_list}]",
    "lm_eval": "lm-evaluation-harness results_DATE.json and samples_TASK_DATE.jsonl",
    "model_index": "model-index of a Hugging Face model card",
    "parquet": "one Parquet file, a row a completion with its verdict",
    "jsonl": "one JSON-lines file, the same rows",
}
"""Name -> one line for --help."""


@dataclass(frozen=True)
class Graded:
    """One completion with its problem and its verdict."""

    problem: Problem
    completion: Completion
    verdict: Verdict


def convert(records: Sequence[Graded], results: dict[str, Any], *, to: str, output: Path, model: str) -> list[Path]:
    """Writes the files of format `to` and returns them.

    Args:
        records: the run's completions, in any order.
        results: what results.json holds; only `lm_eval` and `model_index` use it.
        to: a name in `FORMATS`.
        output: folder or file to write.
        model: name of the model, for the formats that have one.
    """
    if to not in FORMATS:
        raise UnknownName("output format", to, FORMATS)
    if not records:
        raise InputError("there is not one graded completion to convert: finish the run first.")
    ordered = [record for group in _by_problem(records) for record in group]
    writers: dict[str, Callable[[], list[Path]]] = {
        "humaneval": lambda: _humaneval(ordered, output),
        "evalplus": lambda: _evalplus(ordered, output),
        "livecodebench": lambda: _livecodebench(ordered, output),
        "lm_eval": lambda: _lm_eval(ordered, results, output, model),
        "model_index": lambda: _model_index(results, output, model),
        "parquet": lambda: _parquet(ordered, output),
        "jsonl": lambda: _jsonl(ordered, output),
    }
    try:
        return writers[to]()
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror or error}): choose another output.") from error


# ---------------------------------------------------------------------------------------------------------------------
# code benchmarks


def _humaneval(records: Sequence[Graded], output: Path) -> list[Path]:
    whole = [record for record in records if record.completion.form != "continuation"]
    if whole:
        raise InputError(
            f"{len(whole)} of {len(records)} completions do not go on where the prompt stops "
            f"(the first is {_named(whole[0])}), and HumanEval's format holds no others: convert to evalplus or jsonl."
        )
    samples = _target(output, "samples.jsonl", (".jsonl", ".gz"))
    graded = samples.with_name(f"{samples.name}_results.jsonl")
    rows = [{"task_id": record.problem.id, "completion": record.completion.text} for record in records]
    _write_lines(samples, rows)
    results = ({"result": _human_eval_result(record.verdict), "passed": record.verdict.passed} for record in records)
    _write_lines(graded, [row | result for row, result in zip(rows, results, strict=True)])
    return [samples, graded]


def _human_eval_result(verdict: Verdict) -> str:
    if verdict.passed is None:
        return f"ungraded: {verdict.detail or verdict.status}"
    if verdict.passed:
        return "passed"
    return "timed out" if verdict.status == Status.timeout else f"failed: {verdict.detail or verdict.status}"


def _evalplus(records: Sequence[Graded], output: Path) -> list[Path]:
    samples = _target(output, "samples.jsonl", (".jsonl", ".gz"))
    _write_lines(samples, [_evalplus_row(record) for record in records])
    return [samples]


def _evalplus_row(record: Graded) -> dict[str, Any]:
    if record.completion.form == "continuation":
        return {"task_id": record.problem.id, "completion": record.completion.text}
    return {"task_id": record.problem.id, "solution": _program(record)}


def _livecodebench(records: Sequence[Graded], output: Path) -> list[Path]:
    path = _target(output, "generations_eval_all.json", (".json",))
    rows = []
    for group in _by_problem(records):
        graded = [record.verdict.passed for record in group]
        known = [passed for passed in graded if passed is not None]
        rows.append(
            {
                "question_id": group[0].problem.id,
                "question_content": group[0].problem.prompt,
                "difficulty": group[0].problem.level,
                "output_list": [record.completion.text for record in group],
                "code_list": [_program(record) for record in group],
                "graded_list": graded,
                "pass@1": sum(known) / len(known) if known else None,
            }
        )
    _write_text(path, json.dumps(rows, indent=4))
    return [path]


def _program(record: Graded) -> str:
    """The whole program: what was extracted, or the text that is one."""
    completion = record.completion
    if completion.program is not None:
        return completion.program
    if completion.form == "program":
        return completion.text
    raise InputError(f"{_named(record)} is a {completion.form} without an extracted program: convert to jsonl.")


# ---------------------------------------------------------------------------------------------------------------------
# lm-evaluation-harness


def _lm_eval(records: Sequence[Graded], results: dict[str, Any], output: Path, model: str) -> list[Path]:
    sanitized = re.sub(r"[\"<>:/\\|?*\[\]]+", "__", model)
    folder = output / sanitized
    now = datetime.now()
    date = now.isoformat().replace(":", "-")
    by_task: dict[str, list[Graded]] = defaultdict(list)
    for record in records:
        by_task[record.problem.task].append(record)
    paths, hashes = [], {}
    for task, own in by_task.items():
        rows = [_lm_eval_sample(i, group) for i, group in enumerate(_by_problem(own))]
        hashes[task] = _sha(*(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
        paths.append(folder / f"samples_{task}_{date}.jsonl")
        _write_lines(paths[-1], rows)
    value = _lm_eval_results(results, by_task, model=model, sanitized=sanitized)
    value |= {"date": now.timestamp(), "task_hashes": hashes}
    path = folder / f"results_{date}.json"
    _write_text(path, json.dumps(value, indent=2))
    return [path, *paths]


def _lm_eval_sample(number: int, group: Sequence[Graded]) -> dict[str, Any]:
    problem = group[0].problem
    forms = sorted({record.completion.form for record in group})
    if len(forms) > 1:
        raise InputError(
            f"{problem.id} has completions of the forms {' and '.join(forms)}: convert to jsonl or parquet."
        )
    doc = dict(problem.meta) | {"task_id": problem.id, "prompt": problem.prompt}
    texts = [record.completion.text for record in group]
    prompt, target = problem.context + problem.prompt, problem.answer or ""
    passed = [record.verdict.passed for record in group if record.verdict.passed is not None]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
        "resps": [texts],
        "filtered_resps": [texts],
        "filter": "none",
        "metrics": ["pass@1"],
        "doc_hash": _sha(json.dumps(doc, sort_keys=True, default=str)),
        "prompt_hash": _sha(prompt),
        "target_hash": _sha(target),
        "pass@1": sum(passed) / len(passed) if passed else None,
        "form": forms[0],
    }


def _lm_eval_results(
    results: dict[str, Any], by_task: dict[str, list[Graded]], *, model: str, sanitized: str
) -> dict[str, Any]:
    tasks = _tasks(results)
    metrics = {
        task: {"alias": task, "sample_len": len(_by_problem(by_task[task])) if task in by_task else 0}
        | {f"{name},none": estimate.get("value") for name, estimate in estimates.items()}
        | {f"{name}_stderr,none": estimate.get("se") for name, estimate in estimates.items()}
        for task, estimates in tasks.items()
    }
    n_problems = {task: metrics[task]["sample_len"] for task in tasks}
    expected = {task: results.get("counts", {}).get(task, {}).get("problems_expected") for task in tasks}
    return {
        "results": metrics,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: {"task": task} for task in tasks},
        "versions": {task: None for task in tasks},
        "n-shot": {},
        "higher_is_better": {task: {name: True for name in estimates} for task, estimates in tasks.items()},
        "n-samples": {task: {"original": expected[task] or n, "effective": n} for task, n in n_problems.items()},
        "config": {"model": model, "harness_version": __version__},
        "git_hash": None,
        "model_source": "treatment-harness",
        "model_name": model,
        "model_name_sanitized": sanitized,
    }


# ---------------------------------------------------------------------------------------------------------------------
# model cards


def _model_index(results: dict[str, Any], output: Path, model: str) -> list[Path]:
    path = _target(output, "README.md", (".md",))
    if path.exists():
        raise InputError(f"{path} exists and would be lost: choose another output and copy the model-index into it.")
    entries = [
        {
            "task": {"type": "text-generation", "name": "Text Generation"},
            "dataset": {"type": task, "name": task},
            "metrics": [_card_metric(name, estimate) for name, estimate in estimates.items()],
        }
        for task, estimates in _tasks(results).items()
    ]
    card = {"model-index": [{"name": model, "results": entries}]}
    _write_text(path, f"---\n{yaml.safe_dump(card, sort_keys=False, allow_unicode=True)}---\n")
    return [path]


def _card_metric(name: str, estimate: dict[str, Any]) -> dict[str, Any]:
    wanted = ("low", "high", "se", "n_problems", "n_samples", "method")
    details = {key: estimate[key] for key in wanted if estimate.get(key) is not None}
    return {"type": name, "name": name, "value": estimate.get("value"), "verified": False, "args": details}


def _tasks(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    tasks = results.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise InputError("results.json has no metrics of any task under `tasks`: finish the run first.")
    return tasks


# ---------------------------------------------------------------------------------------------------------------------
# tables of our own


def _parquet(records: Sequence[Graded], output: Path) -> list[Path]:
    path = _target(output, "completions.parquet", (".parquet",))
    rows = []
    for record in records:
        row = _row(record)
        scores = row.pop("scores")
        rows.append(row | {f"score.{name}": value for name, value in scores.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(rows, path)
    return [path]


def _jsonl(records: Sequence[Graded], output: Path) -> list[Path]:
    path = _target(output, "completions.jsonl", (".jsonl", ".gz"))
    rows = ({name: value for name, value in _row(record).items() if value is not None} for record in records)
    _write_lines(path, rows)
    return [path]


def _row(record: Graded) -> dict[str, Any]:
    """Every field of the completion and its verdict, and what groups problems."""
    completion = {name: getattr(record.completion, name) for name in Completion.__struct_fields__}
    verdict = record.verdict
    return completion | {
        "task": record.problem.task,
        "split": record.problem.split,
        "level": record.problem.level,
        "passed": verdict.passed,
        "status": str(verdict.status),
        "answer": verdict.answer if verdict.answer is not None else record.completion.answer,
        "detail": verdict.detail,
    }


# ---------------------------------------------------------------------------------------------------------------------


def _by_problem(records: Sequence[Graded]) -> list[list[Graded]]:
    """Records of each problem by index; problems in the order of their first record."""
    groups: dict[str, list[Graded]] = defaultdict(list)
    for record in records:
        groups[record.problem.id].append(record)
    return [sorted(group, key=lambda record: record.completion.index) for group in groups.values()]


def _named(record: Graded) -> str:
    return f"{record.problem.id} completion {record.completion.index}"


def _sha(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _target(output: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    return output if output.suffix in suffixes and not output.is_dir() else output / name


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="ascii") if path.suffix == ".gz" else path.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(row, default=msgspec.to_builtins) + "\n" for row in rows)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
