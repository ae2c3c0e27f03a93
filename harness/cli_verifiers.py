"""The commands that choose among a run's completions: `suite`, `verifier`, `rate` and `select`. No logic lives here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli_options import SandboxTier, Workers, note, resumable
from harness.errors import InputError


class SuiteKind(StrEnum):
    """The tests that `harness suite` runs."""

    generated = "generated"
    inputs = "inputs"
    examples = "examples"


class VerifierKind(StrEnum):
    """What `harness verifier` trains."""

    lever = "lever"
    lever_classifier = "lever_classifier"
    probe = "probe"


def suite(
    run: Annotated[Path, typer.Argument(help="Run folder of a task with programs.")],
    kind: Annotated[
        SuiteKind,
        typer.Argument(help="generated: tests that a model wrote; inputs: of the task's tests; examples: in prompts."),
    ],
    path: Annotated[
        Path | None, typer.Option("--path", help="File of generated tests: task_id and samples, or completion.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-M", help="Who writes tests: hf, openai, ... (harness ls sampler).")
    ] = None,
    model_args: Annotated[
        list[str] | None, typer.Option("--model_args", "-a", help="Arguments of the model: pretrained=DIR,...")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Texts for each problem.")] = 100,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Sampling temperature.")] = 0.8,
    top_p: Annotated[float, typer.Option("--top_p", min=0, max=1, help="Nucleus sampling.")] = 0.95,
    max_tokens: Annotated[int, typer.Option("--max_tokens", min=1, help="Longest text, in tokens.")] = 300,
    chat: Annotated[bool, typer.Option("--chat", help="The model follows instructions: ask it for tests.")] = False,
    per_text: Annotated[int, typer.Option("--per_text", min=1, help="Asserts of one text, at most.")] = 5,
    again: Annotated[bool, typer.Option("--again", help="Replace a suite of this kind.")] = False,
    workers: Workers = None,
    sandbox: SandboxTier = "auto",
) -> None:
    """Run the programs of a run on tests beside the task's own: what votes and selection by tests go by.

    harness suite runs/codegen generated --path tests.jsonl

    harness suite runs/codegen generated --model hf --model_args pretrained=./checkpoint --n 100
    """
    from harness import suites
    from harness.progress import bars
    from harness.suites import quality, written
    from harness.types import Budget

    if kind != SuiteKind.generated and (path is not None or model is not None):
        raise InputError(f"the suite {kind} is made of the task: leave out --path and --model.")
    if kind == SuiteKind.generated and (path is None) == (model is None):
        raise InputError("generated tests come from a file or from a model: give --path or --model.")
    with bars(note) as progress, resumable():
        problems = suites.problems_of(run)
        if kind == SuiteKind.inputs:
            made = suites.own_inputs(problems)
        elif kind == SuiteKind.examples:
            made = suites.examples(problems)
        elif path is not None:
            made = written.generated(problems, written.texts_of(path), by=path.name, per_text=per_text)
        elif model is not None:
            texts = written.write_tests(
                problems,
                model,
                out=run / "written_tests",
                model_args=model_args,
                budget=Budget(n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens),
                chat=chat,
                progress=progress,
            )
            made = written.generated(problems, texts, by=model, per_text=per_text)
        suites.run_suite(run, made, workers=workers, tier=sandbox, again=again, progress=progress)
        if kind == SuiteKind.generated:
            found = quality.quality(run, made.name, workers=workers, tier=sandbox, progress=progress)
            typer.echo(quality.describe(found))


def verifier(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of completions of training problems.")],
    base: Annotated[Path, typer.Option("--base", help="Model folder to start from.")],
    output_path: Annotated[Path, typer.Option("--output_path", "-o", help="Folder of the verifier.")],
    kind: Annotated[VerifierKind, typer.Option("--kind", help="What to train.")] = VerifierKind.lever,
    inputs: Annotated[
        str, typer.Option("--inputs", help="What it sees, separated by commas.")
    ] = "prompt,program,execution",
    suite: Annotated[
        str, typer.Option("--suite", help="Whose execution results it sees: examples, inputs, generated.")
    ] = "examples",
    values_only: Annotated[
        bool, typer.Option("--values_only", help="Don't say whether values are those that the suite expects.")
    ] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="At most; it stops by validation.")] = 4,
    learning_rate: Annotated[
        float, typer.Option("--learning_rate", help="For small models; 1e-5 to 5e-5 for pretrained ones.")
    ] = 1e-3,
    max_tokens: Annotated[
        int | None, typer.Option("--max_tokens", min=1, help="Of a text.", show_default="the model's context")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...", show_default="found")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the training.")] = 0,
) -> None:
    """Train a verifier on verdicts: LEVER (a language model that answers yes or no), or a probe on hidden states.

    harness verifier runs/train --base ./checkpoint --output_path verifiers/lever

    A fifth of the problems is for validation. Programs must have been run on the suite (harness suite).
    """
    from importlib import import_module

    from harness.config import parse_list
    from harness.progress import bars

    trainer = import_module("harness.trainers.verifier")
    with bars(note) as progress, resumable():
        found = trainer.train_verifier(
            runs,
            output_path,
            base=base,
            kind=str(kind),
            inputs=parse_list(inputs),
            suite=suite or None,
            agreement=not values_only,
            seed=seed,
            settings=trainer.Settings(epochs=epochs, learning_rate=learning_rate, max_tokens=max_tokens),
            device=device,
            progress=progress,
        )
    on = found["validation"]
    typer.echo(
        f"wrote {output_path}: on {on['n_problems']} validation problems loss {on['loss']:.3f}, AUROC "
        f"{on['auroc']:.3f}; harness rate scores a run by it."
    )


def rate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    scorer: Annotated[str, typer.Argument(help="verifier, judge, precomputed, mean_logprob, ... (harness ls scorer).")],
    scorer_args: Annotated[
        list[str] | None, typer.Option("--scorer_args", "-a", help="Its arguments: path=FOLDER,...")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the column.", show_default="the scorer's")] = None,
) -> None:
    """Score every completion of a run: a column that selectors choose by.

    harness rate runs/test verifier --scorer_args path=verifiers/lever --name lever
    """
    from harness.config import parse_arguments
    from harness.progress import bars
    from harness.verifiers import rate as rate_run

    with bars(note) as progress, resumable():
        written = rate_run(
            run, scorer, args=parse_arguments(scorer_args, "--scorer_args"), name=name, progress=progress
        )
    typer.echo(f"wrote {written}; harness select {run} says what it is worth.")


def select(
    run: Annotated[Path, typer.Argument(help="Run folder with scores or suites.")],
    k: Annotated[
        str | None, typer.Option("--k", help="The ks, separated by commas.", show_default="powers of 2")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write.", show_default="RUN/verifiers.md")
    ] = None,
) -> None:
    """Report what choosing one of k completions is worth: every selector as a curve in k, and every score's quality.

    harness select runs/test --k 1,8,64
    """
    from importlib import import_module

    from harness.config import parse_ks

    report = import_module("harness.leaderboards.verifier")
    written = report.write(run, output, ks=None if k is None else parse_ks(k))
    typer.echo(report.board(written[0]))
    for path in written:
        typer.echo(f"wrote {path}", err=True)
