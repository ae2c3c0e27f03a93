"""Treatments end to end: a tiny model is sampled from, rewarded, trained and evaluated; phases resume."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.errors import InputError, RunMismatch
from harness.trials import Trial, trial

TOY = Path(__file__).parent / "toy_task.py"
IMPROVE = {"learning_rate": 3e-3, "epochs": 8, "batch_rows": 16, "schedule": "constant", "warmup": 0}
RFT = {
    "recipe": "rft",
    "sample": {"n": 24, "temperature": 1.0, "max_tokens": 6, "top_k": 0},
    "select": {"dedupe": "none", "pick": "first", "human": "none"},
    "improve": IMPROVE,
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with its tokenizer."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent / "samplers" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    return Path(models.save(tmp_path_factory.mktemp("base"), 1))


def written(folder: Path, base: Path, treatment: object = "rft", **more: object) -> Path:
    plan = {
        "treatment": treatment,
        "base": str(base),
        "train": {"task": f"{TOY}:toy"},
        "evaluation": {
            "on": {"test": {"task": f"{TOY}:toy", "args": {"split": "test", "n": 30}}},
            "budget": {"n": 8, "temperature": 1.0, "max_tokens": 6},
            "k": [1, 4],
        },
        **more,
    }
    path = folder / "trial.yaml"
    path.write_text(json.dumps(plan))  # JSON is YAML
    return path


def run(path: Path, out: Path, *, by_command: bool = False) -> list[dict[str, object]]:
    if by_command:
        command = [sys.executable, "-m", "harness", "train", str(path), "--output_path", str(out)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    else:
        from harness.treat import treat

        treat(trial(path), out)
    found: list[dict[str, object]] = json.loads((out / "trial_results.json").read_text())
    return found


def score(evaluated: dict[str, object], on: str = "test") -> float:
    return float(evaluated["estimates"][on]["toy"]["pass@1"]["value"])  # type: ignore[index]


@pytest.mark.slow
def test_rft_raises_the_score_and_its_placebo_does_not(tmp_path: Path, base: Path) -> None:
    scores = {}
    for arm in (None, "random_reward"):
        results = run(written(tmp_path, base, RFT, control=arm), tmp_path / str(arm))
        assert [each["iteration"] for each in results] == [0, 1]
        scores[arm] = [score(each, "train") for each in results]
        rows = (tmp_path / str(arm) / "iteration_1" / "rows.jsonl").read_text().splitlines()
        assert results[1]["rows"] == len(rows) > 10
    assert scores[None][0] == scores["random_reward"][0]  # one and the same base
    assert scores[None][1] > scores[None][0] + 0.2
    assert scores[None][1] > scores["random_reward"][1] + 0.2


@pytest.mark.slow
def test_grpo_raises_the_score(tmp_path: Path, base: Path) -> None:
    grpo = {
        "recipe": "grpo",
        "sample": {"n": 8, "temperature": 1.0, "max_tokens": 6},
        "on_policy": {"rounds": 15, "problems": 24, "learning_rate": 1e-3, "mask_truncated": False},
    }
    results = run(written(tmp_path, base, grpo), tmp_path / "grpo", by_command=True)
    assert score(results[1], "train") > score(results[0], "train") + 0.2
    assert results[1]["sampled_tokens"] == results[1]["trained"]["sampled_tokens"] > 0  # type: ignore[index]


def test_a_trial_reads_its_file(tmp_path: Path, base: Path) -> None:
    made = trial(written(tmp_path, base, RFT, control="random_reward"), seed=3)
    assert (made.seed, made.treatment.sample.n, made.evaluation.k) == (3, 24, (1, 4))
    assert made.treatment.reward != trial(written(tmp_path, base, RFT)).treatment.reward
    assert msgspec.convert(msgspec.to_builtins(made), type=Trial) == made


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"treatment": "rtf"}, "there is no recipe 'rtf': did you mean"),
        ({"tretment": "rft"}, "did you mean 'treatment'"),
        ({"control": "random"}, "there is no control 'random'"),
        ({"evaluation": {"k": [1]}}, "evaluates on no problems but those of training"),
        ({"treatment": "rest_em"}, "needs validation problems"),
        ({"train": {"tusk": "gsm8k"}}, "did you mean 'task'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    changed: dict[str, object], message: str, tmp_path: Path, base: Path
) -> None:
    with pytest.raises(InputError, match=message):
        trial(written(tmp_path, base, **{"treatment": RFT, **changed}))  # type: ignore[arg-type]


def test_test_problems_are_never_trained_on(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.evaluate import TRAINING, load_tasks
    from harness.treat import treat

    use = {"task": f"{TOY}:toy", "args": {"split": "test", "n": 30}}
    with pytest.raises(InputError, match="are of its test split"):
        treat(trial(written(tmp_path, base, RFT, train=use)), tmp_path / "out")
    evaluation = {"on": {"test": {"task": f"{TOY}:toy"}}}
    with pytest.raises(InputError, match="24 problems of the evaluation 'test' are trained or selected on"):
        treat(trial(written(tmp_path, base, RFT, evaluation=evaluation)), tmp_path / "out2")
    monkeypatch.setenv(TRAINING, "1")
    with pytest.raises(InputError, match="test split"):
        load_tasks([f"{TOY}:toy"], {f"{TOY}:toy": {"split": "test"}})


def test_a_folder_keeps_to_its_trial(tmp_path: Path, base: Path) -> None:
    from harness.treat import treat

    out = tmp_path / "out"
    use = {"task": f"{TOY}:toy", "args": {"split": "test"}}
    for seed in (0, 1):  # the first stops at the test split after it wrote what it is
        with pytest.raises(InputError if seed == 0 else RunMismatch, match=r"test split|seed differs"):
            treat(trial(written(tmp_path, base, RFT, train=use), seed=seed), out)


def test_what_is_only_about_speed_may_change_on_the_way(tmp_path: Path, base: Path) -> None:
    from harness.treat import treat

    use = {"task": f"{TOY}:toy", "args": {"split": "test"}}  # stops the trial after it wrote what it is
    for number, improve in enumerate([{}, {"processes": 2}, {"processes": 3, "batch_tokens": 99}, {"epochs": 9.0}]):
        recipe = {**RFT, "improve": {**RFT.get("improve", {}), **improve}}
        with pytest.raises(RunMismatch if number == 3 else InputError, match=r"treatment differs|test split"):
            treat(trial(written(tmp_path, base, recipe, train=use)), tmp_path / "out")
