"""What a user asked for, from text to typed values: `key=value` lists, lists of names and numbers, YAML files.

`parse_arguments` reads `--model_args` and its like. Values stay text here; `registry.build` converts them to what the
function's signature says. `read_yaml` and `typed` read recipes and sweeps: every mistake is told with file and line.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from harness.errors import InputError, UnknownName

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")
Where: TypeAlias = Callable[[tuple[str, ...]], str]
"""Where a key stands, from its path: `where(("select", "cap"))` is "my.yaml, line 7", or "" if it isn't there."""

_KEY = re.compile(r"[A-Za-z_.][\w./:-]*")
"""`path`, `humaneval.path`, `./my_task.py:mine.path`."""


def parse_arguments(text: str | Iterable[str] | Mapping[str, Any] | None, option: str) -> dict[str, Any]:
    """`"path=a.jsonl,n=3"`, or several such texts, as `{"path": "a.jsonl", "n": "3"}`; a mapping is returned as it is.

    A comma separates only where a `key=` follows, so that a value may hold commas.
    """
    if text is None:
        return {}
    if isinstance(text, Mapping):
        return dict(text)
    arguments: dict[str, Any] = {}
    for part in [text] if isinstance(text, str) else text:
        key = None
        for piece in part.split(","):
            name, equals, value = piece.partition("=")
            if equals and _KEY.fullmatch(name.strip()):
                key = name.strip()
                if key in arguments:
                    raise InputError(f"{option} gives {key} twice: leave one out.")
                arguments[key] = value
            elif key is not None:
                arguments[key] += "," + piece
            elif piece.strip():
                raise InputError(f"{option} {part!r} is not of the form key=value,key=value.")
    return arguments


def arguments_by_task(arguments: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Task arguments for each task: `TASK.key=value` is for one of them, `key=value` for the only one."""
    by_task: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    for key, value in arguments.items():
        task, dot, name = key.rpartition(".")
        if dot and task not in by_task:
            raise UnknownName("task in --task_args", task, tasks)
        if not dot and len(tasks) > 1:
            raise InputError(
                f"--task_args {key}=... with {len(tasks)} tasks: write {tasks[0]}.{key}=... to say for which."
            )
        by_task[task or tasks[0]][name] = value
    return by_task


def parse_list(text: str | Iterable[str]) -> list[str]:
    """`"a,b"` or `["a", "b"]` as a list without blanks."""
    parts = text.split(",") if isinstance(text, str) else text
    return [part.strip() for part in parts if part.strip()]


def parse_ks(text: str | int | Iterable[int]) -> tuple[int, ...]:
    """`"1,10,100"` as distinct ascending whole numbers from 1."""
    try:
        values = [int(part) for part in parse_list(text)] if isinstance(text, str) else list(_integers(text))
    except (TypeError, ValueError) as error:
        raise InputError(f"--k {text!r} is not a list of whole numbers: write --k 1,10,100.") from error
    if not values or min(values) < 1:
        raise InputError(f"--k {text!r}: each k is a whole number from 1.")
    return tuple(sorted(set(values)))


def _integers(value: int | Iterable[int]) -> Iterable[int]:
    return [operator.index(each) for each in ([value] if isinstance(value, int) else value)]


def read_yaml(path: Path) -> tuple[dict[str, Any], Where]:
    """The mapping that a YAML file is, and where each of its keys stands. A repeated key is an error."""
    import yaml  # here: `harness --help` is to come at once

    lines: dict[tuple[str, ...], int] = {}
    loader = _loader()(path.read_text())
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{path} holds no keys: write `key: value` lines.")
        for key, line in _keys(node, ()):
            if key in lines:
                raise InputError(f"{path}, line {line}: {'.'.join(key)} is there twice: leave one out.")
            lines[key] = line
        data: dict[str, Any] = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}, is not YAML ({error.problem}).") from error
    finally:
        loader.dispose()

    def where(key: tuple[str, ...]) -> str:
        if not key:
            return str(path)
        return f"{path}, line {lines[key]}" if key in lines else ""

    return data, where


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 2e-5 as the number that everybody means (YAML 1.1 wants 2.0e-5), and `on`, `off`, `yes` and `no` as
        words: a key `on` would be true."""

    truth = "tag:yaml.org,2002:bool"
    Loader.yaml_implicit_resolvers = {
        first: [each for each in resolvers if each[0] != truth]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(truth, re.compile("[Tt]rue|TRUE|[Ff]alse|FALSE"), list("tTfF"))
    number = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _keys(node: yaml.Node, before: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*before, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _keys(value, path)


def typed(data: Mapping[str, Any], wanted: type[T], where: Where) -> T:
    """`data` as a struct. An unknown key or value of a list of names is an error that names the nearest."""
    _check_names(data, wanted, (), where)
    try:
        return msgspec.convert(data, wanted)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        key = tuple(part for part in path.strip("`").split(".") if part)
        raise InputError(f"{_at(key, where)}: {'.'.join(key) or 'it'} is not usable ({message}).") from error


def _check_names(value: Any, wanted: Any, key: tuple[str, ...], where: Where) -> None:
    members = list(_members(wanted))
    if isinstance(value, Mapping):
        for member in members:
            if isinstance(member, type) and issubclass(member, msgspec.Struct):
                hints = {field.encode_name: field.type for field in msgspec.structs.fields(member)}
            elif get_origin(member) is dict:
                hints = dict.fromkeys(value, get_args(member)[1])
            else:
                continue
            for name, inner in value.items():
                if name not in hints:
                    place = f" of {'.'.join(key)}" if key else ""
                    raise UnknownName(f"key{place} in {_at((*key, str(name)), where)} called", str(name), hints)
                _check_names(inner, hints[name], (*key, name), where)
    elif isinstance(value, str) and str not in members:
        options = [option for member in members if get_origin(member) is Literal for option in get_args(member)]
        if options and value not in options:
            raise UnknownName(f"{'.'.join(key)} ({_at(key, where)})", value, options)


def _members(hint: Any) -> Iterator[Hashable]:
    """The types of a union; what is annotated without its annotations."""
    if get_origin(hint) in (Union, UnionType):
        for member in get_args(hint):
            yield from _members(member)
    elif get_origin(hint) is Annotated:
        yield from _members(get_args(hint)[0])
    else:
        yield hint


def _at(key: tuple[str, ...], where: Where) -> str:
    """Where the key stands, or the nearest one around it."""
    while key and not where(key):
        key = key[:-1]
    return where(key)
