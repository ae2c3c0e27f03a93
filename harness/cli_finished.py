"""The commands on finished runs, on what there is to name, and on this machine: `cli` makes them commands.

No logic lives here.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli_options import (
    Memory,
    Output,
    SandboxTier,
    TaskArgs,
    Tasks,
    Timeout,
    Workers,
    limits,
    note,
    resumable,
    show,
    task_arguments,
)
from harness.errors import InputError

SHOWN = 10
"""Lines of a list that are printed."""


class ReportFormat(StrEnum):
    """How `harness report` writes."""

    markdown = "markdown"
    csv = "csv"
    json = "json"


def score(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    workers: Workers = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="CPU seconds for a program.", show_default="as before")
    ] = None,
    mem_limit: Annotated[
        int | None, typer.Option("--mem_limit", min=64, help="MiB for a program.", show_default="as before")
    ] = None,
    gold_factor: Annotated[
        float | None, typer.Option("--gold_factor", min=0, help="As in eval.", show_default="as before")
    ] = None,
    sandbox: SandboxTier = "auto",
    k: Annotated[str | None, typer.Option("--k", help="The ks of pass@k.", show_default="as before")] = None,
) -> None:
    """Grade the completions of a run again, without sampling; says how many verdicts changed."""
    from harness.finished import rescore
    from harness.progress import bars
    from harness.store import read_manifest

    before = read_manifest(run / "manifest.json").limits
    graded_under = limits(
        before.cpu_s if timeout is None else timeout,
        before.memory_bytes >> 20 if mem_limit is None else mem_limit,
        before.gold_factor if gold_factor is None else gold_factor,
    )
    with bars(note) as progress, resumable():
        results, changes = rescore(run, limits=graded_under, workers=workers, tier=sandbox, k=k, progress=progress)
    typer.echo(f"{len(changes)} verdicts changed" + (":" if changes else "."))
    for change in changes[:SHOWN]:
        typer.echo(f"  {change}")
    if len(changes) > SHOWN:
        typer.echo(f"  and {len(changes) - SHOWN} more; verdicts.previous.jsonl has the old ones")
    show(results)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    format: Annotated[ReportFormat, typer.Option("--format", help="How to write it.")] = ReportFormat.markdown,
    output: Output = None,
    by: Annotated[str | None, typer.Option("--by", help="Break down by level or another key of the problems.")] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder for figures of the runs, SVG and PNG.")
    ] = None,
) -> None:
    """Write a leaderboard of runs: a row per run, a column per task and metric, and where each number comes from.

    Of the folder of a sweep: report.md, report.json and figures; --output names another page, with its own beside it.
    """
    from importlib import import_module

    if len(runs) == 1 and (runs[0] / "sweep.json").is_file():
        if by is not None or figures is not None or format is not ReportFormat.markdown:
            raise InputError("the report of a sweep has one form: leave out --by, --figures and --format.")
        for path in import_module("harness.leaderboards.experiment").write(runs[0], output):
            typer.echo(f"wrote {path}")
        return
    text: str = import_module("harness.leaderboards.render").render(runs, format=str(format), by=by)
    _print_or_write(text, output)
    if figures is not None:
        for path in import_module("harness.leaderboards.figures").draw(runs, figures):
            typer.echo(f"wrote {path}", err=True)


def compare(
    base: Annotated[Path, typer.Argument(help="Run folder to compare with.")],
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    metrics: Annotated[
        str, typer.Option("--metrics", "-m", help="Metrics of the declared family: pass@1,maj@8,best@8[score].")
    ] = "pass@1",
    by: Annotated[
        str | None, typer.Option("--by", help="Break down by level, another key of the problems, or difficulty.")
    ] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow_different", help="Compare runs of other prompts, limits or graders.")
    ] = False,
    format: Annotated[ReportFormat, typer.Option("--format", help="How to write it.")] = ReportFormat.markdown,
    output: Output = None,
) -> None:
    """Compare runs with a base on the same problems: differences, intervals, p-values, ties."""
    from importlib import import_module

    from harness.config import parse_list

    text = import_module("harness.leaderboards.compare").compare(
        base, runs, metrics=parse_list(metrics), by=by, allow_different=allow_different, format=str(format)
    )
    _print_or_write(text, output)


def power(
    tasks: Tasks,
    task_args: TaskArgs = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Completions per problem.")] = 1,
    like: Annotated[
        Path | None, typer.Option("--like", help="Run folder whose spread within problems to assume.")
    ] = None,
) -> None:
    """Say before a run which difference it can detect."""
    from harness.power import describe_power

    typer.echo(describe_power(tasks, task_arguments(tasks, task_args, None), n=n, like=like))


def list_names(kind: Annotated[str | None, typer.Argument(help="task, sampler, term, ...")] = None) -> None:
    """List what there is to name: tasks, samplers, recipes, controls, reward terms; your installed ones included."""
    from harness import registry
    from harness.errors import UnknownName

    if kind is not None and kind not in registry.KINDS:
        raise UnknownName("kind of thing", kind, registry.KINDS)
    for each in [kind] if kind else registry.KINDS:
        for name, description in registry.names(each).items():
            typer.echo(f"{each:8} {name:16} {description}")


def convert(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[
        str, typer.Option("--to", help="humaneval, lm_eval, model_index, parquet, ... (an unknown one lists all).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write.")],
    model_name: Annotated[
        str | None, typer.Option("--model_name", help="The model's name in it.", show_default="the run folder's")
    ] = None,
) -> None:
    """Write a run in another tool's format."""
    from harness.finished import convert_run

    for path in convert_run(run, to=to, output=output, model=model_name or run.resolve().name):
        typer.echo(f"wrote {path}")


class SelftestPart(StrEnum):
    """What `harness selftest` can be limited to."""

    gold = "gold"
    attacks = "attacks"
    odd = "odd"


def selftest(
    tasks: Annotated[
        str, typer.Option("--tasks", "-t", help="Grade the gold solutions of these tasks too (harness ls).")
    ] = "",
    task_args: TaskArgs = None,
    only: Annotated[SelftestPart | None, typer.Option("--only", help="Run only this part.")] = None,
    workers: Workers = None,
    timeout: Timeout = 3.0,
    mem_limit: Memory = 2048,
    sandbox: SandboxTier = "auto",
) -> None:
    """Try the grader: programs that cheat or do harm must fail, odd but correct ones and gold solutions must pass.

    Takes about half a minute; --timeout and --mem_limit are for gold solutions. Leaderboards quote what it found.
    """
    from harness import selftest
    from harness.store import selftest_file

    if only == SelftestPart.gold and not tasks:
        raise InputError("--only gold needs --tasks: name the tasks whose gold solutions are to be graded.")
    found = selftest.selftest(
        tasks=tasks,
        task_args=task_arguments(tasks, task_args, None),
        only=None if only is None else only.value,
        limits=limits(timeout, mem_limit),
        workers=workers,
        tier=sandbox,
    )
    typer.echo(selftest.describe(found))
    if only is None:
        selftest.save(found, selftest_file(found.sandbox))
    if selftest.failures(found):
        raise typer.Exit(1)


def doctor() -> None:
    """Say which languages there are on this machine, and which ways of isolating programs hold, by trying escapes."""
    from harness.doctor import describe, examine, languages

    typer.echo(f"{languages()}\n")
    found = examine()
    typer.echo(describe(found))
    if all(found.values()):
        raise typer.Exit(1)


def _print_or_write(text: str, path: Path | None) -> None:
    from harness.store import write_atomically

    if path is None:
        typer.echo(text, nl=False)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another --output.") from error
    typer.echo(f"wrote {path}")
