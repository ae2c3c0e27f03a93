"""What the commands of `harness` have in common: options, and what they print."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Tasks = Annotated[str, typer.Option("--tasks", "-t", help="Tasks, separated by commas (harness ls), or FILE.py:NAME.")]
TaskArgs = Annotated[
    list[str] | None,
    typer.Option("--task_args", help="Arguments of the task: path=FILE,... (with several: TASK.path=)."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-w", min=1, help="Programs graded side by side.", show_default="cores")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="CPU seconds for one program on one test.")]
GoldFactor = Annotated[
    float,
    typer.Option(
        "--gold_factor",
        min=0,
        help="Limit a program to so many times its problem's gold solution, where there is one, between "
        "half a second of CPU time and --timeout; 0: --timeout for all.",
    ),
]
Memory = Annotated[int, typer.Option("--mem_limit", min=64, help="MiB of memory for one program.")]
SandboxTier = Annotated[
    str,
    typer.Option(
        "--sandbox",
        help="How programs are isolated: auto, namespaces, landlock, docker or docker:IMAGE (harness doctor).",
    ),
]

Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default="standard output")]


def task_arguments(tasks: str, given: list[str] | None, num_fewshot: int | None) -> dict[str, Any]:
    """--task_args, with --num_fewshot for each of the tasks."""
    from harness.config import parse_arguments, parse_list

    arguments = parse_arguments(given, "--task_args")
    if num_fewshot is not None:
        names = parse_list(tasks)
        arguments |= {f"{name}.num_fewshot" if len(names) > 1 else "num_fewshot": num_fewshot for name in names}
    return arguments


def limits(timeout: float, mem_limit: int, gold_factor: float = 20.0) -> Any:
    """`types.Limits`; the wall clock is a backstop beyond the CPU time."""
    from harness.types import Limits

    wall_s = max(10.0, 3 * timeout)
    return Limits(cpu_s=timeout, gold_factor=gold_factor, wall_s=wall_s, memory_bytes=mem_limit << 20)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C loses nothing, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("harness: interrupted; the same command goes on where this one stopped.", err=True)
        raise typer.Exit(130) from None


def note(sentence: str) -> None:
    """What the user should know, on standard error."""
    typer.echo(f"note: {sentence}", err=True)


def show(results: Any) -> None:
    """Prints the estimates; ends with status 1 if anything is ungraded."""
    from harness.results import counts, describe

    typer.echo(describe(results))
    ungraded = sum(count["ungraded"] for count in counts(results).values())
    if ungraded:
        typer.echo(
            f"harness: {ungraded} completions could not be graded: verdicts.jsonl says why, harness score tries again.",
            err=True,
        )
        raise typer.Exit(1)
