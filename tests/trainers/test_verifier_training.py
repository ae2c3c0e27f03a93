"""Verifiers learn what can be learnt, from training problems alone, twice the same; texts hold no verdict."""

import dataclasses
import filecmp
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness import suites
from harness.errors import InputError, RunMismatch, UnknownName
from harness.finished import results_of
from harness.scorers import Scorable, account
from harness.trainers import verifier_fit, verifier_model, verifier_text
from harness.trainers.verifier import Settings, train_verifier, verifier
from harness.trainers.verifier_text import Labelled
from harness.types import Completion, Execution, Problem, Status, Test
from harness.verifiers import rate
from tests.samplers.conftest import save
from tests.trainers.replayed import replayed

PROBLEMS = 24
TEXTS = ("    return x\n", "    return x + 1\n", "    return 1 / 0\n", "    return x + 0\n")
SETTINGS = Settings(epochs=6, learning_rate=3e-3, max_tokens=160)


def make_run(folder: Path, name: str, split: str = "train") -> Path:
    """Half of the problems want x, half x + 1: a program alone says little, and with the example in the prompt all."""
    problems, completions = [], []
    for i in range(PROBLEMS):
        added = i % 2
        tests = [{"kind": "call", "input": [x], "expected": x + added} for x in (3, 5)]
        shown = f"def f(x):\n    '''\n    >>> f(1)\n    {1 + added}\n    '''\n"
        problems.append({"id": f"{name}/{i}", "entry_point": "f", "prompt": shown, "split": split, "tests": tests})
        completions += [{"problem_id": f"{name}/{i}", "text": text} for text in TEXTS]
    replayed(folder, name, problems, completions)
    suites.run_suite(folder / name, suites.examples(suites.problems_of(folder / name)))
    return folder / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A random base model, a run on training problems and one on test problems, a trained verifier of each kind."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("verifiers")
    base = save(folder / "base", 1, max_position_embeddings=256)
    made = SimpleNamespace(folder=folder, base=base, train=make_run(folder, "a"), test=make_run(folder, "b", "test"))
    for kind in ("lever", "lever_classifier", "probe"):
        train_verifier([made.train], folder / kind, base=base, kind=kind, settings=SETTINGS)
    return made


def scorables(run: Path) -> list[Scorable]:
    _, results = results_of(run, with_tasks=True)
    shown = results.suites["examples"]
    return [
        Scorable(
            problem=problem,
            completion=completion,
            tests=shown.tests_PC[p],
            executions=tuple(
                Execution(
                    problem_id=problem.id,
                    index=completion.index,
                    test_id=test.id,
                    status=Status.passed if shown.passed_PGC[p][g][c] else Status.wrong,
                    value=shown.value_PGC[p][g][c],
                )
                for c, test in enumerate(shown.tests_PC[p])
            ),
        )
        for p, problem in enumerate(results.problems_P)
        for g, completion in enumerate(results.completions_PG[p])
    ]


@pytest.mark.parametrize("kind", ["lever", "lever_classifier", "probe"])
def test_it_tells_right_from_wrong_on_problems_that_it_has_not_seen(place, kind):
    found = account(place.folder / kind)
    assert (found.kind, found.suite) == (kind, "examples")
    assert set(found.problems) == {f"a/{i}" for i in range(PROBLEMS)}
    made, _ = results_of(place.train)
    assert found.generator == made.model_identity
    rate(place.test, "verifier", args={"path": str(place.folder / kind)}, name=kind)
    _, results = results_of(place.test)
    right = [s for row, p in zip(results.scores[kind], results.passed_PG, strict=True) for s in row[p == 1]]
    wrong = [s for row, p in zip(results.scores[kind], results.passed_PG, strict=True) for s in row[p == 0]]
    assert len(right) == PROBLEMS * 3 // 2
    assert min(right) > max(wrong)


def test_what_it_does_not_see_it_cannot_know(place):
    seen = {
        name: train_verifier([place.train], place.folder / name, base=place.base, inputs=inputs, settings=SETTINGS)
        for name, inputs in {"blind": ("program",), "no_prompt": ("program", "execution")}.items()
    }
    assert seen["blind"]["suite"] is None
    # x and x + 1 are right in half of the problems: at best log 2 on two programs or three of four, 0 on the other
    assert seen["blind"]["validation"]["loss"] > 0.4
    assert seen["no_prompt"]["validation"]["loss"] < 0.1  # " ok" says it all
    values = train_verifier(
        [place.train],
        place.folder / "values",
        base=place.base,
        inputs=("program", "execution"),
        agreement=False,
        settings=SETTINGS,
    )
    assert values["validation"]["loss"] > 0.4


@pytest.mark.parametrize("kind", ["lever", pytest.param("lever_classifier", marks=pytest.mark.slow), "probe"])
def test_the_same_training_gives_the_same_bytes(place, kind, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        train_verifier([place.train], tmp_path / name, base=place.base, kind=kind, seed=seed, settings=SETTINGS)
    files = [p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()]
    assert len(files) >= 2
    for file in files:
        same = filecmp.cmp(tmp_path / "again" / file, place.folder / kind / file, shallow=False)
        assert same or file.name == "verifier.json"
    read = [json.loads((place_ / "verifier.json").read_text()) for place_ in (tmp_path / "again", place.folder / kind)]
    for one in read:
        del one["seconds"]
    assert read[0] == read[1]
    assert account(tmp_path / "other").sha != read[0]["sha"]


@pytest.mark.parametrize("kind", ["lever", "lever_classifier", "probe"])
def test_a_score_does_not_depend_on_its_neighbours(place, kind):
    batch = scorables(place.test)
    path = str(place.folder / kind)
    whole = list(verifier(batch, path=path))
    assert list(verifier(batch[::-1], path=path))[::-1] == pytest.approx(whole, abs=1e-5)
    alone = [next(iter(verifier([one], path=path))) for one in batch[:12]]
    assert alone == pytest.approx(whole[:12], abs=1e-5)
    longer = dataclasses.replace(batch[0], problem=Problem(id="x", task="t", prompt="x = 1\n" * 20))
    assert list(verifier([longer, *batch[:3]], path=path))[1:] == pytest.approx(whole[:3], abs=1e-5)


@pytest.mark.parametrize("kind", ["lever", "probe"])
def test_the_scorer_gives_what_training_said_of_validation(place, kind):
    rows = verifier_text.labelled([place.train], inputs=verifier_text.INPUTS, suite="examples", agreement=True).rows
    _, validation = verifier_text.split(rows)
    texts = {
        verifier_text.text_of_scorable(one, inputs=verifier_text.INPUTS, agreement=True): one
        for one in scorables(place.train)
    }
    found = verifier([texts[row.text] for row in validation], path=str(place.folder / kind))
    said = json.loads((place.folder / kind / "verifier.json").read_text())["validation"]
    errors = [(p - row.passed) ** 2 for p, row in zip(found, validation, strict=True)]
    assert sum(errors) / len(errors) == pytest.approx(said["brier"], abs=1e-6)
    assert len({row.problem_id for row in validation}) == said["n_problems"]


def test_the_text_of_a_completion():
    problem = Problem(id="p", task="t", prompt="def f(x, y):", entry_point="f")
    tests = [
        Test(id="0", kind="call", input=[[1, 2], "a, b"], expected=[3, 4], source="public"),
        Test(id="1", kind="call", input=[0, 1], expected=5, source="public"),
        Test(id="2", kind="call", input=[7, 8], expected=123456, source="gold"),
    ]
    values, passed = ["[3, 4]", None, "123456"], [True, False, True]
    lines = verifier_text.execution_lines(problem, tests, values, passed, agreement=True)
    assert lines == ["f([1,2],'a,b')=[3,4] ok", "f(0,1)=error no", "f(7,8)=123456"]
    plain = verifier_text.execution_lines(problem, tests, values, passed, agreement=False)
    assert plain == ["f([1,2],'a,b')=[3,4]", "f(0,1)=error", "f(7,8)=123456"]
    base = Completion(problem_id="p", index=0, text="\n    return x", program="def f(x, y):\n    return x")
    assert verifier_text.text_of(problem, base, plain[:1], inputs=verifier_text.INPUTS) == (
        "def f(x, y):\n    return x\n# f([1,2],'a,b')=[3,4]\nright?"
    )
    assert verifier_text.text_of(problem, base, plain, inputs=("program",)) == "\n    return x\nright?"
    reply = Completion(problem_id="p", index=0, text="Sure: ...", form="message", program="def f(x, y): ...")
    assert verifier_text.text_of(problem, reply, [], inputs=("prompt", "program")) == (
        "def f(x, y):\ndef f(x, y): ...\nright?"
    )


def test_what_the_gold_tests_say_is_in_no_text(place):
    """The verdict of the task's own tests must not reach a verifier by the suite of their inputs."""
    suites.run_suite(place.train, suites.own_inputs(suites.problems_of(place.train)))
    rows = verifier_text.labelled([place.train], inputs=verifier_text.INPUTS, suite="inputs", agreement=True).rows
    assert len(rows) == PROBLEMS * len(TEXTS)
    assert not any(" ok" in row.text or " no" in row.text for row in rows)
    assert all("# f(3)=" in row.text and "# f(5)=" in row.text for row in rows)


def test_every_problem_counts_the_same():
    rows = [Labelled(problem_id="a", text=str(i), passed=True) for i in range(9)]
    rows.append(Labelled(problem_id="b", text="x", passed=False))
    assert verifier_text.weights(rows) == pytest.approx([1 / 18] * 9 + [1 / 2])
    # -log sigmoid(0) for the nine, -log(1 - sigmoid(2)) for the one
    assert verifier_text.loss(rows, [0.0] * 9 + [2.0]) == pytest.approx((0.693147 + 2.126928) / 2, abs=1e-5)


def test_the_gradient_is_that_of_the_mean_over_problems(place):
    """As by one text at a time with weights by hand."""
    network = verifier_model.open_network(place.base, kind="lever", max_tokens=64)
    groups = [
        [Labelled(problem_id="a", text=f"return {i}", passed=i == 0) for i in range(5)],
        [Labelled(problem_id="b", text="return x + x + x + x", passed=True)],
    ]
    pairs = [
        list(zip(group, verifier_model.rows_of(network, [row.text for row in group]), strict=True)) for group in groups
    ]
    value = verifier_fit._backward(network, pairs)
    found = {name: p.grad.clone() for name, p in network.lm.model.named_parameters()}
    network.lm.model.zero_grad()
    wanted = 0.0
    for group in groups:
        for row in group:
            ids = torch.tensor([network.ids(row.text)])
            logits = network.lm.model(ids).logits[0, -1, list(network.answers)]
            nll = -logits.log_softmax(0)[0 if row.passed else 1] / len(group) / len(groups)
            nll.backward()
            wanted += nll.item()
    assert value == pytest.approx(wanted, rel=1e-5)
    for name, parameter in network.lm.model.named_parameters():
        assert torch.allclose(parameter.grad, found[name], atol=1e-6), name


def test_a_long_text_loses_its_beginning(place):
    network = verifier_model.open_network(place.base, kind="lever", max_tokens=16)
    long, end = "x = 1\n" * 50, "\nright?"
    ids = network.ids(long + end)
    assert len(ids) == 16
    assert network.lm.tokenizer.decode(ids).replace(" ", "").endswith("right?")


def test_what_is_refused(place, tmp_path):
    def train(out="v", runs=None, **settings):
        return train_verifier(runs or [place.train], tmp_path / out, base=place.base, settings=SETTINGS, **settings)

    with pytest.raises(InputError, match=r"b/0, of the test split"):
        train(runs=[place.train, place.test])
    with pytest.raises(UnknownName, match="lever"):
        train(kind="levr")
    with pytest.raises(InputError, match="prompts"):
        train(inputs=("prompts",))
    for kind in ("lever", "lever_classifier", "probe"):
        with pytest.raises(InputError, match="holds no model"):
            train_verifier([place.train], tmp_path / "v", base=tmp_path / "absent", kind=kind)
    with pytest.raises(InputError, match="none was given"):
        train_verifier([], tmp_path / "v", base=place.base)
    with pytest.raises(InputError, match="no suite"):
        train(suite=None)
    with pytest.raises(InputError, match="has no suite 'generated'"):
        train(suite="generated")
    with pytest.raises(InputError, match="max_tokens"):
        train_verifier([place.train], tmp_path / "v", base=place.base, settings=Settings(max_tokens=10_000))
    assert not (tmp_path / "v").exists()
    with pytest.raises(RunMismatch, match="exists already"):
        train_verifier([place.train], place.folder / "lever", base=place.base)
    with pytest.raises(InputError, match=r"no verifier\.json"):
        list(verifier([], path=str(tmp_path)))
    with pytest.raises(InputError, match="0 executions of 1 tests"):
        list(verifier([dataclasses.replace(scorables(place.test)[0], executions=())], path=str(place.folder / "lever")))


@pytest.mark.slow
def test_on_unseen_problems_a_verifier_beats_majority_and_log_probability(tmp_path):
    """The code world, small; `tests/benchmarks/verifiers.py` has it at full size, with the other world."""
    from harness.metrics.inference import diff_ci
    from tests.benchmarks import verifiers

    table = verifiers.scored(
        "list_programs",
        tmp_path,
        arms={name: verifiers.ARMS["list_programs"][name] for name in ("verifier", "no_execution")},
        train={"split": "train", "problems": 300},
        test={"split": "test", "problems": 150},
        ks=(8,),
    )
    by_name = {name: values[:, 0] for name, values in table.items()}
    for other in ("maj[inputs]", "best[mean logprob]", "best[sum_logprob]", "best[no_execution]"):
        assert diff_ci(by_name["best[verifier]"] - by_name[other]).low > 0, other
