"""Comparisons on run folders with known outcomes: pairing, families, refusals, strata that sum, gaps."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest

import harness
from harness.errors import InputError, UnknownName
from harness.finished import results_of
from harness.leaderboards.compare import compare
from harness.leaderboards.ranking import ranks
from harness.leaderboards.render import render
from harness.leaderboards.strata import difficulty
from harness.metrics.inference import diff_ci
from harness.verifiers import rate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def make_run(folder, name, right, *, problems=20, n=4, answer="7", split=lambda i: "test"):
    """A run in which `right(i, j)` says whether completion j of problem i is right."""
    rows = [
        {
            "id": f"p/{i}",
            "prompt": "?",
            "answer": answer,
            "level": f"L{i % 3}",
            "split": split(i),
            "meta": {"even": i % 2},
        }
        for i in range(problems)
    ]
    path = folder / f"{name}.problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        json.dumps({"problem_id": f"p/{i}", "text": answer if right(i, j) else f"-{j}"}) + "\n"
        for i in range(problems)
        for j in range(n)
    ]
    (folder / f"{name}.completions.jsonl").write_text("".join(lines))
    harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": str(folder / f"{name}.completions.jsonl")},
        task_args={"path": str(path)},
        k="1,2",
        output_path=folder / name,
    )
    return folder / name


@pytest.fixture(scope="module")
def runs(folder):
    """A base that solves two of four; one that is better everywhere but in one place; one equal to the base."""
    base = make_run(folder, "base", lambda i, j: j < 2)
    better = make_run(folder, "better", lambda i, j: j < (1 if i == 0 else 3))
    same = make_run(folder, "same", lambda i, j: j % 2)
    return base, better, same


def as_json(*arguments, **options):
    return json.loads(compare(*arguments, format="json", **options))


def test_differences_are_paired_and_counted(runs):
    base, better, same = runs
    first, second = as_json(base, [better, same])
    interval = diff_ci([-0.25] + [0.25] * 19)
    assert (first["value"], first["low"], first["high"]) == (interval.value, interval.low, interval.high)
    assert (first["base_value"], first["run_value"]) == (0.5, pytest.approx(0.5 + 18 * 0.25 / 20))
    assert (first["n_better"], first["n_worse"], first["n_problems"]) == (19, 1, 20)
    assert second["value"] == 0
    assert second["p"] == second["p_sign_flip"] == 1


def test_the_family_is_every_run_and_metric_named(runs):
    base, better, same = runs
    alone = as_json(base, [better])[0]
    family = as_json(base, [better, same], metrics=["pass@1", "pass@2"])
    assert len(family) == 4
    assert family[0]["p"] == alone["p"]
    assert family[0]["p_holm"] >= 2 * alone["p_holm"]


def test_ties_are_shown_as_ties(runs):
    text = compare(runs[0], runs[1:])
    assert re.search(r"pass@1: better > (base = same|same = base)", text)
    board = render(runs)
    assert "| 1      | better" in board
    assert "| 2      | base" in board
    assert "| 2      | same" in board


def test_ranks_need_evidence():
    rng = np.random.default_rng(0)
    noise = {name: dict(enumerate(rng.uniform(size=30))) for name in "abc"}
    assert set(ranks(noise).values()) == {1}
    assert ranks({"a": {"x": 1.0}, "b": {"x": 0.0}}) == {"a": 1, "b": 1}


def test_runs_that_differ_in_more_than_completions_are_refused(folder, runs):
    other = make_run(folder, "other_answers", lambda i, j: j < 2, answer="8")
    with pytest.raises(InputError, match="differ in the problems of jsonl"):
        compare(runs[0], [other])
    limits = make_run(folder, "other_limits", lambda i, j: j < 2)
    manifest = limits / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cpu_s": 3.0', '"cpu_s": 1.0'))
    with pytest.raises(InputError, match="differ in the limits"):
        compare(runs[0], [limits])
    assert as_json(runs[0], [limits], allow_different=True)[0]["value"] == 0


def test_metrics_that_are_not_there(runs):
    with pytest.raises(UnknownName, match=r"did you mean 'maj@2'"):
        compare(runs[0], [runs[1]], metrics=["mai@2"])
    with pytest.raises(InputError, match="no problem of jsonl with 8"):
        compare(runs[0], [runs[1]], metrics=["pass@8"])
    with pytest.raises(InputError, match="not a metric"):
        compare(runs[0], [runs[1]], metrics=["pass"])
    with pytest.raises(InputError, match="named twice"):
        compare(runs[0], [runs[0]])


# selectors as arms


@pytest.fixture(scope="module")
def scored(folder):
    """Completion 3 of each problem is right in every second one; a column knows, another is constant."""
    run = make_run(folder, "scored", lambda i, j: j == 3 and i % 2 == 0)
    rows = [{"problem_id": f"p/{i}", "index": j, "knows": float(j), "same": 1.0} for i in range(20) for j in range(4)]
    path = folder / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("knows", "same"):
        rate(run, "precomputed", args={"path": str(path), "column": name}, name=name)
    return run


def arm(run, metric):
    return run.with_name(f"{run.name}:{metric}")


def test_selectors_of_one_run_are_compared_with_one_another(scored):
    names = ["best@4[knows]", "best@4[same]", "pass@4", "maj@4"]
    found = as_json(arm(scored, "pass@1"), [arm(scored, name) for name in names])
    assert [(each["run"], each["metric"], each["base_metric"]) for each in found] == [
        (f"scored:{name}", name, "pass@1") for name in names
    ]
    values = [each["run_value"] for each in found]
    assert values == [0.5, 0.125, 0.5, 0.125]
    assert [each["base_value"] for each in found] == [0.125] * 4
    interval = diff_ci([0.75, 0.0] * 10)
    assert (found[0]["value"], found[0]["low"], found[0]["high"]) == (interval.value, interval.low, interval.high)
    assert (found[0]["n_better"], found[0]["n_worse"], found[1]["p"]) == (10, 0, 1)
    text = compare(arm(scored, "pass@1"), [arm(scored, name) for name in names])
    assert text.startswith("# Compared with scored:pass@1")
    assert "| jsonl  | best@4[knows] | scored:best@4[knows] | 12.50 " in text
    assert re.search(r"- jsonl: (scored:best@4.knows. = scored:pass@4|scored:pass@4 = scored:best@4.knows.) > ", text)


def test_an_arm_without_a_metric_has_the_one_that_is_named(scored, runs):
    (found,) = as_json(arm(runs[0], "pass@2"), [runs[1]])
    assert (found["run"], found["metric"], found["base_metric"]) == ("better:pass@1", "pass@1", "pass@2")
    (found,) = as_json(runs[0], [arm(runs[1], "maj@2")], metrics=["pass@2"])
    assert (found["run"], found["base_metric"]) == ("better:maj@2", "pass@2")
    with pytest.raises(InputError, match="leaves 2 metrics to choose from: write RUN:METRIC"):
        compare(runs[0], [arm(runs[1], "maj@2")], metrics=["pass@1", "pass@2"])


def test_arms_by_level_sum_and_by_difficulty_use_the_other_half(scored):
    text = compare(arm(scored, "pass@1"), [arm(scored, "best@4[knows]")], by="level").split("## By level")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| jsonl" in line]
    assert sum(float(row[-1]) for row in rows[:-1]) == pytest.approx(float(rows[-1][-1]), abs=0.02)
    found = as_json(arm(scored, "pass@1"), [arm(scored, "best@2[knows]")], by="difficulty")[0]
    assert (found["base_value"], found["run_value"]) == (0.25, 0.5)  # of completions 1 and 3 alone, for both


def test_arms_that_cannot_be(scored, runs):
    with pytest.raises(
        UnknownName, match=r"metric of scored:bst@4\[knows\] on jsonl .* did you mean 'best@4\[knows\]'"
    ):
        compare(arm(scored, "pass@1"), [arm(scored, "bst@4[knows]")])
    with pytest.raises(InputError, match="'best' is not a metric"):
        compare(arm(scored, "pass@1"), [arm(scored, "best")])
    with pytest.raises(InputError, match="every metric of it, once"):
        compare(arm(scored, "pass@1"), [arm(scored, "pass@1")])
    with pytest.raises(InputError, match="every metric of it, once"):
        compare(arm(scored, "pass@1"), [scored])
    with pytest.raises(InputError, match=r"nowhere:maj@8 is not a run folder"):
        compare(arm(scored, "pass@1"), [scored.with_name("nowhere:maj@8")])


def test_a_folder_whose_name_has_a_colon_is_itself(folder, runs):
    other = folder / "base:maj@2"
    shutil.copytree(runs[1], other)
    (found,) = as_json(runs[0], [other])
    assert (found["run"], found["metric"]) == ("base:maj@2", "pass@1")
    (found,) = as_json(runs[0], [arm(other, "maj@2")])
    assert (found["run"], found["metric"]) == ("base:maj@2:maj@2", "maj@2")


@pytest.mark.parametrize("by", ["level", "even", "difficulty"])
def test_strata_sum_to_the_total(runs, by):
    lines = compare(runs[0], [runs[1]], by=by).split(f"## By {by}")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| jsonl")]
    parts, total = rows[:-1], rows[-1]
    assert total[3] == "all"
    assert sum(int(row[4]) for row in parts) == int(total[4]) == 20
    assert sum(float(row[-1]) for row in parts) == pytest.approx(float(total[-1]), abs=0.02)
    if by == "level":
        assert [row[3] for row in parts] == ["L0", "L1", "L2"]


def test_an_unknown_stratum_names_what_there_is(runs):
    with pytest.raises(InputError, match="even"):
        compare(runs[0], [runs[1]], by="colour")


def test_difficulty_does_not_reuse_completions(folder):
    luck = make_run(folder, "luck", lambda i, j: j % 2 == 0)
    labels, held_out = difficulty(results_of(luck)[1])
    assert set(labels.values()) == {"4 above 75%"}
    assert all(row.sum() == 0 for row in held_out.passed_PG)


def test_train_and_test_of_one_run(folder):
    def split(i):
        return "train" if i < 10 else "test"

    base = make_run(folder, "gap_base", lambda i, j: j < 2, split=split)
    run = make_run(folder, "gap_run", lambda i, j: j < (4 if i < 10 else 3), split=split)
    results = json.loads((run / "results.json").read_text())["tasks"]
    assert results["jsonl/train"]["pass@1"]["value"] == 1
    assert results["jsonl/test"]["pass@1"]["value"] == 0.75
    assert results["jsonl"]["gap_pass@1"]["value"] == 0.25
    board = render([base, run])
    assert "10 x 4" in board
    assert render([base, run], format="csv").count("\n") == 1 + 2 * len([m for t in results.values() for m in t])
    text = compare(base, [run])
    assert "| jsonl  | pass@1   | gap_run  | +25.00 [" in text
    assert text.count("+25.00 [") >= 2  # gap +25 points; it changed by +25 points against the base


def test_boards_do_not_compare_different_problems(folder, runs):
    other = make_run(folder, "other_problems", lambda i, j: j < 4, answer="9")
    board = render([runs[0], other])
    assert "not the same problems" in board
    assert [line.split("|")[1].strip() for line in board.splitlines() if line.startswith("| 1 ")] == ["1", "1"]
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "manifest.json").write_bytes((runs[0] / "manifest.json").read_bytes())
    assert "*UNFINISHED*" in render([runs[0], folder / "unfinished"])
    with pytest.raises(InputError, match="named twice"):
        render([runs[0], runs[0]])


@pytest.mark.parametrize(("by", "strata"), [("level", ["L0", "L1", "L2"]), ("even", ["0", "1"])])
def test_a_leaderboard_by_stratum_sums_to_the_whole(runs, by, strata):
    board = render(runs, by=by).split(f"## By {by}")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in board.splitlines() if "| jsonl" in line]
    for run in ("base", "better", "same"):
        *parts, total = (row for row in rows if row[0] == run)
        assert [row[2] for row in parts] == strata
        assert total[2:5] == ["all", "20", ""]
        sum_of_parts = sum(int(row[3]) / 20 * float(row[5].split()[0]) for row in parts)
        assert sum_of_parts == pytest.approx(float(total[5].split()[0]), abs=0.02)
    with pytest.raises(InputError, match="harness compare BASE"):
        render(runs, by="difficulty")


def test_csv_has_a_row_per_comparison(runs):
    rows = list(csv.DictReader(io.StringIO(compare(runs[0], runs[1:], format="csv"))))
    assert [row["run"] for row in rows] == ["better", "same"]


@pytest.mark.slow
def test_gsm8k_with_and_without_a_verifier(tmp_path, shared_data):
    """Cobbe et al. 2021: reranking by a verifier helps at both sizes, and helps 6B past 175B."""
    paths = []
    for system in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        harness.evaluate(
            "gsm8k",
            "replay",
            model_args={"path": str(shared_data / "gsm8k_model_solutions_even.jsonl.gz"), "system": system},
            task_args={"path": str(shared_data / "gsm8k_test.jsonl.gz")},
            output_path=tmp_path / system,
        )
        paths.append(tmp_path / system)
    small, large = as_json(paths[0], [paths[1]])[0], as_json(paths[2], [paths[3]])[0]
    assert small["value"] == pytest.approx(0.38939 - 0.21970, abs=1e-4)
    assert large["value"] == pytest.approx(0.56515 - 0.31970, abs=1e-4)
    assert max(small["p"], large["p"]) < 1e-10
    assert "pass@1: 175b_verification > 6b_verification > 175b_finetuning > 6b_finetuning" in compare(
        paths[0], paths[1:]
    )
