"""Recipes: every shipped one is what its paper says, and every mistake in one's own is told where it is."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
import yaml

from harness import registry
from harness.errors import InputError, UnknownName
from harness.recipes import Improvement, OnPolicy, Reward, Selection, TermUse, Treatment, names, recipe

FOLDER = Path(__file__).resolve().parents[1] / "trainers" / "recipes"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
METHODS = {
    *("sft", "rft", "rest_em", "rest", "star", "raft", "iml", "rwr", "expert_iteration", "distill", "dpo"),
    *("reinforce", "rloo", "grpo", "dr_grpo", "bnpo", "grpo_original", "cispo", "gspo", "max_at_k"),
}


def written(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_all_methods_are_there_and_listed() -> None:
    assert set(SHIPPED) >= METHODS
    assert list(names()) == SHIPPED
    assert registry.names("recipe") == names()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_and_explains_itself(name) -> None:
    treatment = recipe(name)
    assert treatment.name == name
    assert treatment.paper
    comment = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Objective: ") for line in comment)
    assert any("# Deviations: " in line or "# Deviations " in line for line in comment)
    assert msgspec.json.decode(msgspec.json.encode(treatment), type=Treatment) == treatment


@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_of_a_shipped_recipe_arrives(name) -> None:
    """No key is a misspelt one that a default stands in for: what the file says is what the treatment has."""
    raw = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    raw.pop("recipe", None)

    def there(said: dict, found: object, path: str) -> None:
        for key, value in said.items():
            has = found[key] if isinstance(found, dict) else getattr(found, key)
            if isinstance(value, dict):
                there(value, has, f"{path}.{key}")
            else:  # YAML 1.1 takes 2e-5 for a text
                assert has == (float(value) if isinstance(has, float) else value), f"{path}.{key}"

    there(raw, recipe(name), name)


def test_the_loss_of_every_on_policy_recipe_is_one_of_the_trainers() -> None:
    pytest.importorskip("torch")
    from harness.trainers.losses import PolicyLoss

    losses = {name: treatment.on_policy.loss for name in SHIPPED if (treatment := recipe(name)).on_policy}
    assert len(losses) >= 9
    for name, loss in losses.items():
        assert set(loss) <= {field.name for field in dataclasses.fields(PolicyLoss)}, name
        PolicyLoss(**loss)


def test_the_numbers_of_the_papers() -> None:
    rft, rest_em, grpo = recipe("rft"), recipe("rest_em"), recipe("grpo")
    assert (rft.sample.n, rft.sample.temperature, rft.init, rft.iterations) == (100, 0.7, "base", 1)
    assert rft.select == Selection(dedupe="equations", pick="farthest", human="union")
    assert rft.improve == Improvement(epochs=3, learning_rate=2e-5, schedule="cosine", warmup=0.03, batch_rows=128)
    assert (rest_em.sample.n, rest_em.sample.temperature, rest_em.sample.top_k) == (32, 0.7, 40)
    assert (rest_em.select, rest_em.init, rest_em.iterations) == (Selection(cap=10), "base", 3)
    assert rest_em.improve.until == "validation"
    assert grpo.on_policy == OnPolicy(loss={"type": "dapo", "clip_low": 0.2, "clip_high": 0.28, "beta": 0.0})
    assert recipe("gspo").on_policy.loss["clip_low"] == 3e-4
    assert recipe("dr_grpo").on_policy.loss == {"type": "dr_grpo", "clip_low": 0.2, "clip_high": 0.2, "beta": 0.0}
    assert all(recipe(name).reward == Reward() for name in SHIPPED)


def test_a_mapping_is_merged_over_a_recipe() -> None:
    rft, changed = recipe("rft"), recipe({"recipe": "rft", "select": {"cap": 4}})
    assert changed == msgspec.structs.replace(rft, select=msgspec.structs.replace(rft.select, cap=4))
    assert recipe({"recipe": "rft", "name": "mine"}).name == "mine"
    assert recipe({"recipe": "grpo", "on_policy": {"loss": {"beta": 0.1}}}).on_policy.loss["type"] == "dapo"
    assert recipe({"recipe": {"recipe": "rft", "select": {"cap": 4}}, "iterations": 2}).select.cap == 4
    assert recipe({"recipe": "grpo", "on_policy": None}).on_policy is None
    assert recipe("rft") == rft  # nothing was changed in place


def test_terms_are_added_to_the_recipe_that_one_starts_from_and_are_all_there_is_otherwise() -> None:
    more = recipe({"recipe": "rest_em", "reward": {"terms": {"compiles": 0.1}}})
    assert more.reward.terms == {"tests": 1.0, "compiles": 0.1}
    alone = recipe({"name": "mine", "reward": {"terms": {"fraction": {"weight": 2}}}})
    assert alone.reward.terms == {"fraction": TermUse(weight=2)}


def test_part_of_the_sampling_keeps_the_rest() -> None:
    sample = recipe({"name": "mine", "sample": {"n": 4}}).sample
    assert (sample.n, sample.temperature, sample.max_tokens) == (4, 1.0, 512)


def test_a_file_of_ones_own_starts_from_a_recipe_or_a_file_beside_it(tmp_path) -> None:
    written(tmp_path, "recipe: rest_em\nselect:\n  cap: 2\n", "first.yaml")
    second = written(tmp_path, "recipe: first.yaml\nimprove: {learning_rate: 2e-5, warmup: 1E-1}\n", "second.yaml")
    treatment = recipe(second)
    assert (treatment.name, treatment.select.cap, treatment.sample.n) == ("second", 2, 32)
    assert (treatment.improve.learning_rate, treatment.improve.warmup) == (2e-5, 0.1)
    assert recipe({"recipe": str(second), "iterations": 1}).select.cap == 2


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "recipe: rft\nselect:\n  cpa: 4\n",
            UnknownName,
            "key of select in {}, line 3 called 'cpa': did you mean 'cap'",
        ),
        ("recipe: rft\nselct: {}\n", UnknownName, "key in {}, line 2 called 'selct': did you mean 'select'"),
        ("recipe: rtf\n", UnknownName, "no recipe 'rtf': did you mean 'rft'"),
        (
            "recipe: rft\nselect:\n  cap: 0\n",
            InputError,
            r"{}, line 3: select.cap is not usable \(Expected `int` >= 1\)",
        ),
        ("recipe: rft\n\nselect: {cap: x}\n", InputError, "{}, line 3: select.cap is not usable"),
        ("recipe: rft\nselect: 4\n", InputError, "{}, line 2: select is not usable"),
        ("recipe: rft\nselect:\n  dedupe: equation\n", UnknownName, r"select.dedupe \({}, line 3\) 'equation': did"),
        ("recipe: rft\nselect: {}\nselect: {}\n", InputError, "{}, line 3: select is there twice"),
        ("recipe: rft\nselect: [\n", InputError, "{}, line 3, is not YAML"),
        ("- a\n", InputError, "{} holds no keys"),
        ("", InputError, "{} holds no keys"),
        ("recipe: rft\nreward: {terms: {test: 1}}\n", UnknownName, "no term 'test': did you mean 'tests'"),
        ("recipe: rft\nreward: {terms: {random: {args: {sead: 1}}}}\n", UnknownName, "did you mean 'seed'"),
        ("recipe: rft\nreward: {terms: {random: {wight: 1}}}\n", UnknownName, "did you mean 'weight'"),
        ("recipe: rft\nreward: {terms: {compiles: {gate: test}}}\n", UnknownName, "gate of compiles called 'test'"),
        ("recipe: rft\nreward: {terms: {length: 1}}\n", InputError, "term length needs limit: give it in its args"),
        ("recipe: rft\nsample: {temperature: 0}\n", InputError, "{}: sample.n is 100 with temperature 0"),
        ("recipe: rft\nimprove: {loss: dpo}\n", InputError, "set both or neither"),
        ("recipe: dpo\nselect: {human: union}\n", InputError, "no human rows"),
        ("recipe: sft\nselect: {human: union}\n", InputError, "none and only belong together"),
        ("recipe: max_at_k\non_policy: {k: 17}\n", InputError, "k 17 is more than sample.n 16"),
        ("recipe: grpo\nsource: base\n", InputError, "source is 'base' in an on-policy treatment"),
        ("recipe: rwr\nselect: {beta: .inf}\n", InputError, "beta is infinite"),
        ("recipe: mine.yaml\n", InputError, "starts from itself"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, text, error, message) -> None:
    path = written(tmp_path, text)
    with pytest.raises(error, match=message.format(str(path).replace(".", r"\."))):
        recipe(path)


def test_mistakes_in_a_mapping_are_not_looked_for_in_the_recipe_that_it_starts_from() -> None:
    with pytest.raises(UnknownName, match="key of select in the recipe called 'cpa': did you mean 'cap'"):
        recipe({"recipe": "rft", "select": {"cpa": 4}})
    with pytest.raises(InputError, match=r"the recipe: select\.cap is not usable"):
        recipe({"recipe": "rft", "select": {"cap": "4"}})
    with pytest.raises(InputError, match=r"no recipe file nowhere\.yaml"):
        recipe("nowhere.yaml")
