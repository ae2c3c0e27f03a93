"""The reward term `verifier` and the scorer of that name with verifiers that were really trained, on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness import rewards
from harness.errors import InputError
from harness.finished import results_of
from harness.recipes import Reward, TermUse
from harness.trainers.verifier import Settings, train_verifier
from harness.types import Completion, Problem, Status, Test, Verdict
from harness.verifiers import rate
from tests.samplers.conftest import save
from tests.trainers.replayed import replayed

pytestmark = pytest.mark.slow
CALLS = (Test(id="0", kind="call", input=[3], expected=3),)


def run_of(folder: Path, name: str, split: str) -> Path:
    """Problems with a right and two wrong programs."""
    calls = [{"kind": "call", "input": [i], "expected": i} for i in (3, 4)]
    problems = [
        {"id": f"{split}/{i}", "entry_point": "f", "prompt": "def f(x):\n", "split": split, "tests": calls}
        for i in range(24)
    ]
    texts = ["    return x\n", "    return 1\n", "    return 3\n"]
    completions = [{"problem_id": row["id"], "text": text} for row in problems for text in texts]
    return replayed(folder, name, problems, completions)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs of training and test problems and a verifier that does without execution."""
    folder = tmp_path_factory.mktemp("verifier")
    base = save(folder / "base", 1)
    train, _ = run_of(folder, "train", "train"), run_of(folder, "test", "test")
    settings = Settings(epochs=4, learning_rate=3e-3, max_tokens=64)
    train_verifier([train], folder / "v", base=base, inputs=("prompt", "program"), suite=None, settings=settings)
    return folder


def graded(text: str, index: int) -> rewards.Graded:
    problem = Problem(id="new", task="t", prompt="def f(x):\n", entry_point="f", tests=CALLS)
    completion = Completion(problem_id="new", index=index, text=text, program=problem.prompt + text)
    verdict = Verdict(problem_id="new", index=index, passed=False, status=Status.wrong)
    return rewards.Graded(problem, completion, verdict)


def test_the_term_is_the_scorer_and_asks_for_no_verdict(trained):
    pool = [graded(text, i) for i, text in enumerate(["    return x\n", "    return 1\n", "    return x\n"])]
    use = Reward(terms={"verifier": TermUse(args={"path": str(trained / "v")})})
    right, wrong, again = (one.reward for one in rewards.score(pool, use))
    assert right == again
    assert 0 < wrong < right < 1
    assert not rewards.needs_all_tests(use)
    rate(trained / "test", "verifier", args={"path": str(trained / "v")}, name="v")
    _, results = results_of(trained / "test")
    np.testing.assert_allclose([row[0] for row in results.scores["v"]], right, atol=1e-5)
    np.testing.assert_allclose([row[1] for row in results.scores["v"]], wrong, atol=1e-5)


def told(trained: Path, folder: Path, **changes) -> str:
    """A folder that says something else of the same verifier."""
    account = json.loads((trained / "v" / "verifier.json").read_text()) | changes
    folder.mkdir()
    (folder / "verifier.json").write_text(json.dumps(account))
    return str(folder)


def test_a_verifier_that_looks_at_what_training_does_not_run_is_refused(trained, tmp_path):
    for suite in ("examples", "inputs"):
        path = told(trained, tmp_path / suite, inputs=["prompt", "execution"], suite=suite)
        with pytest.raises(InputError, match="looks at execution results, and training runs no suites"):
            rewards.score([graded("", 0)], Reward(terms={"verifier": TermUse(args={"path": path})}))
    with pytest.raises(InputError, match="is not a verifier"):
        rewards.score([graded("", 0)], Reward(terms={"verifier": TermUse(args={"path": str(tmp_path)})}))
