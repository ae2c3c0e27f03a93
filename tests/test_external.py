"""Commands as treatments: what they find, what they must leave, what becomes of those that fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.controls import control
from harness.errors import HarnessError, InputError
from harness.external import improve
from harness.progress import Progress
from harness.recipes import External, Reward, recipe
from harness.trials import Evaluation, TaskUse, Trial
from harness.types import Budget, Row, Trained

HERE = Path(__file__).parent
TOY = f"{HERE / 'toy_task.py'}:toy"
ROWS = [
    Row(problem_id="toy/train/0", prompt="0 train apples", completion=" ee", complete=False, reward=1.0, index=3),
    Row(problem_id="toy/train/1", prompt="1 train apples", completion=" e", weight=0.5, rejected=" x"),
]
SEES = """
import json, os, shutil, sys
from pathlib import Path
values = json.loads(sys.argv[1])
out = Path(values["out"])
seen = {"values": values, "before": sorted(os.listdir(out)), "training": os.environ["HARNESS_TRAINING"]}
for name in ("train", "val"):
    if name in values:
        seen[name] = [json.loads(line) for line in Path(values[name]).read_text().splitlines()]
"""
COPIES = """
shutil.copytree(values["prev"], out, dirs_exist_ok=True)
(out / "seen.json").write_text(json.dumps(seen))
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., External]:
    """An external command that runs this code with the values of placeholders as JSON."""

    def made(code: str, *, val: bool = False, **settings: Any) -> External:
        (tmp_path / "mine.py").write_text(code)
        names = ["base", "prev", "train", "out", "seed", *(["val"] if val else [])]
        values = ", ".join(f'"{name}": "{{{name}}}"' for name in names)
        text = f"""{{python}} {tmp_path / "mine.py"} '{{{{{values}}}}}' --budget {{budget}}"""
        return External(command=text, **{"timeout_s": 60, **settings})

    return made


def planned(external: External, base: object, **more: Any) -> Trial:
    treatment = {"name": "mine", "external": {name: getattr(external, name) for name in external.__struct_fields__}}
    fields: dict[str, Any] = {"train": TaskUse(task=TOY), "evaluation": Evaluation(), "seed": 3, **more}
    made = recipe({**treatment, **fields.pop("treatment", {})})
    if fields.get("control"):
        made = control(fields["control"], made)
    return Trial(treatment=made, base=str(base), **fields)


def trained(trial: Trial, folder: Path, rows: list[Row] = ROWS, notes: list[str] | None = None) -> Trained:
    progress = Progress(note=(notes if notes is not None else []).append)
    return improve(trial, rows, folder / "train", init=trial.base, iteration=1, progress=progress)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Folders of a tiny Llama, without and with a chat template."""
    import torch

    from tests.samplers.conftest import TEMPLATE, save

    torch.set_num_threads(1)
    return SimpleNamespace(
        plain=save(tmp_path_factory.mktemp("plain"), 1), chat=save(tmp_path_factory.mktemp("chat"), 1, TEMPLATE)
    )


# --- without a model


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"external": {"command": "t {out} {test}"}},
            r"external.command asks for {test}: test problems are never given",
        ),
        ({"external": {"command": "t --base {base}"}}, "external.command never says {out}"),
        ({"external": {"command": "t {out}", "timeout_s": 0}}, "external.timeout_s is not usable"),
        ({"external": {"command": "t {out}", "timeout": 9}}, "did you mean 'timeout_s'"),
        ({"external": {"args": {"a": 1}}}, "missing required field `command`"),
        ({"recipe": "grpo", "external": {"command": "t {out}"}}, "external and on_policy both say how to train"),
        ({"recipe": "sft", "external": {"command": "t {out}", "data": "problems"}}, "leave source and select out"),
    ],
)
def test_mistakes_in_a_recipe_are_told_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe({"name": "mine", **changed})


def test_a_recipe_may_change_one_argument_of_the_one_that_it_starts_from() -> None:
    ours, theirs = recipe("trl_grpo"), recipe({"recipe": "trl_grpo", "external": {"args": {"learning_rate": 1e-4}}})
    assert ours.external is not None
    assert theirs.external is not None
    assert theirs.external.args == {**ours.external.args, "learning_rate": 1e-4}
    assert not theirs.uses_rows
    assert recipe("trl_sft").uses_rows
    assert recipe("rft").uses_rows
    assert not recipe("grpo").uses_rows
    assert recipe({"recipe": "dpo", "external": {"command": "t {out}"}, "improve": {"loss": "nll"}}).select.pairs


def test_trials_that_cannot_be_given_to_a_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"asks for \{val\}, and the trial names no validation problems"):
        trained(planned(External(command="t {out} {val}"), "nowhere"), tmp_path)
    use = TaskUse(task=TOY, args={"split": "test"})
    for fields in ({"train": use}, {"validation": use}):
        with pytest.raises(InputError, match="problems of toy are of its test split"):
            trained(planned(External(command="t {out}"), "nowhere", **fields), tmp_path)
    with pytest.raises(InputError, match="there are no rows to train on"):
        trained(planned(External(command="t {out}"), "nowhere"), tmp_path, rows=[])
    with pytest.raises(InputError, match="rft has no external command"):
        trained(Trial(treatment=recipe("rft"), base="", train=use, evaluation=Evaluation()), tmp_path)


# --- with one

slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("data", ["rows", "problems"])
def test_what_a_command_finds(tmp_path: Path, script: Callable[..., External], models: Any, data: str) -> None:
    refuses = f"""
from harness.errors import InputError
from harness.evaluate import load_tasks
try:
    load_tasks([{TOY!r}], {{{TOY!r}: {{"split": "test"}}}})
except InputError as error:
    seen["refused"] = str(error)
seen["budget"], seen["own"] = json.loads(sys.argv[3]), os.environ["OWN"]
"""
    external = script(
        SEES + refuses + COPIES, val=True, data=data, env={"OWN": "1", "HARNESS_TRAINING": "0"}, sampled_tokens=9
    )
    sample = {"n": 4, "max_tokens": 6, "stop": ["x"]}
    validation = TaskUse(task=TOY, args={"split": "validation", "n": 2})
    trial = planned(external, models.plain, validation=validation, treatment={"sample": sample})
    notes: list[str] = []
    account = trained(trial, tmp_path, notes=notes)
    assert (account.checkpoint, account.reward_calls, account.rows) == ("checkpoint", 0, 2 if data == "rows" else 0)
    assert account.seconds["command"] > 0
    assert notes[0] == "mine: the weights are those that training began with."
    unsaid = "steps, trained_tokens" + ("" if data == "rows" else ", sampled_tokens")
    assert notes[1] == f"mine: the command did not say its {unsaid} (in trained.json)."
    out = tmp_path / "train" / "checkpoint"
    assert notes[0].removeprefix("mine: ") in (tmp_path / "train" / "log.txt").read_text()
    seen = json.loads((out / "seen.json").read_text())
    assert seen["values"]["base"] == seen["values"]["prev"] == str(models.plain)
    assert seen["values"]["out"] == str(out)
    assert 0 <= int(seen["values"]["seed"]) < 2**31
    assert (seen["before"], seen["training"], seen["own"]) == ([], "1", "1")
    assert seen["refused"].startswith("problems of toy are of its test split")
    given = {"n": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 6, "stop": ["x"], "seed": 0}
    assert seen["budget"] == {"seconds": 60, "sampled_tokens": 9, "sample": given}
    assert [row["problem_id"] for row in seen["val"]] == ["toy/validation/0", "toy/validation/1"]
    if data == "rows":
        first = {"problem_id": "toy/train/0", "prompt": "0 train apples", "completion": " ee", "complete": False}
        assert first.items() <= seen["train"][0].items()
        assert {"weight": 0.5, "rejected": " x", "source": "sampled"}.items() <= seen["train"][1].items()
    else:
        assert len(seen["train"]) == 24
        assert {"problem_id": "toy/train/0", "prompt": "0 train apples", "answer": "e"}.items() <= seen["train"][
            0
        ].items()


@slow
def test_a_chat_model_gets_messages(tmp_path: Path, script: Callable[..., External], models: Any) -> None:
    trial = planned(script(SEES + COPIES), models.chat, model_args={"system_instruction": "Count."})
    trained(trial, tmp_path)
    seen = json.loads((tmp_path / "train" / "checkpoint" / "seen.json").read_text())
    assert seen["train"][0]["messages"] == [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "0 train apples"},
    ]
    notes: list[str] = []
    other = "path = out / 'chat_template.jinja'; path.write_text(path.read_text() + ' ')"
    improve(
        planned(script(SEES + COPIES + other), models.chat),
        ROWS,
        tmp_path / "2",
        init=str(models.chat),
        iteration=1,
        progress=Progress(note=notes.append),
    )
    assert "mine: the chat template is another than that of the model that training began with." in notes
    lost = planned(script(SEES + f"shutil.copytree({str(models.plain)!r}, out, dirs_exist_ok=True)"), models.chat)
    with pytest.raises(HarnessError, match="has lost its chat template: save the tokenizer of"):
        improve(lost, ROWS, tmp_path / "3", init=str(models.chat), iteration=1)


ASKS = """
from harness.scoring import score
ids = [row["problem_id"] for row in seen["train"]]
rewards = score(ids, ["e"] * len(ids))
assert rewards == [1.0] * 24, rewards
(out / "trained.json").write_text(json.dumps({"steps": 7, "sampled_tokens": 24, "trained_tokens": 0}))
"""


@slow
def test_a_command_asks_for_rewards_and_gives_an_account(
    tmp_path: Path, script: Callable[..., External], models: Any
) -> None:
    notes: list[str] = []
    external = script(SEES + COPIES + ASKS, data="problems", sampled_tokens=10)
    account = trained(planned(external, models.plain), tmp_path, notes=notes)
    assert (account.steps, account.sampled_tokens, account.reward_calls) == (7, 24, 24)
    assert notes[1:] == ["mine: it sampled 24 tokens, and was to sample 10 at most."]
    (tmp_path / "mine.py").unlink()  # what is finished is not run again
    assert trained(planned(external, models.plain), tmp_path) == account


@slow
def test_a_placebo_that_does_not_reach_the_command_is_an_error(
    tmp_path: Path, script: Callable[..., External], models: Any
) -> None:
    trial = planned(script(SEES + COPIES, data="problems"), models.plain, control="random_reward")
    assert trial.treatment.reward != Reward()
    with pytest.raises(HarnessError, match="the control random_reward had no effect: the command of mine never asked"):
        trained(trial, tmp_path)
    external = script(SEES + COPIES, data="problems", args={"learning_rate": 1.0})
    frozen = planned(external, models.plain, control="frozen")  # which is no matter of rewards
    trained(frozen, tmp_path / "frozen")
    with pytest.raises(InputError, match=r"mine has no external\.args\.learning_rate"):
        control("frozen", planned(script(COPIES), models.plain).treatment)


@slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('so far'); raise ValueError('no such layer')", r"failed with status 1 \(ValueError: no such layer\): "),
        ("print('so far\\r99%\\rkilled', flush=True); os.kill(os.getpid(), 9)", r"was killed by SIGKILL \(killed\)"),
        ("print('waits'); import time; time.sleep(60)", r"was stopped after 1 s \(external.timeout_s\) \(waits\)"),
        ("print('done')", "has no model.safetensors: save weights and tokenizer there. .Last line of .*: done"),
        ("(out / 'adapter_config.json').write_text('{}')", "it is an adapter: merge it into its base"),
        (COPIES + "(out / 'tokenizer.json').unlink()", "left no model that can be used: .* has no usable tokenizer"),
        (COPIES + "(out / 'config.json').unlink()", "left no model that can be used: .* has no config.json"),
        (COPIES + "os.truncate(out / 'model.safetensors', 9000)", "left no model that can be used: the weights in"),
        (COPIES + "(out / 'trained.json').write_text('{\"step\": 1}')", "has a key 'step': it may have history, "),
        (COPIES + "(out / 'trained.json').write_text('{\"steps\": -1.5}')", "is not the account of a training"),
        (COPIES + "(out / 'trained.json').write_text('[')", "is not the account of a training"),
        (COPIES + "(out / 'trained.json').write_text('{\"reward_calls\": 1}')", "has a key 'reward_calls'"),
    ],
)
def test_an_arm_that_fails_says_why(
    tmp_path: Path, script: Callable[..., External], models: Any, code: str, message: str
) -> None:
    limit = {"timeout_s": 1} if "sleep" in code else {}
    with pytest.raises(HarnessError, match=message):
        trained(planned(script(SEES + code, **limit), models.plain), tmp_path)
    assert not (tmp_path / "train" / "trained.json").exists()


@slow
@pytest.mark.parametrize("resumes", [False, True])
def test_a_command_that_was_interrupted_starts_again(
    tmp_path: Path, script: Callable[..., External], models: Any, resumes: bool
) -> None:
    code = SEES + "(out / 'half').write_text(''); assert seen['before']" + COPIES
    trial = planned(script(code, resumes=resumes), models.plain)
    for _ in range(2 if not resumes else 1):  # without what it left it never gets further
        with pytest.raises(HarnessError, match="failed with status 1"):
            trained(trial, tmp_path)
    if resumes:
        trained(trial, tmp_path)
        assert json.loads((tmp_path / "train" / "checkpoint" / "seen.json").read_text())["before"] == ["half"]


@slow
def test_the_trainer_of_the_readme_works(tmp_path: Path, models: Any) -> None:
    from harness.evaluate import evaluate

    shutil.copy(HERE / "own_trainer.py", tmp_path / "my_trainer.py")
    command = f"{{python}} {tmp_path}/my_trainer.py {{prev}} {{train}} {{out}}"
    rows = [
        Row(problem_id=f"toy/train/{i}", prompt=f"{i} train apples", completion=" ee") for i in range(24) for _ in "ab"
    ]
    trained(planned(External(command=command), models.plain), tmp_path, rows=rows)
    scores = []
    for place, name in enumerate((models.plain, tmp_path / "train" / "checkpoint")):
        results = evaluate(
            TOY,
            "hf",
            model_args={"pretrained": str(name)},
            budget=Budget(n=8, temperature=1.0, max_tokens=6),
            output_path=tmp_path / f"evaluation_{place}",
        )
        scores.append(results.estimates["toy"]["pass@1"].value or 0.0)
    assert scores[1] > scores[0] + 0.4
