"""Verifiers: how likely is this completion right? Learnt from a model's own completions and their verdicts (LEVER).

With S_x the different completions of problem x, v their verdicts (1 right, 0 wrong) and p(x, y) what the verifier says,

    loss = mean over x of  mean over y in S_x of  -[ v log p(x, y) + (1 - v) log(1 - p(x, y)) ]

The mean of a problem comes first, so that problems with many different completions don't dominate (Ni et al. 2023,
arXiv 2302.08468). The text is prompt + program + what the program returned (`verifier_text.py`), the network a causal
language model that is read at two tokens, or a classifier over its body (`verifier_model.py`); `probe.py` is a linear
one on frozen hidden states.

`train_verifier(runs, out, base=...)` trains one, `verifier(batch, path=...)` is the scorer. A fifth of the problems, by
a hash of their ids, is for validation: training stops when their loss has not fallen for `patience` epochs, and the
best epoch is kept. Deviations from LEVER: those of `verifier_text.py`; a warm-up and a cosine instead of a linear
decay; a problem has all of its completions (at most `per_problem`, drawn anew in each epoch) in one step, together with
`batch_problems` - 1 others. Defaults are for small models that learn all of their weights; use 1e-5 to 5e-5 for
pretrained ones of 100 million weights and more.

Not handled: going on with a training that was killed (it is short, and starts again); several devices; LoRA.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import progress as progress_
from harness.errors import InputError, RunMismatch, UnknownName
from harness.metrics.verifier import auroc, brier, calibration, pair_accuracy
from harness.samplers import hf_model
from harness.scorers import Scorable
from harness.trainers import probe, verifier_fit, verifier_model, verifier_text
from harness.trainers.phase import atomic_folder, isolated
from harness.trainers.verifier_fit import CHECKPOINT, DEFAULTS, Settings
from harness.trainers.verifier_model import open_network
from harness.trainers.verifier_text import Labelled

KINDS = (*verifier_model.KINDS, "probe")


def train_verifier(
    runs: Sequence[Path],
    out: Path,
    *,
    base: Path,
    kind: str = "lever",
    inputs: Sequence[str] = verifier_text.INPUTS,
    suite: str | None = "examples",
    agreement: bool = True,
    seed: int = 0,
    settings: Settings = DEFAULTS,
    device: str | None = None,
    progress: progress_.Progress = progress_.silent,
) -> dict[str, Any]:
    """Trains a verifier and leaves its folder `out`; gives the account in its verifier.json.

    The same runs, settings and seed give the same folder to the byte, on a CPU of one kind with one number of threads
    (but for the seconds in verifier.json).

    Args:
        runs: finished runs of problems that may be trained on; all graded completions are used.
        out: folder of the verifier, which must not exist.
        base: folder of the causal language model that it begins with; best the generator's own.
        kind: "lever", "lever_classifier" or "probe".
        inputs: parts of the text, of "prompt", "program" and "execution".
        suite: whose executions are shown; tasks without programs have none.
        agreement: also show whether a value is the one that the suite expects, unless the test is the task's own.
        seed: of the order, the draws, dropout and a new output layer.
        settings: of the training.
        device: a torch device; None is "cuda" where there is one.
        progress: its notes are for the user.

    Raises:
        InputError: held-out problems, one kind of label only, or arguments that cannot be.
        RunMismatch: `out` is there already.
        HarnessError: the gradients are not finite, or the disk is full.
    """
    started = time.perf_counter()
    if kind not in KINDS:
        raise UnknownName("kind of verifier", kind, KINDS)
    if out.exists():
        raise RunMismatch(f"{out} exists already: choose another folder for the verifier, or remove it.")
    examples = verifier_text.labelled(runs, inputs=inputs, suite=suite, agreement=agreement)
    train, validation = verifier_text.split(examples.rows)
    device = hf_model.find_device(device)
    read = time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with isolated(seed, device), atomic_folder(out) as folder:
        if kind == "probe":
            own, history, logits = probe.train(
                train, validation, folder, base=base, max_tokens=settings.max_tokens, device=device
            )
        else:
            own, history, logits = verifier_fit.fit(
                train,
                validation,
                folder,
                base=base,
                kind=kind,
                seed=seed,
                settings=settings,
                device=device,
                progress=progress,
            )
        account = {
            "kind": kind,
            "inputs": list(examples.inputs),
            "suite": examples.suite,
            "base": str(base.resolve()),
            "base_sha": hf_model.identity(base, "float32", None, None),
            "generator": examples.generator,
            "seed": seed,
            "agreement": agreement,
            "settings": {**asdict(settings), **own},
            "problems": sorted({row.problem_id for row in examples.rows}),
        }
        account |= {
            "sha": _sha(folder, account),
            "history": history,
            "completions": {"train": len(train), "validation": len(validation)},
            "validation": quality(validation, logits),
            "seconds": {"read": read - started, "train": time.perf_counter() - read},
        }
        (folder / "verifier.json").write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
    return account


def quality(rows: Sequence[Labelled], logits: Sequence[float]) -> dict[str, float | int | None]:
    """How good logits are on labelled completions: loss, order, calibration. None: it cannot be measured on these."""
    with np.errstate(over="ignore"):
        pairs = list(verifier_text.ragged(rows, [float(1 / (1 + np.exp(-x))) for x in logits]))
    labels, probabilities = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    mixed = any(0 < sum(row) < len(row) for row in labels)
    return {
        "loss": verifier_text.loss(rows, logits),
        "auroc": auroc(labels, probabilities),
        "pair_accuracy": pair_accuracy(labels, probabilities).by_problem if mixed else None,
        "brier": brier(labels, probabilities),
        "ece": calibration(labels, probabilities).ece,
        "n_problems": len(pairs),
        "n_completions": len(rows),
        "right": sum(row.passed for row in rows) / len(rows),
    }


# --- the folder


def _sha(folder: Path, account: dict[str, Any]) -> str:
    """Of what decides the scores: every file's content, and the account without where the base lies."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "verifier.json"):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(json.dumps({k: v for k, v in account.items() if k != "base"}, sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Loaded:
    """A verifier in memory."""

    inputs: tuple[str, ...]
    agreement: bool
    logits: Callable[[Sequence[str]], list[float]]


def verifier(batch: Sequence[Scorable], *, path: str, device: str | None = None) -> Iterator[float]:
    """A trained verifier's probability that a completion is right (LEVER, a classifier or a probe).

    Args:
        batch: completions, with their executions on the verifier's suite if it looks at them.
        path: folder that `train_verifier` left.
        device: a torch device; None is "cuda" where there is one.

    Raises:
        InputError: no verifier, or a completion whose executions are missing.
    """
    file = Path(path, "verifier.json")
    if not file.is_file():
        raise InputError(f"{path} is not a verifier: it has no verifier.json; train one first.")
    loaded = _load(Path(path).resolve(), file.stat().st_mtime_ns, hf_model.find_device(device), os.getpid())
    texts = []
    for one in batch:
        if "execution" in loaded.inputs and len(one.executions) != len(one.tests):
            raise InputError(
                f"completion {one.completion.index} of {one.problem.id} has {len(one.executions)} executions of "
                f"{len(one.tests)} tests: run the verifier's suite to its end first."
            )
        texts.append(verifier_text.text_of_scorable(one, inputs=loaded.inputs, agreement=loaded.agreement))
    different = list(dict.fromkeys(texts))
    found = dict(zip(different, loaded.logits(different), strict=True))
    for text in texts:
        yield 1 / (1 + math.exp(-found[text])) if found[text] > -700 else 0.0


@functools.lru_cache(maxsize=4)
def _load(folder: Path, mtime_ns: int, device: str, process: int) -> _Loaded:
    """Opened once; again if it is another by now, or in a process that was forked since."""
    try:
        account = json.loads((folder / "verifier.json").read_text(encoding="utf-8"))
        kind, settings = account["kind"], account["settings"]
        reads = tuple(account["inputs"]), bool(account["agreement"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/verifier.json is damaged ({error}): train the verifier again.") from error
    if kind not in KINDS:
        raise UnknownName("kind of verifier", kind, KINDS)
    if kind == "probe":
        return _Loaded(*reads, probe.load(folder, account, device=device))
    network = open_network(
        folder / CHECKPOINT,
        kind=kind,
        answers=None if settings["answers"] is None else tuple(settings["answers"]),
        max_tokens=settings["max_tokens"],
        device=device,
    )
    network.lm.model.requires_grad_(False)

    def logits(texts: Sequence[str]) -> list[float]:
        rows = verifier_model.rows_of(network, texts)
        found: list[float] = verifier_model.logits(network, rows)
        return found

    return _Loaded(*reads, logits)


__all__ = ["Settings", "quality", "train_verifier", "verifier"]
