"""Base models by name: what passes through, what is made once, and mistakes."""

import threading
from pathlib import Path

import pytest

from harness.bases import Pretraining, base, demonstrations
from harness.errors import HarnessError, InputError, UnknownName
from harness.progress import Progress

SMALL = {"pretrain": "word_problems", "problems": 64, "epochs": 1, "width": 32, "layers": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "treatment-harness" / "bases"


def test_a_folder_or_a_name_passes_through() -> None:
    assert base("Qwen/Qwen2.5-0.5B") == Path("Qwen/Qwen2.5-0.5B")
    assert base(Path("models/base")) == Path("models/base")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"pretrian": "list_programs"}, InputError, r"give a folder, or \{pretrain: TASK\}"),
        ({"pretrain": "list_programs", "sede": 1}, UnknownName, "did you mean 'seed'"),
        ({"pretrain": "list_programms"}, UnknownName, "did you mean 'list_programs'"),
        ({"pretrain": "list_programs", "width": 0}, InputError, "width is not usable"),
        ({"pretrain": "first_steps"}, InputError, "first_steps"),
    ],
)
def test_mistakes_are_told_in_one_sentence(spec: dict[str, object], error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        base(spec)


def test_demonstrations_are_people_s() -> None:
    pairs = demonstrations(Pretraining(pretrain="list_programs", problems=30))
    assert len(pairs) == 30
    assert all(prompt.endswith("def f(x):") and text.startswith("\n    ") for prompt, text in pairs)
    assert pairs != demonstrations(Pretraining(pretrain="list_programs", problems=30, seed=1))


@pytest.mark.slow
def test_a_model_is_made_once_whoever_asks(cache: Path) -> None:
    notes: list[str] = []
    found: list[Path] = []

    def ask() -> None:
        found.append(base(SMALL, progress=Progress(note=notes.append)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ask()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert sum(note.startswith("training a base model") for note in notes) == 1
    assert {path.name for path in found[0].iterdir()} > {"config.json", "model.safetensors", "tokenizer.json"}
    assert base({**SMALL, "seed": 1}) != found[0]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


@pytest.mark.slow
def test_a_failed_training_leaves_no_model(cache: Path) -> None:
    with pytest.raises(HarnessError, match="is not one token in a vocabulary of 101"):
        base({**SMALL, "vocabulary": 101})
    assert not [path for path in cache.iterdir() if path.is_dir()]
