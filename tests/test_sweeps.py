"""Sweep files: what is read from them, and every mistake in one sentence with its line."""

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from harness.config import read_yaml
from harness.errors import InputError, UnknownName
from harness.sweeps import Sweep, sweep, trial_of

TOY = f"{Path(__file__).parent / 'toy_task.py'}:toy"
PLAN: dict[str, Any] = {
    "settings": {
        "letters": {
            "base": "./base",
            "train": {"task": TOY},
            "evaluation": {
                "on": {"test": {"task": TOY, "args": {"split": "test", "n": 30}}},
                "budget": {"n": 8, "temperature": 1.0, "max_tokens": 6},
                "k": [1, 4],
            },
        },
        "others": {
            "base": {"pretrain": "list_programs"},
            "train": {"task": TOY, "args": {"letter": "a"}},
            "evaluation": {"on": {"test": {"task": TOY, "args": {"split": "test"}}}, "budget": {"temperature": 1.0}},
        },
    },
    "arms": {
        "rft": {"treatment": {"recipe": "rft", "sample": {"n": 4}}},
        "longer": {"of": "rft", "treatment": {"improve": {"epochs": 9}}, "train": {"args": {"n": 12}}},
        "random reward": {"of": "rft", "control": "random_reward", "only": ["letters"]},
        "frozen": {"of": "longer", "control": "frozen"},
    },
    "seeds": [0, 1],
}
LETTERS = ("settings", "letters")
EVALUATION = (*LETTERS, "evaluation")
TEST = {"task": TOY, "args": {"split": "test"}}


def written(folder: Path, plan: dict[str, Any] = PLAN) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def changed(*keys_and_value: Any) -> dict[str, Any]:
    """The plan with another value at a path of keys."""
    *keys, last, value = keys_and_value
    plan = inner = copy.deepcopy(PLAN)
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return plan


def test_an_arm_takes_from_another_what_it_does_not_say(tmp_path: Path) -> None:
    made = sweep(written(tmp_path))
    rft, longer, random, frozen = made.arms.values()
    assert made.name == "plan"
    assert (longer.treatment.sample, longer.treatment.improve.epochs) == (rft.treatment.sample, 9)
    assert rft.treatment.reward != random.treatment.reward
    assert (frozen.treatment.improve.learning_rate, frozen.treatment.improve.epochs) == (0, 9)
    assert frozen.train == {"args": {"n": 12}}  # a placebo has the problems of its treatment
    assert msgspec.json.decode(msgspec.json.encode(made), type=Sweep) == made


def test_a_sweep_like_a_study_has_its_arms_and_settings_of_its_own(tmp_path: Path) -> None:
    mine = {"like": "restart", "settings": {"letters": PLAN["settings"]["letters"]}, "seeds": [3]}
    made = sweep(written(tmp_path, mine))
    assert (list(made.settings), made.seeds) == (["letters"], (3,))
    assert made.arms["rest"].treatment.init == "previous"
    with pytest.raises(UnknownName, match="did you mean 'restart'"):
        sweep(written(tmp_path, {**mine, "like": "restrat"}))


def test_a_cell_is_a_trial(tmp_path: Path) -> None:
    made = sweep(written(tmp_path))
    cell = trial_of(made, "others", "frozen", seed=1, base="/somewhere")
    assert (cell.base, cell.seed, cell.control) == ("/somewhere", 1, "frozen")
    assert cell.train.args == {"letter": "a", "n": 12}
    assert cell.treatment == made.arms["frozen"].treatment


def test_an_arm_is_compared_with_its_own_placebo_or_else_with_all(tmp_path: Path) -> None:
    made = sweep(written(tmp_path))
    assert made.arms_of("others") == ["rft", "longer", "frozen"]
    assert made.placebos("letters", "rft") == ["random reward"]
    assert made.placebos("letters", "longer") == ["frozen"]
    assert made.placebos("others", "rft") == ["frozen"]
    assert made.placebos("letters", "frozen") == []
    named = sweep(written(tmp_path, changed("arms", "rft", "placebo", "frozen")))
    assert named.placebos("letters", "rft") == ["frozen"]


@pytest.mark.parametrize(
    ("plan", "key", "message"),
    [
        (changed("arms", "rft", "treatment", "rtf"), "arms rft treatment", "no recipe 'rtf': did you mean 'rft'"),
        (changed("arms", "rft", "tretment", "rft"), "arms rft tretment", "did you mean 'treatment'"),
        (changed("arms", "rft", "treatment", {"sample": {"m": 3}}), "arms rft treatment", "key of sample .* 'm'"),
        (changed("arms", "rft", {}), "arms rft", "the arm rft has no treatment"),
        (changed("arms", "frozen", "control", "frosen"), "arms frozen control", "did you mean 'frozen'"),
        (changed("arms", "longer", "of", "rtf"), "arms longer of", "no arm in .* called 'rtf': did you mean 'rft'"),
        (changed("arms", "rft", {"of": "frozen"}), "arms longer of", "rft of frozen of longer of rft is a circle"),
        (changed("arms", "longer", "of", "longer"), "arms longer of", "longer of longer is a circle"),
        (changed("arms", "rft", "only", ["leters"]), "arms rft only", "did you mean 'letters'"),
        (changed("arms", "rft", "placebo", "frosen"), "arms rft placebo", "did you mean 'frozen'"),
        (changed("arms", "base", {"treatment": "rft"}), "arms base", "'base' cannot be the name of a folder"),
        (changed("arms", "a/b", {"treatment": "rft"}), "arms a/b", "'a/b' cannot be the name of a folder"),
        (changed("arms", "rft", "treatment", "rest_em"), "arms rft", "the setting letters has no validation problems"),
        (changed(*EVALUATION, "k", [1, 9]), "settings letters evaluation k", "pass@9 needs at least 9 completions"),
        (changed(*EVALUATION, "budget", {"n": 8}), "settings letters evaluation budget", "n is 8 with temperature 0"),
        (changed(*EVALUATION, "on", {}), "settings letters evaluation on", "add evaluation.on.test"),
        (changed(*LETTERS, "train", {"task": "toi"}), "settings letters train", "there is no task 'toi'"),
        (changed(*LETTERS, "train", {}), "settings letters train", "missing required field `task`"),
        (changed(*LETTERS, "train", "args", {"splitt": "a"}), "settings letters train", "did you mean 'split'"),
        (changed(*LETTERS, "train", "args", {"split": "test"}), "settings letters train", "are of its test split"),
        (changed("arms", "rft", "train", {"args": {"split": "test"}}), "arms rft train", "are of its test split"),
        (changed(*LETTERS, "validation", TEST), "settings letters validation", "are of its test split"),
        (changed(*EVALUATION, "on", "more", {"task": TOY}), "settings letters train", "24 .* in the evaluation 'more'"),
        (
            changed("settings", "others", "base", {"pretrain": "x", "width": "wide"}),
            "settings others base width",
            "is not usable",
        ),
        (changed(*LETTERS, "model", "hg"), "settings letters model", "there is no sampler 'hg'"),
        (changed("seeds", [1, 1]), "seeds", "each of them once"),
        (changed("seeds", []), "seeds", "at least one seed"),
        (changed("parallel", 0), "parallel", "is not usable"),
    ],
)
def test_mistakes_are_told_with_their_line(plan: dict[str, Any], key: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, plan)
    with pytest.raises(InputError, match=message) as caught:
        sweep(path)
    place = read_yaml(path)[1](tuple(key.split()))
    assert place.startswith(f"{path}, line ")
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        sweep(tmp_path / "none.yaml")
    path = tmp_path / "plan.yaml"
    path.write_text("settings: {a: 1}\narms: {}\n")
    with pytest.raises(InputError, match="a holds no keys"):
        sweep(path)
    path.write_text("arms: {}\n")
    with pytest.raises(InputError, match="missing required field `settings`"):
        sweep(path)
