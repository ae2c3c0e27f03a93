"""The select step: each filter as documented, whatever the input's order, and the identities between methods."""

import functools
import math
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import recipes
from harness.controls import control
from harness.errors import InputError
from harness.recipes import Reward, Selection, Treatment
from harness.rewards import Graded, Scored, score
from harness.rows import accumulated, first_problems, select
from harness.types import Completion, Problem, Row, Status, Verdict

recipe = functools.cache(recipes.recipe)


def problem(name: str) -> Problem:
    return Problem(id=name, task="t", prompt=f"{name}?", context="Look. ")


def scored(name, reward, *, index=0, text=None, answer=None, program=None) -> Scored:
    text = f"{name} {index}" if text is None else text
    completion = Completion(problem_id=name, index=index, text=text, answer=answer, program=program)
    verdict = Verdict(problem_id=name, index=index, passed=True, status=Status.passed, answer=answer)
    return Scored(Graded(problem(name), completion, verdict), {"tests": reward}, reward)


def pool(rewards: dict[str, list[float | None]], texts=None) -> list[Scored]:
    """Completions of several problems from their rewards."""
    return [
        scored(name, reward, index=i, text=texts[name][i] if texts else None)
        for name, row in rewards.items()
        for i, reward in enumerate(row)
    ]


def chosen(rows: list[Row]) -> list[tuple[str, int | None]]:
    return [(row.problem_id, row.index) for row in rows]


# --- the filters


def test_a_row_is_the_prompt_as_the_model_saw_it_and_the_text() -> None:
    (row,) = select(pool({"a": [1.0]}), Selection(), iteration=2)
    assert row == Row(problem_id="a", prompt="Look. a?", completion="a 0", weight=1.0, index=0, iteration=2, reward=1.0)


def test_threshold_keeps_from_it_on_and_never_what_has_no_reward() -> None:
    made = pool({"a": [0.4, 0.5, None, 1.0]})
    assert chosen(select(made, Selection(threshold=0.5))) == [("a", 1), ("a", 3)]
    assert chosen(select(made, Selection(threshold=None))) == [("a", 0), ("a", 1), ("a", 3)]


def test_variance_looks_at_all_completions_of_a_problem_before_the_threshold() -> None:
    made = pool({"all": [1.0, 1.0], "none": [0.0, 0.0], "some": [1.0, 0.0], "one": [1.0, None]})
    assert chosen(select(made, Selection(variance=True))) == [("some", 0)]


def test_top_is_the_best_rewarded_and_cap_a_random_part() -> None:
    made = pool({"a": [0.1, 0.9, 0.5, 0.8, 0.2]})
    assert chosen(select(made, Selection(threshold=None, top=2))) == [("a", 1), ("a", 3)]
    made = pool({name: [1.0] * 6 for name in map(str, range(300))})
    for seed in (0, 1):
        capped = chosen(select(made, Selection(cap=2), seed=seed))
        assert set(Counter(name for name, _ in capped).values()) == {2}
        counts = Counter(index for _, index in capped)
        assert all(counts[i] == pytest.approx(100, abs=30) for i in range(6))  # 600 draws over six places
    assert capped != chosen(select(made, Selection(cap=2), seed=0))
    both = chosen(select(made, Selection(top=4, cap=2)))
    assert set(both) <= set(chosen(select(made, Selection(top=4))))


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("none", [0, 1, 2, 3, 4]), ("text", [0, 1, 3, 4]), ("answer", [0, 3, 4])],
)
def test_dedupe_by_text_and_answer(kind, kept) -> None:
    texts, answers = ["x", "y", "x", "z", "w"], ["1", "1", "1", "2", None]
    made = [scored("a", 1.0, index=i, text=t, answer=n) for i, (t, n) in enumerate(zip(texts, answers, strict=True))]
    assert [row.index for row in select(made, Selection(dedupe=kind))] == kept


def test_pick_first_shortest_and_random() -> None:
    texts = ["long text", "short", "a", "medium!"]
    made = [scored("a", 1.0, index=i, text=text, answer="1") for i, text in enumerate(texts)]

    def picked(pick, seed=0):
        (row,) = select(made, Selection(dedupe="answer", pick=pick), seed=seed)
        return row.index

    assert (picked("first"), picked("shortest")) == (0, 2)
    assert {picked("random", seed) for seed in range(60)} == {0, 1, 2, 3}


def test_weights() -> None:
    made = pool({"a": [0.0, 0.5, 1.0], "b": [0.25, 0.25]})
    rows = select(made, Selection(threshold=None, weight="reward"))
    assert [(row.problem_id, row.index, row.weight) for row in rows] == [
        ("a", 1, 0.5),
        ("a", 2, 1.0),
        ("b", 0, 0.25),
        ("b", 1, 0.25),
    ]
    rows = select(made, Selection(threshold=None, weight="exponential", beta=0.5))
    raw = [math.exp(2 * r) for r in (0.0, 0.5, 1.0)]
    assert [row.weight for row in rows] == pytest.approx([*(3 * w / sum(raw) for w in raw), 1, 1])
    with pytest.raises(InputError, match=r"a has the reward -1: set select\.threshold"):
        select(pool({"a": [-1.0, 1.0]}), Selection(threshold=None, weight="reward"))
    # large rewards and a small beta overflow nothing
    assert [
        r.weight for r in select(pool({"a": [1e6, 0]}), Selection(threshold=None, weight="exponential", beta=1e-3))
    ] == [2]


HUMAN = {"a": "A!", "b": "B!", "c": "C!"}


def test_human_rows() -> None:
    made, others = pool({"a": [1.0, 1.0], "b": [0.0]}), [problem("c")]
    known = {"human": HUMAN, "problems": others}

    def sources(human):
        return [(r.problem_id, r.source, r.completion) for r in select(made, Selection(human=human), **known)]

    own = [("a", "human", "A!"), ("b", "human", "B!"), ("c", "human", "C!")]
    sampled = [("a", "sampled", "a 0"), ("a", "sampled", "a 1")]
    assert sources("none") == sampled
    assert sources("only") == own
    assert sources("union") == [own[0], *sampled, *own[1:]]
    assert sources("matched") == own[:1]
    row = select(made, Selection(human="only"), **known, iteration=3)[2]
    assert row == Row(problem_id="c", prompt="Look. c?", completion="C!", source="human", iteration=3)


def test_human_rows_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="there are no human solutions"):
        select(pool({"a": [1.0]}), Selection(human="union"))
    with pytest.raises(InputError, match="a solution of b and no problem of that id"):
        select(pool({"a": [1.0]}), Selection(human="union"), human=HUMAN)


def test_problems_are_nested_subsets_of_all_problems() -> None:
    names = [f"p{i}" for i in range(50)]
    subsets = [set(first_problems(names, n)) for n in (5, 10, 50, 80)]
    assert [len(each) for each in subsets] == [5, 10, 50, 50]
    assert subsets[0] < subsets[1] < subsets[2]
    assert first_problems(names[::-1], 5) == first_problems(names, 5)
    made = pool({name: [float(i % 2)] for i, name in enumerate(names)})
    solved = {row.problem_id for row in select(made, Selection(problems=10))}
    assert solved == {name for name in subsets[1] if int(name[1:]) % 2}


def test_pairs_are_right_and_wrong_of_one_problem() -> None:
    made = pool({"a": [1.0, 0.0, 1.0, 0.0, None], "b": [1.0, 1.0], "c": [0.0]})
    rows = select(made, Selection(pairs=10), iteration=1)
    assert {(row.completion, row.rejected) for row in rows} == {
        (f"a {right}", f"a {wrong}") for right in (0, 2) for wrong in (1, 3)
    }
    assert {row.iteration for row in rows} == {1}
    seeds = {tuple((r.completion, r.rejected) for r in select(made, Selection(pairs=2), seed=s)) for s in range(20)}
    assert len(seeds) > 4
    assert all(len(set(rows)) == 2 for rows in seeds)
    repeated = pool({"a": [1.0, 1.0, 0.0, 0.0]}, {"a": ["x", "x", "y", "y"]})
    assert len(select(repeated, Selection(pairs=10, dedupe="text"))) == 1
    with pytest.raises(InputError, match="pairs need a threshold"):
        select(made, Selection(pairs=1, threshold=None))


def test_accumulated_rows_have_human_ones_once() -> None:
    first = select(pool({"a": [1.0]}), Selection(human="union"), human={"a": "A!"}, iteration=1)
    second = select(pool({"a": [1.0]}), Selection(human="union"), human={"a": "A!"}, iteration=2)
    assert [(row.source, row.iteration) for row in accumulated(first, second)] == [
        ("human", 1),
        ("sampled", 1),
        ("sampled", 2),
    ]


def test_two_completions_with_one_index_are_refused() -> None:
    with pytest.raises(InputError, match="two completions of a have the index 3"):
        select([scored("a", 1.0, index=3), scored("a", 0.0, index=3)], Selection())


REWARDS = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.sampled_from([None, 0.0, 0.5, 1.0]), max_size=6), max_size=3
)
BINARY = st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from([0.0, 1.0]), max_size=6), max_size=3)
SELECTIONS = st.builds(
    Selection,
    threshold=st.sampled_from([None, 0.5, 1.0]),
    variance=st.booleans(),
    dedupe=st.sampled_from(["none", "text", "answer", "equations", "program"]),
    pick=st.sampled_from(["first", "shortest", "farthest", "random"]),
    top=st.sampled_from([None, 1, 2]),
    cap=st.sampled_from([None, 1, 3]),
    weight=st.sampled_from(["ones", "reward", "exponential"]),
    problems=st.sampled_from([None, 1, 2]),
)
QUICK = settings(max_examples=40, deadline=None)


@given(REWARDS, SELECTIONS, st.randoms(use_true_random=False), st.integers(0, 5))
@QUICK
def test_rows_do_not_depend_on_the_order_of_completions(rewards, selection, draw, seed) -> None:
    texts = {name: [f"<<1+{i % 2}={1 + i % 2}>> {'ab' * (i % 3)}" for i in range(6)] for name in "abcd"}
    made = pool(rewards, texts)
    mixed = list(made)
    draw.shuffle(mixed)
    rows = select(made, selection, seed=seed)
    assert select(mixed, selection, seed=seed) == rows
    counts = Counter(row.problem_id for row in rows)
    assert all(count <= min(selection.top or 9, selection.cap or 9) for count in counts.values())
    assert len(counts) <= (selection.problems or 9)


# --- identities between methods


def rows_of(treatment: Treatment, made: list[Scored], **selection) -> list[Row]:
    human = {name: "H" for name in "abcd"}
    chosen = msgspec.structs.replace(treatment.select, **selection)
    return select(made, chosen, human=human, problems=map(problem, "abcd"), seed=3)


@given(BINARY)
@QUICK
def test_rft_is_rest_em_with_one_iteration_and_the_same_cap_and_dedupe(rewards) -> None:
    rft, rest_em = recipe("rft"), recipe("rest_em")
    assert (rft.iterations, rft.init) == (1, rest_em.init)
    made = pool(rewards)
    same = {"cap": 3, "dedupe": "text", "pick": "first", "human": "none"}
    assert rows_of(rft, made, **same) == rows_of(rest_em, made, **same)


@given(BINARY, st.floats(0.001, 1))
@QUICK
def test_rest_with_any_threshold_selects_the_same_of_binary_rewards(rewards, threshold) -> None:
    rest, made = recipe("rest"), pool(rewards)
    assert rows_of(rest, made, threshold=threshold) == rows_of(rest, made)


@given(REWARDS)
@QUICK
def test_rest_without_human_rows_from_the_base_is_rest_em(rewards) -> None:
    rest, rest_em = recipe("rest"), recipe("rest_em")
    as_rest_em = {"name": "rest_em", "paper": rest_em.paper, "select": rest_em.select, "improve": rest_em.improve}
    assert msgspec.structs.replace(rest, init="base", **as_rest_em) == rest_em
    made = pool(rewards)
    assert rows_of(rest, made, human="none", cap=10) == rows_of(rest_em, made)
    assert rows_of(rest, made)[0].source == "human"


@given(BINARY)
@QUICK
def test_iml_over_all_problems_is_rest_em_without_a_cap(rewards) -> None:
    made = pool(rewards)
    assert rows_of(recipe("iml"), made) == rows_of(recipe("rest_em"), made, cap=None)


@given(BINARY, st.sampled_from([1.0, 0.5]))
@QUICK
def test_raft_is_iml_with_a_cap_of_one_of_binary_rewards(rewards, threshold) -> None:
    made = pool(rewards)
    raft, iml = recipe("raft"), recipe("iml")
    assert rows_of(raft, made, threshold=threshold) == rows_of(iml, made, cap=1, threshold=threshold)
    # problems that nothing solved have weight 0, with the paper's threshold too
    assert rows_of(raft, made, threshold=None, weight="reward") == rows_of(iml, made, cap=1)


@given(REWARDS)
@QUICK
def test_rwr_tends_to_everything_and_to_the_best(rewards) -> None:
    made, rwr = pool(rewards), recipe("rwr")
    everything = select(made, Selection(threshold=None))
    assert rows_of(rwr, made, beta=math.inf) == everything
    assert [row.weight for row in rows_of(rwr, made, beta=1e9)] == pytest.approx([1] * len(everything))
    # distinct rewards: then there is one best
    distinct = [Scored(one.graded, one.terms, place / 8) for place, one in enumerate(made)]
    best, raft = rows_of(rwr, distinct, beta=1e-9), rows_of(recipe("raft"), distinct, threshold=None)
    assert chosen(best) == chosen(raft)
    sizes = Counter(one.graded.problem.id for one in distinct)
    assert [row.weight for row in best] == [sizes[row.problem_id] for row in best]


@given(REWARDS, st.floats(-2, 2))
@QUICK
def test_rwr_weights_do_not_change_with_a_constant(rewards, constant) -> None:
    made, rwr = pool(rewards), recipe("rwr")
    more = [Scored(one.graded, one.terms, None if one.reward is None else one.reward + constant) for one in made]
    before, after = rows_of(rwr, made), rows_of(rwr, more)
    assert chosen(before) == chosen(after)
    assert [row.weight for row in before] == pytest.approx([row.weight for row in after])


@given(BINARY)
@QUICK
def test_expert_iteration_by_sampling_is_rest_em(rewards) -> None:
    made, exit_, rest_em = pool(rewards), recipe("expert_iteration"), recipe("rest_em")
    assert exit_.init == rest_em.init
    assert rows_of(exit_, made, cap=10, dedupe="none") == rows_of(rest_em, made)


def graded_by_answers(answers: list[str | None], right: str) -> list[Graded]:
    return [
        Graded(
            problem("a"),
            Completion(problem_id="a", index=i, text=f"so {answer}", answer=answer),
            Verdict(problem_id="a", index=i, passed=answer == right, status=Status.wrong, answer=answer),
        )
        for i, answer in enumerate(answers)
    ]


@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9))
@QUICK
def test_majority_reward_is_rft_where_the_majority_is_right(answers) -> None:
    votes = Counter(answer for answer in answers if answer)
    winner = max(votes, key=lambda answer: votes[answer]) if votes else "1"
    graded, rft = graded_by_answers(answers, winner), recipe("rft")
    by_votes = control("majority_reward", rft)
    ours = rows_of(rft, score(graded, rft.reward))
    assert rows_of(by_votes, score(graded, by_votes.reward)) == ours
    # and where it is wrong, no row is right
    if votes:
        other = score(graded_by_answers(answers, "no such answer"), by_votes.reward)
        sampled = [row for row in rows_of(by_votes, other) if row.source == "sampled"]
        assert {other[row.index or 0].graded.verdict.passed for row in sampled} == {False}


@pytest.mark.parametrize("name", ["no_verification", "matched_reward", "random_reward", "wrong_label", "format_only"])
def test_a_control_whose_placebo_has_nothing_to_hide_is_the_treatment(name) -> None:
    """Where all completions are alike in what the control looks at, it changes no row."""
    treatment = recipe("rest_em")
    placebo = control(name, treatment)
    if name == "random_reward":  # a coin that always falls on the same side
        terms = {
            **placebo.reward.terms,
            "random": msgspec.structs.replace(placebo.reward.terms["random"], args={"probability": 1}),
        }
        placebo = msgspec.structs.replace(placebo, reward=Reward(terms=terms))
    graded = graded_by_answers(["1"] * 12, "1")
    ours = rows_of(treatment, score(graded, treatment.reward))
    assert len(ours) == 10
    rows = rows_of(placebo, score(graded, placebo.reward))
    if name == "wrong_label":  # switched off by exchanging right and wrong
        rows = rows_of(placebo, score(graded_by_answers(["1"] * 12, "2"), placebo.reward))
    assert rows == ours


def test_matched_reward_keeps_as_many_of_each_problem() -> None:
    draw = random.Random(4)
    graded = []
    for name in "abcd":
        for i in range(30):
            passed = draw.random() < 0.4
            verdict = Verdict(problem_id=name, index=i, passed=passed, status=Status.wrong)
            graded.append(Graded(problem(name), Completion(problem_id=name, index=i, text=f"{i}"), verdict))
    treatment = msgspec.structs.replace(recipe("rft"), select=Selection())
    placebo = control("matched_reward", treatment)
    ours, theirs = (rows_of(each, score(graded, each.reward)) for each in (treatment, placebo))
    assert Counter(row.problem_id for row in ours) == Counter(row.problem_id for row in theirs)
    right = {(one.problem.id, one.completion.index) for one in graded if one.verdict.passed}
    share = len(right & set(chosen(theirs))) / len(theirs)
    assert share == pytest.approx(0.4, abs=0.15)


def test_matched_rows_are_of_the_problems_of_one_per_problem() -> None:
    made = pool({"a": [1.0, 1.0], "b": [0.0], "c": [0.0, 1.0]})
    treatment = recipe("rest_em")
    human, own = (rows_of(control(name, treatment), made) for name in ("matched_rows", "one_per_problem"))
    assert [row.problem_id for row in human] == [row.problem_id for row in own] == ["a", "c"]
    assert ({row.source for row in human}, {row.source for row in own}) == ({"human"}, {"sampled"})
