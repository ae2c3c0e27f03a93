"""The command `harness`. Options keep the names that users of lm-evaluation-harness know; `-` and `_` are the same.

`main` is the entry point: an error of ours is printed as its one sentence, with exit status 2. Status 1 means that the
command ran and found something wrong (ungraded completions, gold solutions that fail). No logic lives here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import HarnessError, InputError

app = typer.Typer(
    name="harness",
    help="Did this training make the model better? Honest evaluation of checkpoints and completions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("-", "_"),
        "max_content_width": 110,
    },
)


SHOWN = 10
"""Lines of a list that are printed."""


class ReportFormat(StrEnum):
    """How `harness report` writes."""

    markdown = "markdown"
    csv = "csv"
    json = "json"


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


@app.command("eval")
def eval_command(
    tasks: Tasks,
    model: Annotated[
        str,
        typer.Option("--model", "-M", help="Where completions come from: hf, replay (harness ls), or FILE.py:NAME."),
    ] = "hf",
    model_args: Annotated[
        list[str] | None,
        typer.Option("--model_args", "-a", help="Arguments of the model: pretrained=DIR,... or path=FILE,..."),
    ] = None,
    task_args: TaskArgs = None,
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", "--n_samples", min=1, help="Completions per problem.", show_default="1; replay: all"),
    ] = None,
    k: Annotated[str, typer.Option("--k", help="The ks of pass@k, separated by commas.")] = "1",
    num_fewshot: Annotated[
        int | None, typer.Option("--num_fewshot", "-f", min=0, help="Solved examples before each problem.")
    ] = None,
    limit: Annotated[
        float | None, typer.Option("--limit", "-L", help="Only so many problems of each task, or this fraction (< 1).")
    ] = None,
    samples: Annotated[str, typer.Option("--samples", "-E", help="Only these problem ids, separated by commas.")] = "",
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Sampling temperature; 0 is greedy.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option("--top_p", min=0, max=1, help="Nucleus sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top_k", min=0, help="Sample from the k likeliest tokens; 0: from all.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max_tokens", min=1, help="Longest completion, in tokens.")] = 1024,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="Stop string; may be given several times.", show_default="the task's"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sampling.")] = 0,
    batch_size: Annotated[
        str | None, typer.Option("--batch_size", "-b", help="Sequences sampled together.", show_default="auto")
    ] = None,
    apply_chat_template: Annotated[
        bool | None,
        typer.Option(
            "--apply_chat_template/--no_chat_template",
            help="Wrap prompts in the model's chat template.",
            show_default="if it has one",
        ),
    ] = None,
    system_instruction: Annotated[str | None, typer.Option("--system_instruction", help="System message.")] = None,
    think_tags: Annotated[
        str, typer.Option("--think_tags", help="Tags of the blocks in which chat models think: not read for an answer.")
    ] = "think",
    workers: Workers = None,
    timeout: Timeout = 3.0,
    gold_factor: GoldFactor = 20.0,
    mem_limit: Memory = 2048,
    sandbox: SandboxTier = "auto",
    all_tests: Annotated[
        bool, typer.Option("--all_tests", help="Run every test, not only those up to the first failure.")
    ] = False,
    lines: Annotated[
        bool, typer.Option("--lines", help="Note in executions.jsonl which lines of a program each test ran (slow).")
    ] = False,
    output_path: Annotated[
        Path | None,
        typer.Option("--output_path", "-o", help="Run folder; gone on with if it exists.", show_default="runs/..."),
    ] = None,
) -> None:
    """Evaluate a model, or completions made elsewhere, on tasks.

    harness eval --tasks humaneval --model replay --model_args path=samples.jsonl --k 1,10

    harness eval --tasks gsm8k --model hf --model_args pretrained=./checkpoint --n 16 --temperature 0.7 --k 1,8

    Every completion is stored and graded at once; the same command goes on where an interrupted one stopped.
    """
    from harness import evaluate
    from harness.config import parse_arguments
    from harness.progress import bars
    from harness.types import Budget

    arguments = parse_arguments(model_args, "--model_args")
    for name, value in (
        ("batch_size", batch_size),
        ("apply_chat_template", apply_chat_template),
        ("system_instruction", system_instruction),
    ):
        if value is not None:
            arguments[name] = value
    budget = Budget(
        n=n, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, stop=tuple(stop or ()), seed=seed
    )
    with bars(_note) as progress, _resumable():
        results = evaluate(
            tasks,
            model,
            model_args=arguments,
            task_args=_task_arguments(tasks, task_args, num_fewshot),
            k=k,
            budget=budget,
            limits=_limits(timeout, mem_limit, gold_factor),
            limit=limit,
            samples=samples,
            workers=workers,
            tier=sandbox,
            all_tests=all_tests,
            lines=lines,
            think_tags=think_tags,
            output_path=output_path,
            progress=progress,
        )
    _show(results)


@app.command("train")
def train_command(
    trial: Annotated[Path, typer.Argument(help="YAML file: treatment, base model, problems, evaluation.")],
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the trial.", show_default="the file's")] = None,
    workers: Workers = None,
    sandbox: SandboxTier = "auto",
    output_path: Annotated[
        Path | None,
        typer.Option("--output_path", "-o", help="Folder; gone on with if it exists.", show_default="runs/..."),
    ] = None,
) -> None:
    """Treat a model by a recipe and evaluate the checkpoint of every iteration, beside the base model's.

    harness train trial.yaml --seed 1
    """
    from tabulate import tabulate

    from harness import trials
    from harness.progress import bars
    from harness.treat import table, treat

    planned = trials.trial(trial, seed=seed)
    arm = planned.control or planned.treatment.name
    out = output_path or Path("runs") / f"{trial.stem}-{arm}-seed{planned.seed}"
    with bars(_note) as progress, _resumable():
        evaluated = treat(planned, out, workers=workers, tier=sandbox, progress=progress)
    typer.echo(tabulate(table(evaluated), headers="keys", floatfmt=".2f"))
    typer.echo(f"Every phase is in {out}; `harness compare` takes its evaluation folders.")


@app.command()
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
    limits = _limits(
        before.cpu_s if timeout is None else timeout,
        before.memory_bytes >> 20 if mem_limit is None else mem_limit,
        before.gold_factor if gold_factor is None else gold_factor,
    )
    with bars(_note) as progress, _resumable():
        results, changes = rescore(run, limits=limits, workers=workers, tier=sandbox, k=k, progress=progress)
    typer.echo(f"{len(changes)} verdicts changed" + (":" if changes else "."))
    for change in changes[:SHOWN]:
        typer.echo(f"  {change}")
    if len(changes) > SHOWN:
        typer.echo(f"  and {len(changes) - SHOWN} more; verdicts.previous.jsonl has the old ones")
    _show(results)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    format: Annotated[ReportFormat, typer.Option("--format", help="How to write it.")] = ReportFormat.markdown,
    output: Output = None,
    by: Annotated[str | None, typer.Option("--by", help="Break down by level or another key of the problems.")] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder for figures of the runs, SVG and PNG.")
    ] = None,
) -> None:
    """Write a leaderboard of runs: a row per run, a column per task and metric, and where each number comes from."""
    from importlib import import_module

    text: str = import_module("harness.leaderboards.render").render(runs, format=str(format), by=by)
    _print_or_write(text, output)
    if figures is not None:
        for path in import_module("harness.leaderboards.figures").draw(runs, figures):
            typer.echo(f"wrote {path}", err=True)


@app.command()
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


@app.command()
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

    typer.echo(describe_power(tasks, _task_arguments(tasks, task_args, None), n=n, like=like))


@app.command("ls")
def list_command(kind: Annotated[str | None, typer.Argument(help="task, sampler, term, ...")] = None) -> None:
    """List what there is to name: tasks, samplers, recipes, controls, reward terms; your installed ones included."""
    from harness import registry
    from harness.errors import UnknownName

    if kind is not None and kind not in registry.KINDS:
        raise UnknownName("kind of thing", kind, registry.KINDS)
    for each in [kind] if kind else registry.KINDS:
        for name, description in registry.names(each).items():
            typer.echo(f"{each:8} {name:16} {description}")


@app.command()
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


@app.command()
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
        task_args=_task_arguments(tasks, task_args, None),
        only=None if only is None else only.value,
        limits=_limits(timeout, mem_limit),
        workers=workers,
        tier=sandbox,
    )
    typer.echo(selftest.describe(found))
    if only is None:
        selftest.save(found, selftest_file(found.sandbox))
    if selftest.failures(found):
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Say which languages there are on this machine, and which ways of isolating programs hold, by trying escapes."""
    from harness.doctor import describe, examine, languages

    typer.echo(f"{languages()}\n")
    found = examine()
    typer.echo(describe(found))
    if all(found.values()):
        raise typer.Exit(1)


def _task_arguments(tasks: str, given: list[str] | None, num_fewshot: int | None) -> dict[str, Any]:
    from harness.config import parse_arguments, parse_list

    arguments = parse_arguments(given, "--task_args")
    if num_fewshot is not None:
        names = parse_list(tasks)
        arguments |= {f"{name}.num_fewshot" if len(names) > 1 else "num_fewshot": num_fewshot for name in names}
    return arguments


def _limits(timeout: float, mem_limit: int, gold_factor: float = 20.0) -> Any:
    from harness.types import Limits

    wall_s = max(10.0, 3 * timeout)
    return Limits(cpu_s=timeout, gold_factor=gold_factor, wall_s=wall_s, memory_bytes=mem_limit << 20)


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C loses nothing, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("harness: interrupted; the same command goes on where this one stopped.", err=True)
        raise typer.Exit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        import harness

        typer.echo(f"treatment-harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Did this training make the model better? Honest evaluation of checkpoints and completions."""


def _note(sentence: str) -> None:
    typer.echo(f"note: {sentence}", err=True)


def _show(results: Any) -> None:
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


def main() -> None:
    """Runs the command; errors of ours become one sentence and status 2."""
    try:
        app()
    except HarnessError as error:
        typer.echo(f"harness: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"harness: {error.filename or 'the system'}: {error.strerror or error}.", err=True)
        sys.exit(2)
