"""The verifier report: its numbers are those of the estimators, its sentences say no more, its bytes are the same."""

import itertools
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import selectors, suites
from harness.errors import InputError, UnknownName
from harness.finished import results_of
from harness.leaderboards.verifier import board, read_report, write
from harness.metrics import verifier as metrics
from harness.metrics.inference import diff_ci, mean_ci, ratio_ci
from harness.metrics.majority import maj_at_k
from harness.metrics.significance import holm, p_value
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.tasks.list_programs import list_programs
from harness.verifiers import rate

PROBLEMS, N = 60, 8
KS = (1, 2, 4, 8)


@dataclass
class World:
    """A run with planted scores, and what was planted."""

    run: Path
    right: np.ndarray
    """(P, N)"""
    answers: np.ndarray
    """(P, N) whole numbers."""
    scores: dict[str, np.ndarray]
    """(P, N) each."""

    def best(self, name: str) -> np.ndarray:
        return best_at_k(self.right, self.scores[name], KS)


def make_run(folder, right, answers, *, scores=None, logprob=None, splits=None, k="1,2,4,8"):
    """A run of replayed answers, with the scores that came along."""
    folder.mkdir(exist_ok=True)
    problems, n = right.shape
    rows = [
        {"id": f"p/{i}", "prompt": "?", "answer": "7", "split": splits[i] if splits else "test"}
        for i in range(problems)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = []
    for i, j in itertools.product(range(problems), range(n)):
        line = {"problem_id": f"p/{i}", "text": "7" if right[i, j] else f"-{answers[i, j]}"}
        line |= {"scores": {name: float(column[i, j]) for name, column in (scores or {}).items()}}
        if logprob is not None:
            line |= {"logprob": float(logprob[i, j]), "n_tokens": 4}
        lines.append(json.dumps(line) + "\n")
    (folder / "completions.jsonl").write_text("".join(lines))
    harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": str(folder / "completions.jsonl")},
        task_args={"path": str(folder / "problems.jsonl"), "name": "sums"},
        k=k,
        output_path=folder / "run",
    )
    return folder / "run"


def add_column(run, name, column, *, probability=False):
    """A score column with its provenance, as `harness` rates a run with a file."""
    rows = [
        {"problem_id": f"p/{i}", "index": j, "score": None if np.isnan(column[i, j]) else float(column[i, j])}
        for i, j in itertools.product(*map(range, column.shape))
    ]
    path = run.parent / f"{name}.scores"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rate(run, "precomputed", args={"path": str(path), "probability": probability}, name=name)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A score that knows the truth within problems, one that knows nothing, one that is wrong, and probabilities."""
    rng = np.random.default_rng(3)
    ease = rng.normal(-0.3, 1.4, (PROBLEMS, 1))
    right = (rng.random((PROBLEMS, N)) < 1 / (1 + np.exp(-ease))).astype(float)
    answers = np.where(right == 1, 0, rng.integers(1, 5, (PROBLEMS, N)))
    noise = rng.normal(size=(PROBLEMS, N))
    hack = (right == 0) & (rng.random((PROBLEMS, N)) < 0.25)
    came = {
        "planted": right + rng.normal(size=(PROBLEMS, 1)),
        "constant": np.full((PROBLEMS, N), 0.25),
        "anti": -2 * right + 0.5 * noise,
        "hacked": np.where(hack, 9 + noise, 2.5 * right + noise),
    }
    evidence = 2 * right - 1 + 1.3 * rng.normal(size=(PROBLEMS, N))
    honest = 1 / (1 + np.exp(-(ease + 2 * evidence / 1.3**2)))  # Bayes: exactly the chance that it is right
    rated = {"honest": honest, "boastful": honest**0.2, "fraction": honest}
    run = make_run(
        tmp_path_factory.mktemp("world"), right, answers, scores=came, logprob=-4 * (3 - right + 3 * rng.random(N))
    )
    for name, column in rated.items():
        add_column(run, name, column, probability=name != "fraction")
    scores = came | rated | {"mean logprob": np.nan * right}
    _, results = results_of(run)
    scores["mean logprob"] = np.array([[c.logprob / c.n_tokens for c in group] for group in results.completions_PG])
    return World(run, right, answers, scores)


@pytest.fixture(scope="module")
def page(world):
    return write(world.run)[0].read_text()


@pytest.fixture(scope="module")
def part(world, page):
    [part] = read_report(world.run / "verifiers.json").parts
    return part


def sentence(page, name):
    """The line about a selector."""
    [line] = [line for line in page.splitlines() if line.startswith(f"- **{name}**")]
    return line


def direct(world, selector):
    """(P, K) of a selector, from the planted arrays."""
    if selector == "maj":
        return maj_at_k(world.answers, world.right, KS)
    return world.best(selector.removeprefix("best[").removesuffix("]"))


def test_levels_are_those_of_the_estimators(world, part):
    assert (part.problems, part.completions, part.ks) == (PROBLEMS, (N, N), KS)
    assert part.one.value == pytest.approx(world.right.mean())
    top = pass_at_k(N, world.right.sum(axis=1).astype(int), KS)
    one_P = world.right.mean(axis=1)
    found = {each.name: each for each in part.selectors}
    assert {"maj", "best[planted]", "best[anti]", "best[honest]", "best[mean logprob]", "lever[honest]"} <= found.keys()
    checked = [name for name in found if name == "maj" or name.startswith("best[")]
    for name, (place, k) in itertools.product(checked, enumerate(KS)):
        interval = mean_ci(top[:, place])
        assert (part.ceiling[k].low, part.ceiling[k].high) == pytest.approx((interval.low, interval.high))
        if k == 1:
            continue
        u_P = direct(world, name)[:, place]
        number, interval = found[name].levels[k], mean_ci(u_P.clip(0, 1))
        assert (number.value, number.low, number.high) == pytest.approx((interval.value, interval.low, interval.high))
        share = metrics.gain_captured(u_P[:, None], one_P, top[:, [place]])[0]
        captured = found[name].captured[k]
        assert captured.value == pytest.approx(share, abs=1e-12)
        if captured.low is not None:
            interval = ratio_ci(u_P - one_P, top[:, place] - one_P)
            assert (captured.low, captured.high) == pytest.approx((interval.low, interval.high))


def test_gains_are_paired_and_adjusted_as_one_family(world, part):
    assert part.baselines == ("pass@1", "maj", "best[mean logprob]")
    assert len(part.gains) == 3 * len(part.selectors) - 2
    checked = [g for g in part.gains if g.selector.startswith("best[")]
    assert len(checked) == 3 * 8 - 1
    for gain in checked:
        base = world.right.mean(axis=1) if gain.against == "pass@1" else direct(world, gain.against)[:, -1]
        d_P = direct(world, gain.selector)[:, -1] - base
        interval = diff_ci(d_P)
        found = (gain.value, gain.low, gain.high, gain.p)
        wanted = (interval.value, interval.low, interval.high, p_value(interval))
        assert found == pytest.approx(wanted, abs=1e-12)
        assert (gain.better, gain.worse) == ((d_P > 1e-12).sum(), (d_P < -1e-12).sum())
    assert [g.p_holm for g in part.gains] == pytest.approx(holm([g.p for g in part.gains]).tolist())


def test_the_page_says_what_was_measured(world, page, part):
    found = {each.name: each for each in part.selectors}
    level, share = found["best[honest]"].levels[8], found["best[honest]"].captured[8]
    numbers = [100 * x for x in (level.value, level.low, level.high)]
    said = sentence(page, "best-of-8 by honest")
    assert "{:.1f} [{:.1f}, {:.1f}] %".format(*numbers) in said
    assert f"captures {round(100 * share.value)} % [{100 * share.low:.0f}, {100 * share.high:.0f}]" in said
    [gain] = [g for g in part.gains if (g.selector, g.against) == ("best[honest]", "pass@1")]
    text = f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    assert gain.low > 0
    assert f"{text} over pass@1" in said
    row = next(line for line in page.splitlines() if line.startswith("| best-of-k by honest") and text in line)
    assert f"{gain.better}/{gain.worse}" in row


def test_a_score_that_knows_the_truth_captures_everything(page, part):
    found = {each.name: each for each in part.selectors}
    for k in KS[1:]:
        assert found["best[planted]"].captured[k].value == pytest.approx(1)
        assert found["best[planted]"].levels[k].value == pytest.approx(part.ceiling[k].value)
    assert "captures 100 % of the way from pass@1 to pass@8" in sentence(page, "best-of-8 by planted")
    assert "worse" not in sentence(page, "best-of-8 by planted")


def test_a_constant_score_captures_nothing_and_is_not_told_apart(page, part):
    found = {each.name: each for each in part.selectors}
    assert found["best[constant]"].captured[8].value == pytest.approx(0, abs=1e-12)
    said = sentence(page, "best-of-8 by constant")
    assert re.search(r"cannot be told apart from pass@1 \(\+0\.0 \[-.*, \+.*\]\)", said)
    assert "captures 0 % of" in said
    assert "it chooses nothing" in sentence(page, "constant")
    [gain] = [g for g in part.gains if (g.selector, g.against) == ("best[constant]", "pass@1")]
    assert (gain.p, gain.p_sign_flip, gain.better, gain.worse) == (1, 1, 0, 0)


def test_a_verifier_that_is_wrong_is_called_worse(page):
    said = sentence(page, "best-of-8 by anti")
    assert "**worse than pass@1**" in said
    assert "**worse than majority**" in said
    assert " over " not in said
    lines = [line for line in page.splitlines() if line.startswith("- **best-of-8")]
    assert "planted" in lines[0]
    assert lines[-1] == said


def test_order_within_problems_fixes_the_gain_of_two(part):
    """Gain captured at k = 2 is 2 x pair accuracy - 1, for equally many completions of each problem."""
    found = {each.name: each for each in part.selectors}
    assert {"hacked", "honest", "mean logprob"} <= {quality.score for quality in part.quality}
    for quality in part.quality:
        captured = found[f"best[{quality.score}]"].captured[2]
        assert captured.value == pytest.approx(2 * quality.pairs.value - 1, abs=1e-12)


def test_quality_is_that_of_the_metrics(world, part):
    for quality in part.quality:
        score = world.scores[quality.score]
        accuracy = metrics.pair_accuracy(world.right, score)
        assert quality.pairs.value == pytest.approx(accuracy.by_pair)
        assert quality.pairs_by_problem.value == pytest.approx(accuracy.by_problem)
        assert quality.auroc.value == pytest.approx(metrics.auroc(world.right, score))
        assert quality.average_precision.value == pytest.approx(metrics.average_precision(world.right, score))
        assert part.mixed == accuracy.problems
    calibrated = {quality.score: quality.calibrated for quality in part.quality if quality.calibrated}
    assert calibrated.keys() == {"honest", "boastful"}  # `fraction` lies in [0, 1], and nobody says what it is
    for name, found in calibrated.items():
        table = metrics.calibration(world.right, world.scores[name], bins=10)
        assert found.brier.value == pytest.approx(metrics.brier(world.right, world.scores[name]))
        assert (found.ece, found.ece_squared) == pytest.approx((table.ece, table.ece_squared))
        rows = [(each.score, each.right.value, each.completions) for each in found.bins]
        assert np.allclose(rows, table.table_B3)
        assert sum(each.right.low is not None for each in found.bins) >= 5
        assert all(each.right.low <= each.right.value <= each.right.high for each in found.bins if each.right.low)


def test_the_success_rate_that_falls_is_seen(world, page, part):
    found = {each.score: each for each in part.pressure}
    for name, each in found.items():
        score, right = (best_at_k(value, world.scores[name], KS) for value in (world.scores[name], world.right))
        assert [chosen.score for chosen in each.chosen] == pytest.approx(score.mean(axis=0).tolist())
        assert [chosen.right.value for chosen in each.chosen] == pytest.approx(right.mean(axis=0).tolist())
    falling = {name for name, each in found.items() if each.fall}
    assert falling == {"anti", "hacked"}
    assert found["anti"].best_k == 1
    hacked = [chosen.right.value for chosen in found["hacked"].chosen]
    assert found["hacked"].best_k == KS[int(np.argmax(hacked))] > 1
    assert found["hacked"].fall.high < 0
    assert found["hacked"].fall.value == pytest.approx(hacked[-1] - max(hacked))
    assert f"falls from k = {found['hacked'].best_k} on**" in sentence(page, "hacked")
    assert "falls" not in sentence(page, "honest")


def test_what_a_probability_claims_is_held_against_the_truth(world, page, part):
    found = {each.score: each for each in part.pressure}
    assert {name for name, each in found.items() if each.chosen[0].gap} == {"honest", "boastful"}
    score, right = (best_at_k(value, world.scores["boastful"], KS) for value in (world.scores["boastful"], world.right))
    for place, chosen in enumerate(found["boastful"].chosen):
        interval = diff_ci(score[:, place] - right[:, place])
        assert (chosen.gap.value, chosen.gap.low) == pytest.approx((interval.value, interval.low))
    assert sentence(page, "boastful").count("too much") == 2
    assert "too much" not in sentence(page, "honest")


@pytest.mark.slow
def test_bytes_are_the_same_again_and_elsewhere(world, page, tmp_path):
    first = {path.name: path.read_bytes() for path in write(world.run)}
    assert first["verifiers.md"].decode() == page
    again = write(world.run, tmp_path / "deep" / "here.md")
    assert [path.name for path in again] == ["here.md", "here.json", *list(first)[2:]]
    second = {path.name: path.read_bytes() for path in again}
    assert second.pop("here.json") == first["verifiers.json"]
    assert second.pop("here.md").decode() == page.replace("(verifiers/", "(here/")
    assert all(first[name] == data for name, data in second.items())


def test_figures_are_linked_and_carry_their_names(world, page):
    links = re.findall(r"\]\((verifiers/.*?\.svg)\)", page)
    assert [link.removeprefix("verifiers/sums_") for link in links] == [
        "selection.svg",
        "reliability.svg",
        "claimed.svg",
        "pressure.svg",
    ]
    texts = {
        link: [element.text for element in ET.parse(world.run / link).iter() if element.tag.endswith("}text")]
        for link in links
    }
    assert {"pass@k (ceiling)", "majority", "best by planted"} <= set(texts["verifiers/sums_selection.svg"])
    assert {"honest", "boastful"} <= set(texts["verifiers/sums_reliability.svg"])
    assert texts["verifiers/sums_claimed.svg"].count("says") == 2
    assert {"hacked", "anti"} <= set(texts["verifiers/sums_pressure.svg"])
    assert "constant" not in texts["verifiers/sums_pressure.svg"]
    assert all((world.run / link).with_suffix(".png").stat().st_size > 10_000 for link in links)


def test_warnings_come_first_and_gaps_are_said(verifier_report, tmp_path):
    rng = np.random.default_rng(1)
    right = rng.integers(0, 2, (6, 4)).astype(float)
    run = make_run(tmp_path / "a", right, right + 1, k="1,2,4")
    holes = right.copy()
    holes[2, 1] = np.nan
    add_column(run, "holes", holes)
    page, _ = verifier_report(run)
    warned = "> - **holes**: 1 of 24 completions have no score: the scorer could not measure them."
    assert page.splitlines()[:5] == [
        "# run: what choosing among completions is worth",
        "",
        "> **Warnings**",
        ">",
        warned,
    ]
    assert "Note: score `holes` is missing for 1 graded completion: nothing is chosen by it." in page
    assert "best-of-4" not in page
    assert "**majority of 4**" in page


def test_a_probability_that_is_none_is_not_treated_as_one(verifier_report, tmp_path):
    right = np.random.default_rng(1).integers(0, 2, (6, 4)).astype(float)
    run = make_run(tmp_path / "a", right, right + 1, k="1,2,4")
    add_column(run, "logits", 3 * right - 1, probability=True)
    page, report = verifier_report(run)
    assert "score `logits` is said to be a probability and leaves 0 to 1" in page
    [quality] = report.parts[0].quality
    assert quality.calibrated is None


def test_splits_have_parts_of_their_own(verifier_report, tmp_path):
    rng = np.random.default_rng(4)
    right = (rng.random((12, 4)) < 0.5).astype(float)
    splits = ["train", "test"] * 6
    run = make_run(tmp_path / "a", right, right + 1, scores={"good": right}, splits=splits, k="1,2,4")
    _, report = verifier_report(run)
    assert {part.name: part.problems for part in report.parts} == {"sums/train": 6, "sums/test": 6}
    for part in report.parts:
        mine = right[[f"sums/{split}" == part.name for split in splits]]
        assert part.one.value == pytest.approx(mine.mean())
        assert part.ceiling[4].value == pytest.approx(mine.any(axis=1).mean())


def test_ks_and_the_baseline_can_be_chosen(world, verifier_report):
    _, report = verifier_report(world.run, ks=[2, 5], baseline="best[honest]")
    [part] = report.parts
    assert part.ks == (1, 2, 5)
    assert part.baselines == ("pass@1", "best[honest]", "best[mean logprob]")
    found = {each.name: each.levels[5].value for each in part.selectors}
    assert found["best[hacked]"] == pytest.approx(best_at_k(world.right, world.scores["hacked"], [5]).mean())
    [gain] = [g for g in part.gains if (g.selector, g.against) == ("best[planted]", "best[honest]")]
    assert gain.value == pytest.approx(found["best[planted]"] - found["best[honest]"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ks": [9]}, r"sums has a problem with 8 graded completions, and 9 are needed"),
        ({"ks": [0, 2]}, r"1 or more"),
        ({"page": "verifiers"}, r"add \.md"),
        ({"page": "verifiers.json"}, r"add \.md"),
    ],
)
def test_what_cannot_be_is_an_error(world, tmp_path, arguments, words):
    if "page" in arguments:
        arguments = {"page": tmp_path / arguments["page"]}
    with pytest.raises(InputError, match=words):
        write(world.run, **arguments)


def test_an_unknown_baseline_names_the_nearest(world, tmp_path):
    with pytest.raises(UnknownName, match=r"did you mean 'best\[honest\]'"):
        write(world.run, tmp_path / "page.md", baseline="best[honets]")


def test_one_completion_leaves_nothing_to_choose(tmp_path):
    run = make_run(tmp_path / "a", np.ones((4, 1)), np.ones((4, 1)), k="1")
    with pytest.raises(InputError, match=r"a problem with 1 graded completion, and 2 are needed"):
        write(run)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Real programs, and what they did on the task's own inputs and on the prompts' examples."""
    folder = tmp_path_factory.mktemp("programs")
    task = list_programs(problems=6)
    bodies = [task.gold(problem).text for problem in task.problems]
    lines = []
    for place, problem in enumerate(task.problems):
        wrong = [body for body in bodies if body != bodies[place]]
        texts = [bodies[place]] * (1 + place % 3) + wrong[:2] + [" return 1 // 0", " return None"]
        lines += [json.dumps({"problem_id": problem.id, "text": text}) + "\n" for text in texts[-5:]]
    (folder / "completions.jsonl").write_text("".join(lines))
    harness.evaluate(
        "list_programs",
        "replay",
        model_args={"path": str(folder / "completions.jsonl")},
        task_args={"problems": 6},
        k="1,2,4",
        output_path=folder / "run",
    )
    for suite in (suites.own_inputs(task.problems), suites.examples(task.problems)):
        suites.run_suite(folder / "run", suite, workers=1)
    return folder / "run"


def test_programs_are_chosen_by_what_they_did_on_suites(programs, verifier_report):
    (programs / "suites" / "examples" / "quality.json").write_text(
        json.dumps({"validity": 0.875, "accepts": {"true_positive": 1.0}, "rows": [{"a": 1}] * 6})
    )
    said, report = verifier_report(programs)
    [part] = report.parts
    found = {each.name: each for each in part.selectors}
    # who passes the task's own tests is the verdict: only values on their inputs may be looked at
    assert found.keys() == {
        *("maj[inputs]", "mbr_exec[inputs]", "maj[examples]", "max_pass[examples]"),
        *("codet[examples]", "b4[examples]", "mbr_exec[examples]"),
    }
    assert part.baselines == ("pass@1", "maj[inputs]")
    _, results = results_of(programs)
    assert {n: u.levels[4].value for n, u in found.items() if n in ("maj[inputs]", "codet[examples]")} == pytest.approx(
        {
            "maj[inputs]": selectors.majority(results, [4], suite="inputs").mean(),
            "codet[examples]": selectors.consensus(results, [4], rule="codet", suite="examples")[0].mean(),
        }
    )
    assert found["max_pass[examples]"].captured[4].value > 0.9
    assert "**MaxPass of 4 on the examples**" in said
    assert "over majority (inputs)" in said
    sizes = {each.suite: (each.problems, each.tests, each.most) for each in report.suites}
    assert sizes["examples"] == (6, 12, 2)
    assert sizes["inputs"][1] == sum(len(problem.tests) for problem in list_programs(problems=6).problems)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    assert ["of its tests", "examples"] in rows  # nothing is known of the others
    assert ["validity", "0.875"] in rows
    assert ["accepts, true positive", "1"] in rows
    assert not any(row[0] in ("rows", "suite") and row[1] != "problems" for row in rows)
    [inputs] = [row for row in rows if row[:2] == ["inputs", "6"]]
    assert float(inputs[5]) > 0  # seconds
    assert verifier_report(programs)[0] == said


def test_a_selector_that_falls_is_said_to(world, page, part):
    found = {each.name: each for each in part.selectors}
    hacked = found["best[hacked]"]
    assert hacked.best_k > 1
    assert f"**falls from k = {hacked.best_k} on**, by {100 * hacked.fall.value:+.1f}" in sentence(
        page, "best-of-8 by hacked"
    )
    assert found["best[anti]"].best_k == 1
    assert "falls" not in sentence(page, "best-of-8 by anti")  # it is worse than pass@1, which says more
    assert found["best[honest]"].fall is None


def test_the_terminal_shows_the_same_sentences(world, page):
    lines = board(world.run / "verifiers.md").splitlines()
    said = [line[2:].replace("**", "") for line in page.splitlines() if line.startswith("- **best-of-8")]
    assert len(said) == 8
    assert all(line in lines for line in said)
    assert lines[0] == f"sums: {PROBLEMS} problems × {N} completions"
    assert not any("**" in line for line in lines)


def test_the_reward_model_of_qwen(verifier_report, tmp_path, shared_data):
    """What Qwen's file says of 50 problems with 8 completions each, problem 3 put right (tests/test_real_data.py)."""
    path = str(shared_data / "math_qwen_rm_first50.jsonl.gz")
    harness.evaluate(
        "hendrycks_math",
        "replay",
        model_args={"path": path},
        task_args={"path": path},
        k="1,2,4,8",
        output_path=tmp_path / "run",
    )
    page, report = verifier_report(tmp_path / "run")
    [part] = report.parts
    found = {each.name: each for each in part.selectors}
    assert found["best[pred_score]"].levels[8].value == pytest.approx(0.98)
    assert (part.one.value, part.ceiling[8].value) == pytest.approx((0.9575, 1.0))
    # four problems have anything to choose: whatever the reward model gains cannot be told apart
    assert "4 of the 50 problems" in page
    said = sentence(page, "best-of-8 by pred_score")
    assert "cannot be told apart from pass@1" in said
    assert "majority (+0.0" in said
