"""The report of a sweep: its numbers against the metrics themselves, its sentences, and what it does not claim."""

import json
import shutil

import msgspec
import numpy as np
import pytest

from harness.errors import InputError
from harness.leaderboards.experiment.agrees import agrees, apart, main
from harness.leaderboards.experiment.changes import changes_of
from harness.leaderboards.experiment.measure import effect_of, measure
from harness.leaderboards.experiment.read import read_sweep
from harness.leaderboards.experiment.report import Number
from harness.leaderboards.experiment.tables import board, markdown
from harness.leaderboards.experiment.words import compute, scope, sentence, trend
from harness.metrics.gaps import did_ci, gap_ci
from harness.metrics.inference import Interval, diff_ci, mean_ci
from harness.metrics.seeds import seeds_ci
from harness.metrics.significance import holm, p_value

ARMS = {
    "rest_em": {"shifts": [(1.0, 0.8, 0.3), (2.6, 1.2, 0.4)], "rewards": (0.4, 0.55, 0.62)},
    "late": {
        "shifts": [(0.5, 0.5, 0.5), (0.5, 0.5, 0.5)],
        "of": "rest_em",
        "failed": {1: "the machine ran out of memory."},
        "finished": 1,
    },
    "random reward": {"shifts": [(0.0, 0.0, 0.0)], "of": "rest_em", "control": "random_reward", "tokens": 55_000},
}


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory):
    return build(tmp_path_factory.mktemp("sweep") / "out", ARMS)


@pytest.fixture(scope="module")
def found(folder):
    return measure(read_sweep(folder))[0]


@pytest.fixture(scope="module")
def maths(found):
    return found.settings[0]


def arm_of(setting, name):
    return next(arm for arm in setting.arms if arm.name == name)


def rates(run):
    """c/n of each problem of a run folder, in one order."""
    [problems] = json.loads((run / "results.json").read_text())["problems"].values()
    return np.array([problems[name]["c"] / problems[name]["n"] for name in sorted(problems)])


def over_seeds(folder, arm, iteration, split="test"):
    return np.array([rates(folder / f"maths/{arm}/seed_{s}/iteration_{iteration}/evaluation_{split}") for s in (0, 1)])


def test_numbers_are_the_metrics_of_seed_averages_paired_by_problem(folder, maths):
    base = {split: rates(folder / f"maths/base/evaluation_{split}") for split in ("train", "test", "transfer")}
    treat = {split: over_seeds(folder, "rest_em", 2, split).mean(axis=0) for split in base}
    final = arm_of(maths, "rest_em").final
    expected = {"test pass@1": mean_ci(treat["test"]), "transfer pass@1": mean_ci(treat["transfer"])}
    for metric, interval in expected.items():
        assert final.scores[metric].value == pytest.approx(interval.value)
        assert final.scores[metric].low == pytest.approx(interval.low)
    for split in base:
        interval = diff_ci(treat[split] - base[split])
        assert final.change[f"{split} pass@1"].value == pytest.approx(interval.value)
        assert final.change[f"{split} pass@1"].high == pytest.approx(interval.high)
    assert final.gap.value == pytest.approx(gap_ci(treat["train"], treat["test"]).value)
    did = did_ci(treat["train"], base["train"], treat["test"], base["test"])
    assert (final.gap_change.value, final.gap_change.low) == pytest.approx((did.value, did.low))
    change = diff_ci(treat["test"] - over_seeds(folder, "rest_em", 1).mean(axis=0))
    assert arm_of(maths, "rest_em").trend.test.low == pytest.approx(change.low)


def test_the_family_counts_what_has_no_result_yet(folder, maths):
    """rest_em and late against base and placebo, the placebo against base: five, two of them unfinished."""
    base, treat = rates(folder / "maths/base/evaluation_test"), over_seeds(folder, "rest_em", 2)
    placebo = over_seeds(folder, "random reward", 1)
    pairs = [(base, treat.mean(axis=0)), (placebo.mean(axis=0), treat.mean(axis=0)), (base, placebo.mean(axis=0))]
    p = [p_value(diff_ci(after - before)) for before, after in pairs]
    assert maths.family == 5
    assert [(each.arm, each.against) for each in maths.comparisons] == [
        ("rest_em", "base"),
        ("rest_em", "random reward"),
        ("random reward", "base"),
    ]
    assert [each.p for each in maths.comparisons] == pytest.approx(p)
    assert [each.p_holm for each in maths.comparisons] == pytest.approx(holm([*p, 1, 1])[:3])
    assert maths.comparisons[0].detectable == pytest.approx(2.8016 * maths.comparisons[0].se, rel=1e-4)


def test_the_luck_of_training_stands_apart(folder, maths):
    base, treat = rates(folder / "maths/base/evaluation_test"), over_seeds(folder, "rest_em", 2)
    arm, first = arm_of(maths, "rest_em"), maths.comparisons[0]
    assert list(arm.seed_changes.values()) == pytest.approx((treat - base).mean(axis=1))
    assert arm.seed_sd == pytest.approx((treat - base).mean(axis=1).std(ddof=1))
    interval = seeds_ci(np.array([base, base]), treat)
    assert first.new_seeds.value == pytest.approx(interval.value)
    assert first.new_seeds.low == pytest.approx(min(interval.low, first.low))
    assert scope(maths, 2).startswith("2 seeds cannot show that a method works in general")
    assert scope(maths, 1).startswith("1 seed cannot show")
    assert "the interval of the method" in scope(maths, 5)


def test_the_reported_checkpoint_is_the_last_planned_one(folder, tmp_path):
    """Even if test scores were better before, or the last one isn't there yet."""
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folder, unfinished)
    shutil.rmtree(unfinished / "maths/rest_em/seed_0/iteration_2")
    (unfinished / "maths/rest_em/seed_0/trial_results.json").unlink()
    report = measure(read_sweep(unfinished))[0]
    arm = arm_of(report.settings[0], "rest_em")
    assert (arm.final.iteration, arm.final.seeds, arm.progress) == (2, (1,), {"0": 1, "1": 2})
    assert report.settings[0].comparisons[0].new_seeds is None
    assert sentence(arm, report.settings[0]).endswith("Seed 0 is at iteration 1 of 2.")
    shutil.rmtree(unfinished / "maths/rest_em/seed_1/iteration_2/evaluation_train")
    arm = arm_of(measure(read_sweep(unfinished))[0].settings[0], "rest_em")
    assert (arm.final, len(arm.stages)) == (None, 1)


def test_sentences_say_no_more_than_the_comparisons(maths):
    text = sentence(arm_of(maths, "rest_em"), maths)
    assert text.startswith("**rest_em**: +")
    for part in (" pp [+", "on test pass@1 against base, Holm p ", "against its placebo (random reward), Holm p "):
        assert part in text
    assert "; transfer " in text
    assert "(difference in differences +" in text
    assert text.endswith("It helped, and by more than random reward.")
    placebo = sentence(arm_of(maths, "random reward"), maths)
    assert placebo.startswith("**random reward** (placebo: random_reward in rest_em): ")
    assert "No rise is shown, as should be; the interval leaves out rises of more than" in placebo
    assert sentence(arm_of(maths, "late"), maths) == (
        "**late**: Seed 1 failed: the machine ran out of memory; seed 0 is at iteration 1 of 2."
    )
    assert trend(arm_of(maths, "rest_em"), maths).startswith("**rest_em**, from iteration 1 to 2: pass@1 on test ")
    assert list(compute(maths)) == ["random reward used 1.38 times the tokens of rest_em, with which it is compared."]


@pytest.mark.parametrize(
    ("value", "half", "p_holm", "effect"),
    [
        (0.06, 0.02, 0.001, "higher"),
        (-0.06, 0.02, 0.001, "lower"),
        (0.06, 0.05, 0.07, "undecided"),  # its own interval leaves out zero; the family's adjustment doesn't
        (0.001, 0.015, 0.9, "none"),
        (0.001, 0.03, 0.9, "undecided"),
    ],
)
def test_an_effect_needs_the_adjusted_p_and_its_absence_a_narrow_interval(value, half, p_holm, effect):
    assert effect_of(Interval(value, value - half, value + half, half / 2, 100, "t"), p_holm) == effect


@pytest.mark.parametrize(
    ("effects", "words"),
    [
        (("higher", "undecided"), "It raised the score, but is not shown to be better than random reward."),
        (("higher", None), "It raised the score; random reward has no result to compare with yet."),
        (("undecided", "higher"), "pp or more would have been found in 80% of cases."),
        (("none", "none"), "No effect: the interval leaves out changes of more than 2 pp."),
        (("lower", "none"), "It made the model worse."),
    ],
)
def test_a_treatment_is_praised_only_beyond_its_placebo(maths, effects, words):
    first, second, third = maths.comparisons
    changed = [
        msgspec.structs.replace(each, effect=effect)
        for each, effect in zip((first, second), effects, strict=True)
        if effect
    ]
    setting = msgspec.structs.replace(maths, comparisons=(*changed, third))
    assert sentence(arm_of(setting, "rest_em"), setting).endswith(words)


def test_the_page_has_every_arm_and_every_source(folder, found):
    text = markdown(found, read_sweep(folder), {}, folder)
    lines = text.splitlines()
    assert lines[0] == "# small: what the training changed"
    assert len([line for line in lines if line.startswith("| rest_em ")]) == 2 + 2 + 2  # iterations twice, comparisons
    assert any(line.startswith("| -") and "ran out of memory" in line for line in lines)
    assert "The 5 comparisons declared by the sweep, 2 of them without a result yet:" in lines
    assert "- test: 24 problems x 8 completions of jsonl" in text
    assert "base model: `a-base`, sampled with replay, hash " in text
    assert "- **late** against rest_em: nothing." in lines
    assert str(folder) not in text
    heads = [line for line in lines if line.startswith("|") and "arm" in line]
    assert any("test maj@4" in head and "train pass@1" in head and "transfer pass@1" in head for head in heads)
    assert any("KL to base" in head and "sampled tokens" in head and "reward calls" in head for head in heads)
    assert "nan" not in text
    assert board(found).count("rest_em: +") == 1


def test_a_control_changed_exactly_its_field(folder):
    changes = {name: (origin, fields) for name, origin, fields in changes_of(read_sweep(folder).settings[0])}
    origin, fields = changes["random reward"]
    assert origin == "rest_em"
    assert fields == [
        ("iterations", "2", "1"),
        ("reward.terms.tests", "1.0", "0.0"),
        ("reward.terms.random", "-", "args probability 0.5"),
    ]
    assert changes["late"] == ("rest_em", [])


def test_training_problems_of_its_own_are_not_paired(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for path in other.glob("maths/rest_em/seed_*/iteration_*/evaluation_train/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["tasks"][0]["problems_sha"] = "another"
        path.write_text(json.dumps(manifest))
    setting = measure(read_sweep(other))[0].settings[0]
    final = arm_of(setting, "rest_em").final
    assert final.gap is not None
    assert final.gap_change is None
    assert "train pass@1" not in final.change
    assert any("rest_em has training problems of its own" in note for note in setting.notes)


def test_what_cannot_be_compared_is_refused_or_said(folder, tmp_path):
    with pytest.raises(InputError, match="not a sweep folder"):
        read_sweep(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    path = other / "maths/rest_em/seed_1/iteration_2/evaluation_test/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"grader": "1"}))
    assert "rest_em was graded with another grader than the base" in measure(read_sweep(other))[0].settings[0].notes
    manifest["tasks"][0]["problems_sha"] = "another"
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"maths, rest_em: .* has other problems than the base's evaluation"):
        read_sweep(other)
    (other / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match=r"sweep.json is damaged"):
        read_sweep(other)


def test_a_sweep_that_has_hardly_begun_has_a_page(folder, tmp_path):
    begun = tmp_path / "begun"
    shutil.copytree(folder, begun)
    for arm in ARMS:
        shutil.rmtree(begun / "maths" / arm)
    report = measure(read_sweep(begun))[0]
    text = markdown(report, read_sweep(begun), {}, begun)
    assert "- **rest_em**: Seed 0 not begun; seed 1 not begun." in text
    assert report.settings[0].comparisons == ()
    shutil.rmtree(begun / "maths/base")
    (begun / "maths/base").mkdir()
    (begun / "maths/base/failed.json").write_text('{"error": "the model cannot be loaded."}')
    report = measure(read_sweep(begun))[0]
    text = markdown(report, read_sweep(begun), {}, begun)
    assert "The base model is not evaluated yet.\n- Note: the base model failed: the model cannot be loaded." in text


def test_two_runs_agree_where_their_intervals_overlap(found, tmp_path, capsys):
    committed, fresh = tmp_path / "committed.json", tmp_path / "fresh.json"
    committed.write_bytes(msgspec.json.encode(found))
    fresh.write_bytes(msgspec.json.encode(found))
    assert main([str(committed), str(fresh)]) == 0
    text = json.loads(msgspec.json.encode(found))
    [setting] = text["settings"]
    score = setting["arms"][0]["stages"][-1]["scores"]["transfer pass@1"]
    score |= {"value": score["high"] + 0.1, "low": score["high"] + 0.01, "high": score["high"] + 0.2}
    setting["comparisons"][0]["effect"] = "lower"
    del setting["arms"][2]
    fresh.write_text(json.dumps(text))
    wrong = agrees(committed, fresh)
    assert len(wrong) == 3
    assert wrong[0].startswith("maths, rest_em: transfer pass@1 was ")
    assert wrong[1:] == [
        "maths, random reward: the fresh run has no last checkpoint.",
        "maths: rest_em against base was higher and is lower.",
    ]
    assert main([str(committed), str(fresh)]) == 1
    assert "was higher and is lower" in capsys.readouterr().out
    assert main([str(committed), str(tmp_path / "none.json")]) == 2
    assert main([]) == 2


def test_intervals_that_touch_are_not_apart():
    def number(low, high):
        return Number(value=(low + high) / 2, low=low, high=high, se=0.1, problems=9)

    assert not apart(number(0.1, 0.3), number(0.3, 0.5))
    assert apart(number(0.1, 0.3), number(0.31, 0.5))
    assert apart(number(0.31, 0.5), number(0.1, 0.3))
    assert apart(Number(value=0.6, low=None, high=None, se=None, problems=1), number(0.1, 0.3))


def test_a_teacher_is_named_as_the_file_names_it(build, tmp_path):
    """A trial has the folder where the teacher turned out to be: a place of one machine."""
    out = build(tmp_path / "out", {"rest_em": {"shifts": [(1, 1, 1)]}, "distill": {"shifts": [(1, 1, 1)]}})
    sweep = json.loads((out / "sweep.json").read_text())
    sweep["settings"]["maths"]["teachers"] = {"larger": {"pretrain": "word_problems", "width": 192}}
    sweep["arms"]["distill"]["treatment"]["source"] = "larger"
    (out / "sweep.json").write_text(json.dumps(sweep))
    for path in out.glob("maths/distill/seed_*/trial.json"):
        trial = json.loads(path.read_text())
        trial["treatment"]["source"] = "/a/cache/word_problems-1234"
        path.write_text(json.dumps(trial))
    [(name, origin, changes)] = changes_of(read_sweep(out).settings[0])
    assert (name, origin) == ("distill", "rest_em")
    assert ("source", "policy", "larger (pretrain: word_problems, width: 192)") in changes
