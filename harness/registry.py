"""Names to objects: built in, `./file.py:name`, or an entry point of an installed package.

`find(kind, name)` gives the function behind a name, `build(kind, name, arguments)` calls it with arguments that came as
text, `bind(kind, name, arguments)` gives it with arguments for later, and `names(kind)` lists what there is
(`harness ls`). A package adds its own with an entry point in the group `harness.task`, `harness.sampler`,
`harness.scorer`, `harness.term` or `harness.control`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from harness.errors import InputError, UnknownName

BUILT_IN: dict[str, dict[str, str]] = {
    "task": {
        "first_steps": "harness.tasks.first_steps:first_steps",
        "gsm8k": "harness.tasks.gsm8k:gsm8k",
        "hendrycks_math": "harness.tasks.hendrycks_math:hendrycks_math",
        "humaneval": "harness.tasks.humaneval:humaneval",
        "jsonl": "harness.tasks.jsonl:jsonl",
        "list_programs": "harness.tasks.list_programs:list_programs",
        "math_500": "harness.tasks.hendrycks_math:math_500",
        "mbpp": "harness.tasks.mbpp:mbpp",
        "mbpp_sanitized": "harness.tasks.mbpp:mbpp_sanitized",
        "word_problems": "harness.tasks.word_problems:word_problems",
    },
    "sampler": {
        "first_steps": "harness.tasks.first_steps:completions",
        "hf": "harness.samplers.hf:hf",
        "openai": "harness.samplers.openai:openai",
        "replay": "harness.samplers.replay:replay",
        "vllm": "harness.samplers.vllm:vllm",
    },
    "scorer": {
        "judge": "harness.judge_model:judge",
        "mean_logprob": "harness.scorers:mean_logprob",
        "precomputed": "harness.scorers:precomputed",
        "sum_logprob": "harness.scorers:sum_logprob",
        "verifier": "harness.scorers:verifier",
    },
    "term": {
        "ast_match": "harness.rewards.programs:ast_match",
        "compiles": "harness.rewards.programs:compiles",
        "constant": "harness.rewards.terms:constant",
        "dataflow_match": "harness.rewards.programs:dataflow_match",
        "extracted": "harness.rewards.terms:extracted",
        "format": "harness.rewards.terms:format_tags",
        "fraction": "harness.rewards.terms:fraction",
        "length": "harness.rewards.terms:length",
        "lint": "harness.rewards.programs:lint",
        "majority": "harness.rewards.terms:majority",
        "random": "harness.rewards.terms:random_coin",
        "speed": "harness.rewards.programs:speed",
        "tests": "harness.rewards.terms:tests",
        "verifier": "harness.rewards.terms:verifier",
        "wrong_label": "harness.rewards.terms:wrong_label",
    },
    "control": {
        "format_only": "harness.controls:format_only",
        "frozen": "harness.controls:frozen",
        "majority_reward": "harness.controls:majority_reward",
        "matched_reward": "harness.controls:matched_reward",
        "matched_rows": "harness.controls:matched_rows",
        "no_verification": "harness.controls:no_verification",
        "one_iteration_3x": "harness.controls:one_iteration_3x",
        "one_per_problem": "harness.controls:one_per_problem",
        "random_reward": "harness.controls:random_reward",
        "wrong_label": "harness.controls:wrong_label",
    },
}
LISTED = {"recipe": "harness.recipes:names", "study": "harness.sweeps:names"}
"""Kinds of things that are files: the function that lists them."""
KINDS = (*BUILT_IN, *LISTED)


def find(kind: str, name: str) -> Callable[..., Any]:
    """The function that `name` stands for; an unknown name is an error that names the nearest."""
    if ".py" in name:
        return _from_file(kind, name)
    target = BUILT_IN[kind].get(name)
    if target is not None:
        module, attribute = target.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found
    plugins = {point.name: point for point in importlib.metadata.entry_points(group=f"harness.{kind}")}
    if name not in plugins:
        raise UnknownName(kind, name, [*BUILT_IN[kind], *plugins])
    loaded: Callable[..., Any] = plugins[name].load()
    return loaded


def _from_file(kind: str, name: str) -> Callable[..., Any]:
    path_text, _, attribute = name.partition(":")
    path = Path(path_text)
    if not attribute:
        raise InputError(f"{kind} {name!r} names a file and no function in it: write {path_text}:NAME.")
    if not path.is_file():
        raise InputError(f"{kind} {name!r}: there is no file {path}.")
    try:
        module = _module(path.resolve(), path.stat().st_mtime_ns)
    except (SyntaxError, ImportError) as error:
        raise InputError(f"{kind} {name!r}: {path} cannot be imported ({type(error).__name__}: {error}).") from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UnknownName(f"function in {path}", attribute, functions)
    return found


@functools.cache  # a reward term is looked up for every group
def _module(path: Path, mtime_ns: int) -> ModuleType:
    name = "harness_user_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(kind: str, name: str, arguments: Mapping[str, Any]) -> Any:
    """Calls the function behind `name`; text arguments are converted to what its signature says."""
    function = find(kind, name)
    return function(**_values(kind, name, function, arguments, given=0))


def bind(kind: str, name: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The function behind `name` with arguments for all but its first parameter, which comes when it is called."""
    function = find(kind, name)
    return functools.partial(function, **_values(kind, name, function, arguments, given=1))


def _values(
    kind: str, name: str, function: Callable[..., Any], arguments: Mapping[str, Any], *, given: int
) -> dict[str, Any]:
    parameters = dict(list(inspect.signature(function).parameters.items())[given:])
    hints = typing.get_type_hints(function)
    values: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in parameters:
            raise UnknownName(f"argument of the {kind} {name}", key, parameters)
        try:
            values[key] = msgspec.convert(value, hints.get(key, Any), strict=False)
        except msgspec.ValidationError as error:
            raise InputError(f"{kind} {name}: {key}={value!r} is not usable ({error}).") from error
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in values]
    if missing:
        options = {"task": "with --task_args ", "sampler": "with --model_args ", "scorer": "with --scorer_args "}
        option = options.get(kind, "in its args, ")
        raise InputError(f"the {kind} {name} needs {missing[0]}: give it {option}{missing[0]}=VALUE.")
    return values


def names(kind: str) -> dict[str, str]:
    """Every registered name with the first line of what it says of itself."""
    if kind in LISTED:
        module, function = LISTED[kind].split(":")
        listed: dict[str, str] = getattr(importlib.import_module(module), function)()
        return listed
    known = [*BUILT_IN[kind], *(p.name for p in importlib.metadata.entry_points(group=f"harness.{kind}"))]
    return {name: (inspect.getdoc(find(kind, name)) or "").split("\n")[0] for name in sorted(known)}
