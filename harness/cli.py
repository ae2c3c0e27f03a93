"""The command `harness`. Options keep the names that users of lm-evaluation-harness know; `-` and `_` are the same.

Here are the commands that run models; `cli_finished` has those on what they leave, `cli_verifiers` those that choose
among it. `main` is the entry point: an error of ours is printed as its one sentence, with exit status 2. Status 1 means
that the command ran and found something wrong (ungraded completions, gold solutions that fail, arms of a sweep that
failed). No logic lives here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness import cli_finished, cli_verifiers
from harness.cli_options import (
    GoldFactor,
    Memory,
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
from harness.errors import HarnessError

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
    with bars(note) as progress, resumable():
        results = evaluate(
            tasks,
            model,
            model_args=arguments,
            task_args=task_arguments(tasks, task_args, num_fewshot),
            k=k,
            budget=budget,
            limits=limits(timeout, mem_limit, gold_factor),
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
    show(results)


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
    with bars(note) as progress, resumable():
        evaluated = treat(planned, out, workers=workers, tier=sandbox, progress=progress)
    typer.echo(tabulate(table(evaluated), headers="keys", floatfmt=".2f"))
    typer.echo(f"Every phase is in {out}; `harness compare` takes its evaluation folders.")


@app.command("sweep")
def sweep_command(
    sweep: Annotated[
        str,
        typer.Argument(help="YAML file: settings (base model, problems), arms, seeds; or a study (harness ls study)."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Say what would run, what it could detect, how long it would take.")
    ] = False,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", "-p", min=1, help="Trials side by side.", show_default="the file's, GPUs or cores"),
    ] = None,
    workers: Workers = None,
    sandbox: SandboxTier = "auto",
    output_path: Annotated[
        Path | None,
        typer.Option("--output_path", "-o", help="Folder; gone on with if it exists.", show_default="runs/NAME"),
    ] = None,
) -> None:
    """Treat base models by several recipes and their placebos, with several seeds, and report what helped.

    harness sweep sweep.yaml --dry_run

    harness sweep sweep.yaml

    The same command goes on where one was stopped, tries failed arms again, and runs what was added to the file.
    """
    from importlib import import_module

    from harness import sweeps
    from harness.sweep import run
    from harness.sweeps import plan
    from harness.sweeps.display import display

    planned = sweeps.sweep(sweep)
    out = output_path or Path("runs") / planned.name
    if dry_run:
        typer.echo(plan.describe(planned, out, parallel=parallel))
        return
    estimate = plan.estimator(planned, out, parallel=parallel)
    report = import_module("harness.leaderboards.experiment")
    with resumable():
        with display(estimate) as shown:
            lines = run(planned, out, parallel=parallel, workers=workers, tier=sandbox, show=shown, note=note)
        page = report.write(out)[0]
    typer.echo(report.board(out))
    typer.echo(f"The report is {page}.")
    failed = [line for line in lines if line.status == "failed"]
    for line in failed:
        typer.echo(f"harness: {line.job} failed: {line.error}", err=True)
    if failed:
        typer.echo("harness: the same command tries again what failed.", err=True)
        raise typer.Exit(1)


app.command()(cli_finished.score)
app.command()(cli_finished.report)
app.command()(cli_finished.compare)
app.command()(cli_verifiers.suite)
app.command()(cli_verifiers.verifier)
app.command()(cli_verifiers.rate)
app.command()(cli_verifiers.select)
app.command()(cli_finished.power)
app.command("ls")(cli_finished.list_names)
app.command()(cli_finished.convert)
app.command()(cli_finished.selftest)
app.command()(cli_finished.doctor)


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
