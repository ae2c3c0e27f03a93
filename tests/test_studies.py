"""The sweeps that ship: each can be read, says what it asks, and changes what its name says."""

from pathlib import Path

import pytest

from harness.sweeps import Sweep, sweep

FOLDER = Path(__file__).resolve().parents[1] / "trainers" / "recipes" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def study(name: str) -> Sweep:
    return sweep(FOLDER / f"{name}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_be_read_and_says_what_it_asks(name: str) -> None:
    made = study(name)
    first = (FOLDER / f"{name}.yaml").read_text().partition("\nlike:")[0]
    assert made.name == name
    assert first.startswith("# ")
    assert "?" in first
    assert len(made.seeds) == (2 if name == "demo" else 5)
    assert len(made.arms) >= 2


def test_the_studies_of_the_paper_are_there() -> None:
    assert set(STUDIES) >= {
        *("iterations", "one_iteration_3x", "restart", "human_data", "distillation", "problems", "cap"),
        *("many_samples", "difficulty", "forgetting", "spurious", "hacking"),
    }


@pytest.mark.slow
def test_arms_differ_in_what_the_study_is_about() -> None:
    restart = study("restart").arms
    assert (restart["rest_em"].treatment.init, restart["rest"].treatment.init) == ("base", "previous")
    problems = study("problems")
    sizes = [problems.train_of("code", arm).args["problems"] for arm in ("60 problems", "120 problems", "800 problems")]
    assert sizes == [60, 120, 800]
    distillation = study("distillation")
    assert distillation.arms["distill"].treatment.source in distillation.settings["code"].teachers
    demo = study("demo").arms["rest_em"].treatment
    assert study("iterations").arms["rest_em"].treatment.iterations == 4 != demo.iterations
    reward = study("hacking").arms["compiles"].treatment.reward.terms
    assert reward["tests"] == 0
