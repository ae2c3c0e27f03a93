"""Several submissions and pruning in the verifier report, on real programs whose numbers can be told by hand."""

import itertools
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import suites
from harness.finished import results_of
from harness.leaderboards.verifier import read_report, write
from harness.metrics.inference import diff_ci, mean_ci
from harness.tasks.list_programs import list_programs
from harness.verifiers import rate

PROBLEMS, N = 12, 12
KS = [1, 2, 4, 10, 12]
WRONG = [" return None"] * 5 + [" return 1 // 0", " return x[", " return 7", " return 8", " return 9", " return 10"]
"""Five that agree, one that fails, one that is no Python, and others that are each alone: more than are used."""


@dataclass
class World:
    """Each problem has one to three right programs, which alone pass the examples."""

    folder: Path
    right: np.ndarray
    """(P, N)"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    task = list_programs(problems=PROBLEMS)
    right = np.zeros((PROBLEMS, N))
    lines = []
    for place, problem in enumerate(task.problems):
        n_right = 1 + place % 3
        texts = [task.gold(problem).text] * n_right + WRONG[: N - n_right]
        right[place, :n_right] = 1
        lines += [json.dumps({"problem_id": problem.id, "text": text}) + "\n" for text in texts]
    (folder / "completions.jsonl").write_text("".join(lines))
    harness.evaluate(
        "list_programs",
        "replay",
        model_args={"path": str(folder / "completions.jsonl")},
        task_args={"problems": PROBLEMS},
        k="1,2",
        output_path=folder / "run",
    )
    suites.run_suite(folder / "run", suites.own_inputs(task.problems), workers=1)
    shutil.copytree(folder / "run", folder / "bare")
    suites.run_suite(folder / "run", suites.examples(task.problems), workers=1)
    for name, column in {"truth": right, "even": 0 * right, "anti": -right, "zanti": -right}.items():
        rows = [
            {"problem_id": problem.id, "index": j, "score": column[place, j]}
            for place, problem in enumerate(task.problems)
            for j in range(N)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        rate(folder / "run", "precomputed", args={"path": str(folder / name)}, name=name)
    _, results = results_of(folder / "run")
    assert np.array_equal(results.passed_PG, right)
    return World(folder, right)


@pytest.fixture(scope="module")
def page(world):
    return write(world.folder / "run", ks=KS)[0].read_text()


@pytest.fixture(scope="module")
def part(world, page):
    [part] = read_report(world.folder / "run" / "verifiers.json").parts
    return part


def table(text, first):
    """Rows of the table whose first header is this one."""
    start = text.index(f"| {first} ")
    lines = itertools.takewhile(lambda line: line.startswith("|"), text[start:].splitlines())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


def section(page, heading):
    return page.split(f"### {heading}\n")[1].split("\n#")[0]


def pass_at(right, n):
    """By counting: (P,)."""
    wrong = N - right.sum(axis=1).astype(int)
    return np.array([1 - math.comb(w, n) / math.comb(N, n) for w in wrong])


def test_what_passes_the_examples_is_submitted(world, part):
    """Only right programs pass them, and agree: one submission is right wherever the k have a right program."""
    several = part.several
    assert (several.suite, several.accepted) == ("inputs", "examples")
    assert [each.n for each in several.submitted] == [1, 10]
    for each, ks in zip(several.submitted, ([2, 4, 10, 12], [10, 12]), strict=True):
        assert list(each.solved) == ks
        for k in ks:
            wanted = mean_ci(pass_at(world.right, k))
            found = each.solved[k]
            assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
        random_P = pass_at(world.right, each.n)
        assert each.random.value == pytest.approx(random_P.mean())
        gain = diff_ci(1 - random_P)
        assert (each.gain.value, each.gain.low) == pytest.approx((gain.value, gain.low))


def test_the_page_sets_the_chosen_beside_the_random(page, part):
    said = section(page, "Several submissions")
    one, ten = part.several.submitted
    gain = f"{100 * one.gain.value:+.1f} [{100 * one.gain.low:+.1f}, {100 * one.gain.high:+.1f}]"
    assert one.gain.low > 0
    assert (
        "those that pass the examples, where a problem has any, are clustered by their results on the tests' inputs"
        in said
    )
    level = f"100.0 [{100 * one.solved[12].low:.1f}, 100.0]"
    assert f"- **1 submission of 12**: {level} % solved; {gain} over a random one (pass@1)." in said
    assert ten.gain.low <= 0
    assert "**10 submissions of 12**" in said
    assert "cannot be told apart from 10 random ones (pass@10)" in said
    rows = table(said, "submissions")
    assert rows[0] == ["submissions", "k = 2", "k = 4", "k = 10", "k = 12"]
    assert [row[0] for row in rows[1:]] == [
        *("1, chosen (1@k)", "1, random (pass@1)"),
        *("10, chosen (10@k)", "10, random (pass@10)", "all k (pass@k)"),
    ]
    assert rows[3][1:3] == rows[4][1:3] == ["-", "-"]
    assert rows[3][3] == rows[4][3] == rows[5][3]  # ten of ten


def test_without_examples_the_largest_cluster_is_submitted(world, verifier_report):
    """Five programs return None, at most three are right: one submission is never right, ten are all clusters."""
    page, report = verifier_report(world.folder / "bare", ks=KS)
    [part] = report.parts
    one, ten = part.several.submitted
    assert part.several.accepted is None
    assert one.solved[12].value == 0
    assert one.gain.value == pytest.approx(-world.right.mean())
    assert ten.solved[12].value == 1
    said = section(page, "Several submissions")
    assert "Of k programs all are clustered by" in said
    assert "none passes" not in said
    assert "% solved; **worse than a random one (pass@1)**, -" in said


def test_pruning_by_a_score_that_knows_and_by_one_that_is_wrong(world, part):
    assert [(each.score, each.suite, each.k) for each in part.pruned] == [
        (score, "examples", 12)
        for score in ("truth", "even", "anti")  # three of the four
    ]
    truth, even, anti = part.pruned
    for each in part.pruned:
        assert [one.keep for one in each.kept] == [12, 6, 3, 1]
        assert each.kept[0].right.value == 1  # the examples know
        assert each.kept[0].change is None
    assert [one.right.value for one in truth.kept] == [1, 1, 1, 1]
    assert [one.right.value for one in anti.kept] == [1, 0, 0, 0]
    for one in even.kept[1:]:  # ties: any of the 12 are kept
        wanted_P = pass_at(world.right, one.keep)
        assert one.right.value == pytest.approx(wanted_P.mean(), abs=0.01)
        assert one.change.value == pytest.approx(one.right.value - 1)
    assert (truth.enough, even.enough, anti.enough) == (1, 12, 12)


def test_seconds_are_those_of_the_programs_that_are_run(world, part):
    _, results = results_of(world.folder / "run")
    seconds_PG = np.array(results.suites["examples"].cpu_s_PG)
    unknown = np.isnan(seconds_PG)
    assert unknown.sum() == PROBLEMS  # what is no Python is not timed
    filled = np.where(unknown, np.nanmean(seconds_PG, axis=1, keepdims=True), seconds_PG)
    truth, even, _ = part.pruned
    assert (even.programs, even.unmeasured) == (PROBLEMS * N, PROBLEMS)
    for one in even.kept:
        assert one.cpu_s == pytest.approx(filled.sum(axis=1).mean() * one.keep / N)
    first = (filled * world.right).sum(axis=1) / world.right.sum(axis=1)
    assert truth.kept[-1].cpu_s == pytest.approx(first.mean())
    assert truth.kept[0].cpu_s == pytest.approx(even.kept[0].cpu_s)


def test_the_page_says_how_few_suffice(page, part):
    said = section(page, "Prune, then rank")
    seconds = f"{part.pruned[0].kept[0].cpu_s:.3g}"
    assert "**truth**: taking the best of 12 and running none cannot be told apart from running all (+0.0 [" in said
    assert f"it saves the {seconds} CPU seconds that the tests of a problem take." in said
    assert "**anti**: running only the best 6 of 12 is already worse than running all, -100.0 [" in said
    assert f"not known of {PROBLEMS} of {PROBLEMS * N} completions: they count like the average" in said
    rows = table(said, "score")
    assert rows[0] == ["score", "programs run", "right, %", "against all", "CPU s"]
    assert [row[:2] for row in rows[1:6]] == [["truth", "12"], ["", "6"], ["", "3"], ["", "1"], ["even", "12"]]
    assert rows[1][3:] == ["-", seconds]


@pytest.mark.slow
def test_a_repetition_is_the_same_to_the_byte(world, page):
    numbers = (world.folder / "run" / "verifiers.json").read_bytes()
    again = write(world.folder / "run", ks=KS)
    assert again[0].read_text() == page
    assert again[1].read_bytes() == numbers


def test_unknown_seconds_are_not_zero(world, verifier_report, tmp_path):
    shutil.copytree(world.folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "suites" / "examples" / "outcomes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["problem_id"] == rows[0]["problem_id"]:
            row.pop("cpu_s", None)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, report = verifier_report(tmp_path / "run", ks=[1, 12])
    [part] = report.parts
    assert all(one.cpu_s is None for each in part.pruned for one in each.kept)
    assert part.pruned[0].enough == 1
    said = section(page, "Prune, then rank")
    assert "what that saves is not known, as CPU seconds were not measured" in said
    assert f"are not known of {PROBLEMS - 1 + N} of {PROBLEMS * N} completions" in said
    assert table(said, "score")[0] == ["score", "programs run", "right, %", "against all"]


def test_nothing_is_said_where_there_is_nothing_to_show(world, verifier_report, tmp_path):
    bare, _ = verifier_report(world.folder / "bare", ks=KS)
    assert "### Several submissions" in bare
    assert "Prune, then rank" not in bare  # no scores
    shutil.copytree(world.folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "suites")
    page, report = verifier_report(tmp_path / "run", ks=KS)
    [part] = report.parts
    assert (part.several, part.pruned) == (None, ())
    assert "Several submissions" not in page
    assert "Prune, then rank" not in page
