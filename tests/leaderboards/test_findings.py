"""What papers found beside the boards: readings are the board's own numbers, verdicts follow from the interval."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness.errors import InputError, UnknownName
from harness.finished import results_of
from harness.leaderboards.experiment import read_report
from harness.leaderboards.experiment.format import change_text
from harness.leaderboards.experiment.measure import measure
from harness.leaderboards.experiment.read import read_sweep
from harness.leaderboards.experiment.report import Number
from harness.leaderboards.findings import Finding, main, page, verdict
from harness.leaderboards.strata import difficulty
from harness.metrics.inference import diff_ci
from harness.results import groups

ARMS = {
    "rest_em": {"shifts": [(1.0, 0.8, 0.3), (3.6, 2.2, 0.9)]},
    "rest": {"shifts": [(1.0, 0.8, 0.3), (3.6, 2.2, -0.9)], "of": "rest_em"},
}
STUDIES = Path(__file__).parents[2] / "leaderboards/studies"


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory):
    place = tmp_path_factory.mktemp("findings")
    out = build(place / "out", ARMS, problems=30)
    (place / "boards").mkdir()
    (place / "boards/small.json").write_bytes(msgspec.json.encode(measure(read_sweep(out))[0]))
    return place


def number(low, high):
    return Number(value=(low + high) / 2, low=low, high=high, se=0.01, problems=50)


@pytest.mark.parametrize(
    ("sign", "low", "high", "expected"),
    [
        ("+", 0.01, 0.03, "agrees"),
        ("+", -0.01, 0.03, "undecided"),
        ("+", -0.03, -0.01, "disagrees"),
        ("-", -0.03, -0.01, "agrees"),
        ("-", 0.01, 0.03, "disagrees"),
        ("0", -0.01, 0.015, "agrees"),
        ("0", 0.005, 0.015, "agrees"),
        ("0", -0.03, 0.015, "undecided"),
        ("0", 0.01, 0.05, "disagrees"),
        ("no loss", -0.015, 0.05, "agrees"),
        ("no loss", -0.03, 0.05, "undecided"),
        ("no loss", -0.05, -0.01, "disagrees"),
    ],
)
def test_a_verdict_follows_from_the_interval(sign, low, high, expected):
    assert verdict(sign, number(low, high)) == expected


def test_one_number_beyond_another():
    assert verdict("+", number(0.05, 0.09), number(0.01, 0.04)) == "agrees"
    assert verdict("+", number(0.03, 0.09), number(0.01, 0.04)) == "undecided"
    assert verdict("+", number(0.00, 0.01), number(0.02, 0.04)) == "disagrees"


def readings(folder, *findings):
    boards = folder / "boards"
    (boards / "findings.yaml").write_text(json.dumps([{"paper": "p", **finding} for finding in findings]))
    return page(boards)


def test_the_page_has_the_boards_own_numbers(folder):
    text = readings(
        folder,
        *(
            {"study": "small", "reading": {"setting": "maths", "arm": "rest_em", **reading}, "sign": "+"}
            for reading in (
                {"against": "base"},
                {"against": "rest", "evaluation": "transfer"},
                {"change": "train pass@4"},
                {"trend": "test"},
                {"trend": "gap"},
                {"bin": "0 never solved"},
            )
        ),
    )
    setting = read_report(folder / "boards/small.json").settings[0]
    arm = setting.arms[0]
    against_rest = setting.elsewhere["transfer"][0]
    assert (against_rest.arm, against_rest.against) == ("rest", "rest_em")  # the page turns it round
    turned = against_rest.new_seeds
    expected = [
        change_text(setting.comparisons[0].new_seeds),
        change_text(msgspec.structs.replace(turned, value=-turned.value, low=-turned.high, high=-turned.low)),
        change_text(arm.final.change["train pass@4"]),
        change_text(arm.trend.test),
        change_text(arm.trend.gap),
        change_text(setting.bins["rest_em"]["0 never solved"]),
    ]
    rows = [line for line in text.splitlines() if line.startswith("| [small]")]
    assert len(rows) == 6
    for row, shown in zip(rows, expected, strict=True):
        assert f"| {shown} " in row
    assert "**agrees**" in rows[0]
    assert "Of 6 findings: " in text


def test_bins_hold_out_the_completions_that_made_them(folder):
    out = folder / "out"
    base = results_of(out / "maths/base/evaluation_test")[1]
    label_of, odd = difficulty(base)
    assert len(groups(base)) == 1
    before = {p.id: row.mean() for p, row in zip(odd.problems_P, odd.passed_PG, strict=True)}
    after = []
    for seed in (0, 1):
        run = results_of(out / f"maths/rest_em/seed_{seed}/iteration_2/evaluation_test")[1]
        after.append({p.id: row.mean() for p, row in zip(run.problems_P, run.passed_PG, strict=True)})
    ids = sorted(name for name in before if label_of[name] == "0 never solved")
    d_P = np.array([np.mean([each[name] for each in after]) - before[name] for name in ids])
    found = read_report(folder / "boards/small.json").settings[0].bins["rest_em"]["0 never solved"]
    assert (found.value, found.low) == pytest.approx((diff_ci(d_P).value, diff_ci(d_P).low))
    assert found.problems == len(ids) > 1


@pytest.mark.parametrize(
    ("reading", "error"),
    [
        ({"arm": "rest_em", "against": "grpo"}, "no comparison of rest_em with grpo"),
        ({"arm": "grpo", "against": "base"}, "arm"),
        ({"arm": "rest_em", "change": "test pass@3"}, "metric"),
        ({"arm": "rest_em"}, "the reading names nothing"),
    ],
)
def test_a_reading_of_what_is_not_there(folder, reading, error):
    with pytest.raises((InputError, UnknownName), match=error):
        readings(folder, {"study": "small", "reading": {"setting": "maths", **reading}, "sign": "+"})


def test_a_study_without_a_board_is_named_and_counts_for_nothing(folder):
    reading = {"setting": "maths", "arm": "rest_em", "against": "base"}
    text = readings(folder, *({"study": name, "reading": reading, "sign": "+"} for name in ("small", "large")))
    assert "Of 1 finding: 1 agree here, 0 disagree, 0 are undecided. Studies that are not run yet: large." in text


def test_bad_use_is_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "findings.yaml" in capsys.readouterr().err
    (tmp_path / "findings.yaml").write_text("[{study: x}]")
    assert main([str(tmp_path)]) == 2
    assert "not a list of findings" in capsys.readouterr().err
    assert main([]) == 2


def test_what_is_committed_is_what_the_boards_say(tmp_path):
    findings = msgspec.yaml.decode((STUDIES / "findings.yaml").read_bytes(), type=list[Finding])
    assert len(findings) > 20
    shutil.copytree(STUDIES, tmp_path / "studies", ignore=shutil.ignore_patterns("*.svg", "*.png"))
    assert main([str(tmp_path / "studies")]) == 0
    assert (tmp_path / "studies/README.md").read_text() == (STUDIES / "README.md").read_text()
