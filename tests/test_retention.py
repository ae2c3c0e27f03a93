"""What stays on the disk: the decision for every state that a trial can be in, and folders before and after."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from harness.errors import HarnessError, InputError, UnknownName
from harness.recipes import recipe
from harness.retention import Iteration, removable, require_room, tidy, training_bytes, used_bytes
from harness.types import Trained

WEIGHTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")


def at(phase: str, *scores: float | None) -> list[Iteration]:
    """Iterations before the last are whole; the last is "sampled", "trained" or "evaluated"."""
    n = len(scores)
    return [
        Iteration(
            number=i,
            trained=i < n or phase != "sampled",
            evaluated=i < n or phase == "evaluated",
            has_weights=i < n or phase != "sampled",
            score=score if i < n or phase == "evaluated" else None,
        )
        for i, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("keep", "phase", "scores", "expected"),
    [
        ("all", "evaluated", (0.1, 0.3, 0.2), []),
        ("last", "evaluated", (0.1,), []),
        ("last", "sampled", (0.1, 0.3), []),  # the second may start from the first
        ("last", "trained", (0.1, 0.3), []),  # the newest that is evaluated
        ("last", "evaluated", (0.1, 0.3), [1]),
        ("last", "evaluated", (0.1, 0.3, 0.2), [1, 2]),
        ("best", "evaluated", (0.1,), []),
        ("best", "evaluated", (0.3, 0.1), []),  # the second is worse, and the third may start from it
        ("best", "trained", (0.3, 0.1, None), [2]),
        ("best", "evaluated", (0.1, 0.3), [1]),
        ("best", "evaluated", (0.3, 0.1, 0.2), [2, 3]),  # the third is the last one: nothing starts from it
        ("best", "evaluated", (0.3, 0.3, 0.3), [2, 3]),  # the earliest, among equals
        ("best", "evaluated", (0.1, 0.2, 0.3), [1, 2]),
    ],
)
def test_what_can_go(keep: str, phase: str, scores: tuple[float | None, ...], expected: list[int]) -> None:
    assert removable(at(phase, *scores), keep=keep, iterations=3) == expected  # type: ignore[arg-type]


def test_nothing_that_is_needed_ever_goes() -> None:
    """Every trial of four iterations that can be: some weights are gone before, scores in every order."""
    for gone, scores, (n, phase), keep in itertools.product(
        itertools.product([False, True], repeat=3),
        itertools.permutations([0.1, 0.2, 0.2, 0.4]),
        itertools.product(range(1, 5), ["sampled", "trained", "evaluated"]),
        ["last", "best"],
    ):
        done = [
            msgspec.structs.replace(one, has_weights=one.has_weights and not (one.number < n and gone[one.number - 1]))
            for one in at(phase, *scores[:n])
        ]
        there = {one.number for one in done if one.has_weights}
        go = removable(done, keep=keep, iterations=4)  # type: ignore[arg-type]
        left = there - set(go)
        assert set(go) <= there
        assert all(done[number - 1].evaluated for number in go)
        newest_trained = max((one.number for one in done if one.trained), default=0)
        if newest_trained < 4:
            assert newest_trained not in go, "the next iteration may start from it"
        evaluated = [number for number in there if done[number - 1].evaluated]
        if evaluated:
            best = max(evaluated, key=lambda number: (scores[number - 1], -number))
            assert (best if keep == "best" else max(evaluated)) in left
        assert removable([d for d in done if d.number not in go], keep=keep, iterations=4) == []  # type: ignore[arg-type]


def test_the_best_of_what_has_no_score_is_not_guessed() -> None:
    with pytest.raises(InputError, match="iteration 1 has no score on validation problems"):
        removable(at("evaluated", None, 0.3), keep="best", iterations=2)
    with pytest.raises(UnknownName, match="did you mean 'last'"):
        removable([], keep="lats", iterations=2)  # type: ignore[arg-type]


def written(trial: Path, iterations: int) -> Path:
    """The folder of a trial that is done."""
    (trial / "iteration_0" / "evaluation_test").mkdir(parents=True)
    (trial / "trial.json").write_text("{}")
    for i in range(1, iterations + 1):
        folder = trial / f"iteration_{i}"
        checkpoint = folder / "train" / "checkpoint"
        (checkpoint / "adapter").mkdir(parents=True)
        for name in WEIGHTS:
            (checkpoint / name).write_bytes(b"w" * 1000)
        (checkpoint / "adapter" / "adapter_model.safetensors").write_bytes(b"a" * 10)
        for name in ("config.json", "tokenizer.json", "adapter/adapter_config.json"):
            (checkpoint / name).write_text("{}")
        trained = Trained(checkpoint="checkpoint", steps=3)
        (folder / "train" / "trained.json").write_bytes(msgspec.json.encode(trained))
        for name in ("sample", "evaluation_test", "train/validation/1"):
            (folder / name).mkdir(parents=True)
            (folder / name / "completions.jsonl").write_text("{}\n")
        (folder / "rows.jsonl").write_text("{}\n")
        scores = {"validation": {"toy": {"pass@1": {"value": (0.1, 0.5, 0.4)[i - 1]}}}}
        (folder / "evaluated.json").write_text(json.dumps({"estimates": scores}))
    return trial


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_weights_are_removed_and_a_note_is_left(tmp_path: Path) -> None:
    trial = written(tmp_path / "trial", 3)
    before, used = files(trial), used_bytes(trial)
    assert tidy(trial, keep="all", iterations=3) == 0
    assert files(trial) == before
    freed = tidy(trial, keep="best", iterations=3)
    assert freed == 2 * 3010
    after = files(trial)
    notes = {f"iteration_{i}/train/checkpoint/removed.json" for i in (1, 3)}
    gone = before.keys() - after.keys()
    assert after.keys() - before.keys() == notes
    assert gone == {
        f"iteration_{i}/train/checkpoint/{name}"
        for i in (1, 3)
        for name in (*WEIGHTS, "adapter/adapter_model.safetensors")
    }
    assert all(after[name] == before[name] for name in before.keys() - gone)
    note = json.loads(after["iteration_1/train/checkpoint/removed.json"])
    assert note["bytes"]["adapter/adapter_model.safetensors"] == 10
    assert used_bytes(trial) == used - freed + sum(len(after[name]) for name in notes)
    assert tidy(trial, keep="best", iterations=3) == 0
    assert files(trial) == after


def test_a_removal_that_was_killed_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = written(tmp_path / "whole", 2), written(tmp_path / "killed", 2)
    tidy(whole, keep="last", iterations=2)
    unlink, calls = Path.unlink, iter(range(100))

    def dying(path: Path, missing_ok: bool = False) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        with pytest.raises(KeyboardInterrupt):
            tidy(killed, keep="last", iterations=2)
    assert len(files(killed)) > len(files(whole))
    for keep in ("all", "last"):  # what is left of the weights is of no use, whatever is wanted now
        tidy(killed, keep=keep, iterations=2)  # type: ignore[arg-type]
        assert files(killed) == files(whole)


def test_what_a_killed_phase_left_behind_goes_once_it_is_done(tmp_path: Path) -> None:
    trial = written(tmp_path / "trial", 2)
    before = files(trial)
    for i in (1, 2):
        for name in ("state", "epochs/1", ".checkpoint.new"):
            (trial / f"iteration_{i}" / "train" / name).mkdir(parents=True)
            (trial / f"iteration_{i}" / "train" / name / "state.pt").write_bytes(b"s" * 100)
    (trial / "iteration_2" / "train" / "trained.json").unlink()  # it goes on from its state
    assert tidy(trial, keep="all", iterations=2) == 300
    left = files(trial)
    assert {name: data for name, data in left.items() if name.startswith("iteration_1")} == {
        name: data for name, data in before.items() if name.startswith("iteration_1")
    }
    assert sum(name.endswith("state.pt") for name in left) == 3


def test_weights_that_are_not_the_trials_are_not_touched(tmp_path: Path) -> None:
    trial = written(tmp_path / "trial", 2)
    elsewhere = tmp_path / "base"
    shutil.move(trial / "iteration_1" / "train" / "checkpoint", elsewhere)
    (trial / "iteration_1" / "train" / "checkpoint").symlink_to(elsewhere)
    before = files(elsewhere)
    tidy(trial, keep="last", iterations=2)
    assert files(elsewhere) == before
    for path in ("..", ".", str(elsewhere)):
        account = Trained(checkpoint=path, steps=3)
        (trial / "iteration_1" / "train" / "trained.json").write_bytes(msgspec.json.encode(account))
        tidy(trial, keep="last", iterations=2)
        assert files(elsewhere) == before


def test_room_is_asked_for_before_a_phase(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 3_000_000)
    require_room(tmp_path, 1_000_000, limit=4_000_000, what="training")
    require_room(tmp_path / "not made yet", 1, limit=None, what="training")
    with pytest.raises(
        HarnessError, match=r"training may need 0.02 GB and .* holds 0.00 GB of the 0.01 GB that it may"
    ):
        require_room(tmp_path, 20_000_000, limit=10_000_000, what="training")
    with pytest.raises(HarnessError, match=r"the disk of .* free \(0.00 GB are this folder's\): make room"):
        require_room(tmp_path, 10**18, limit=None, what="training")


def test_what_training_needs(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w" * 2000)
    for dtype, params in (("float32", 500), ("bfloat16", 1000)):
        (tmp_path / "config.json").write_text(json.dumps({"dtype": dtype}))
        assert training_bytes(tmp_path, recipe("rft")) == 2000 + 24 * params
        assert training_bytes(tmp_path, recipe("rest_em")) == 4000 + 24 * params  # by validation: two checkpoints
        assert training_bytes(tmp_path, recipe("grpo")) == 2000 + 24 * params
    lora = recipe({"recipe": "rft", "improve": {"lora": {"r": 8}}})
    assert training_bytes(tmp_path, lora) == 2000 + 24 * 50
    assert training_bytes(Path("Organisation/model"), recipe("rft")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_trial_whose_weights_are_gone_misses_nothing(tmp_path: Path, keep: str) -> None:
    from harness.treat import treat
    from harness.trials import Evaluation, TaskUse, Trial
    from harness.types import Budget
    from tests.samplers.conftest import save

    toy = f"{Path(__file__).parent / 'toy_task.py'}:toy"
    sample = {"n": 8, "temperature": 1.0, "max_tokens": 6, "top_k": 0}
    improve = {"epochs": 2, "batch_rows": 16, "learning_rate": 3e-3, "until": "epochs"}
    trial = Trial(
        treatment=recipe({"recipe": "rest_em", "iterations": 3, "sample": sample, "improve": improve}),
        base=str(save(tmp_path / "base", 1)),
        train=TaskUse(task=toy, args={"n": 12}),
        validation=TaskUse(task=toy, args={"n": 12, "split": "validation"}),
        evaluation=Evaluation(
            on={"test": TaskUse(task=toy, args={"split": "test", "n": 4})},
            budget=Budget(n=2, temperature=1.0, max_tokens=6),
            train_limit=4,
            drift=0,
        ),
        keep=keep,  # type: ignore[arg-type]
    )
    out = tmp_path / "trial"
    evaluated = treat(trial, out, workers=1)
    has = [number for number in (1, 2, 3) if list(out.glob(f"iteration_{number}/train/checkpoint/*.safetensors"))]
    if keep == "last":
        assert has == [3]
    else:
        scores = [each.estimates["validation"]["toy"]["pass@1"]["value"] for each in evaluated[1:]]
        assert has == [scores.index(max(scores)) + 1]
    before = files(out)
    (out / "trial_results.json").unlink()
    treat(trial, out, workers=1)
    assert files(out) == before  # trial_results.json among them
