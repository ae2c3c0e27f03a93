"""TRL as a treatment, for real: both adapters teach a tiny Llama the toy task through `harness.external.improve`."""

from pathlib import Path
from typing import Any

import pytest

from harness.controls import control
from harness.evaluate import evaluate
from harness.external import improve
from harness.recipes import recipe
from harness.trials import Evaluation, TaskUse, Trial
from harness.types import Budget, Row, Trained

pytestmark = pytest.mark.slow

TOY = f"{Path(__file__).parents[1] / 'toy_task.py'}:toy"
GRPO = {
    "recipe": "trl_grpo",
    "sample": {"n": 8, "max_tokens": 6},
    "external": {"args": {"steps": 12, "problems": 24, "micro_rows": 192, "learning_rate": 1e-3}},
}
SFT = {
    "recipe": "trl_sft",
    "external": {"args": {"epochs": 12, "batch_rows": 16, "micro_rows": 8, "learning_rate": 3e-3}},
}
ROWS = [
    Row(problem_id=f"toy/train/{i}", prompt=f"{i} train apples", completion=text, complete=text == " ee")
    for i in range(24)
    for text in (" ee", " e3 e")
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def trained(out: Path, base: Path, treatment: dict[str, Any], rows: list[Row], placebo: str | None = None) -> Trained:
    made = recipe(treatment) if placebo is None else control(placebo, recipe(treatment))
    trial = Trial(treatment=made, base=str(base), train=TaskUse(task=TOY), evaluation=Evaluation(), control=placebo)
    return improve(trial, rows, out, init=str(base), iteration=1)


def score(model: Path, out: Path) -> float:
    args = {"pretrained": str(model)}
    budget = Budget(n=8, temperature=1.0, max_tokens=6)
    value = evaluate(TOY, "hf", model_args=args, budget=budget, output_path=out).estimates["toy"]["pass@1"].value
    assert value is not None
    return value


def test_grpo_learns_from_our_rewards(tmp_path: Path, tiny: Path) -> None:
    account = trained(tmp_path / "grpo", tiny, GRPO, [])
    assert (account.steps, account.reward_calls) == (12, 12 * 24 * 8)
    assert 12 * 24 * 8 < account.sampled_tokens == account.trained_tokens <= 12 * 24 * 8 * 6
    before = score(tiny, tmp_path / "before")
    assert score(tmp_path / "grpo" / "checkpoint", tmp_path / "after") > before + 0.4


def test_sft_learns_our_rows_of_a_chat_model_and_its_placebo_does_not(tmp_path: Path, chat: Path) -> None:
    account = trained(tmp_path / "sft", chat, SFT, ROWS)
    assert (account.steps, account.rows, account.reward_calls) == (12 * 3, 48, 0)
    tokens = [len(chat_tokens(chat, row.completion)) + row.complete for row in ROWS]
    assert account.trained_tokens == 12 * sum(tokens)
    before = score(chat, tmp_path / "before")
    assert score(tmp_path / "sft" / "checkpoint", tmp_path / "after") > before + 0.4
    trained(tmp_path / "frozen", chat, SFT, ROWS, placebo="frozen")
    assert "the weights are those that training began with" in (tmp_path / "frozen" / "log.txt").read_text()


def chat_tokens(folder: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    return ids


def test_adapters_are_short_enough_to_copy() -> None:
    folder = Path(__file__).parents[2] / "trainers" / "external"
    assert {path.name: len(path.read_text().splitlines()) < 80 for path in folder.glob("*.py")} == {
        "trl_grpo.py": True,
        "trl_sft.py": True,
    }
