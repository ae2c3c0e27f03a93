"""The sampler that replays files: counting, matching, indices, bad input, and the real files."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.samplers.replay import Replay, replay
from harness.types import Budget, Completion, Problem

PROBLEMS = [Problem(id=f"HumanEval/{i}", task="humaneval", prompt="") for i in (0, 1, 10)]


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def plain(problem: Any, text: str, **more: Any) -> dict[str, Any]:
    return {"problem_id": problem, "text": text} | more


def every(sampler: Replay, budget: Budget | None = None, problems: list[Problem] | None = None) -> list[Completion]:
    return list(sampler.sample(problems or PROBLEMS, budget or Budget()))


# ---------------------------------------------------------------------------------------------------------------------
# counting, indices, resuming


def test_all_completions_unless_n_says_fewer(tmp_path: Path) -> None:
    names = ["HumanEval/0", "HumanEval/1", "HumanEval/0", "HumanEval/0"]
    sampler = replay(write(tmp_path / "c.jsonl", *[plain(name, str(i)) for i, name in enumerate(names)]))
    assert sampler.counts(PROBLEMS, Budget()) == {"HumanEval/0": 3, "HumanEval/1": 1, "HumanEval/10": 0}
    assert sampler.counts(PROBLEMS, Budget(n=2)) == {"HumanEval/0": 2, "HumanEval/1": 1, "HumanEval/10": 0}
    assert [(c.problem_id, c.index, c.text) for c in every(sampler, Budget(n=2))] == [
        ("HumanEval/0", 0, "0"), ("HumanEval/1", 0, "1"), ("HumanEval/0", 1, "2"),
    ]  # fmt: skip
    assert len(every(sampler)) == 4


def test_numbered_rows_in_any_order_give_the_first_n_by_number(tmp_path: Path) -> None:
    rows = [plain("HumanEval/0", f"t{i}", index=i) for i in (7, 2, 9, 0)]
    sampler = replay(write(tmp_path / "c.jsonl", *rows))
    assert [c.index for c in every(sampler)] == [7, 2, 9, 0]
    assert [c.index for c in every(sampler, Budget(n=2))] == [2, 0]
    assert sampler.counts(PROBLEMS, Budget(n=2))["HumanEval/0"] == 2


def test_done_and_unwanted_completions_are_left_out_and_indices_stay(tmp_path: Path) -> None:
    rows = [plain(f"HumanEval/{i % 2}", str(i)) for i in range(6)]
    sampler = replay(write(tmp_path / "c.jsonl", *rows))
    got = list(sampler.sample(PROBLEMS, Budget(), done={("HumanEval/0", 1)}, wanted={"HumanEval/0"}))
    assert [(c.index, c.text) for c in got] == [(0, "0"), (2, "4")]


@given(st.lists(st.sampled_from([0, 1, 10]), min_size=1, max_size=30), st.integers(1, 5))
def test_counts_are_what_sample_gives(tmp_path_factory: pytest.TempPathFactory, ids: list[int], n: int) -> None:
    path = tmp_path_factory.mktemp("c") / "c.jsonl"
    sampler = replay(write(path, *[plain(f"HumanEval/{i}", str(k)) for k, i in enumerate(ids)]))
    got = every(sampler, Budget(n=n))
    counts = sampler.counts(PROBLEMS, Budget(n=n))
    assert {p.id: [c.index for c in got if c.problem_id == p.id] for p in PROBLEMS} == {
        name: list(range(count)) for name, count in counts.items()
    }


def test_identity_is_of_content_and_options_not_of_the_path(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", plain("HumanEval/0", "x"))
    same = write(tmp_path / "b.jsonl", plain("HumanEval/0", "x"))
    other = write(tmp_path / "c.jsonl", plain("HumanEval/0", "y"))
    assert replay(one).identity == replay(same).identity == replay(one, format="plain").identity
    assert len({replay(one).identity, replay(other).identity, replay(one, form="program").identity}) == 3


def test_identity_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    identities = set()
    for folder, name, text in [("a", "0.py", "x"), ("b", "0.py", "x"), ("c", "1.py", "x"), ("d", "0.py", "y")]:
        file = tmp_path / folder / "HumanEval_0" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        identities.add(replay(str(tmp_path / folder)).identity)
    assert len(identities) == 3


def test_a_form_given_is_used_for_all(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", plain("HumanEval/0", "x"))
    assert [c.form for c in every(replay(path, form="program"))] == ["program"]
    with pytest.raises(InputError, match="form is 'code' where one of continuation, message, program"):
        replay(path, form="code")


# ---------------------------------------------------------------------------------------------------------------------
# which problem


@pytest.mark.parametrize(("name", "task_id"), [(10, "Mbpp/10"), ("10", "Mbpp/10"), ("Mbpp_2", "Mbpp/2"), (2, "Mbpp/2")])
def test_ids_without_a_prefix(tmp_path: Path, name: Any, task_id: str) -> None:
    problems = [Problem(id=f"Mbpp/{i}", task="mbpp", prompt="") for i in (2, 10)]
    assert [c.problem_id for c in every(replay(write(tmp_path / "c.jsonl", plain(name, "x"))), problems=problems)] == [
        task_id
    ]


def test_an_id_that_fits_two_problems(tmp_path: Path) -> None:
    problems = [*PROBLEMS, Problem(id="mbpp/1", task="mbpp", prompt="")]
    sampler = replay(write(tmp_path / "c.jsonl", plain(1, "x")))
    with pytest.raises(InputError, match=r"line 1: problem 1 may be HumanEval/1 or mbpp/1: give whole ids"):
        sampler.counts(problems, Budget())


def test_an_unknown_problem_names_line_id_and_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", plain("HumanEval/0", "x"), "", plain("HumanEval/11", "x"))
    with pytest.raises(
        InputError, match=r"c.jsonl, line 3: there is no problem 'HumanEval/11' .* nearest is 'HumanEval/1'"
    ):
        replay(path).counts(PROBLEMS, Budget())


# ---------------------------------------------------------------------------------------------------------------------
# bad input: one sentence that names the place, before any work is done

BAD_ROWS = {
    "not JSON": ('{"problem_id": "HumanEval/0", ', "line 2, is not JSON"),
    "no text": ({"problem_id": "HumanEval/0"}, "line 2 has no field 'text' "),
    "no id": ({"text": "x"}, "line 2 has no field 'problem_id' "),
    "text a number": (plain("HumanEval/0", "x") | {"text": 3}, "line 2: text is the number 3 where a text is wanted"),
    "text null": (plain("HumanEval/0", "x") | {"text": None}, "line 2: text is null where a text is wanted"),
    "id a list": (plain(["a"], "x"), r"line 2: problem_id is a list where an id"),
    "id true": (plain(True, "x"), r"line 2: problem_id is true or false where an id"),
    "a list": ([1], "line 2 is a list where an object"),
    "index negative": (plain("HumanEval/0", "x", index=-1), "line 2: index is -1 where a whole number from 0"),
    "index huge": (plain("HumanEval/0", "x", index=10**30), "line 2: index is 1000"),
    "index in some rows only": (
        plain("HumanEval/0", "x", index=1),
        "line 2 has an index where others of 'HumanEval/0'",
    ),
    "unknown form": (plain("HumanEval/0", "x", form="prog"), "line 2: form is 'prog' where one of"),
    "scores a text": (plain("HumanEval/0", "x", scores={"a": "b"}), "line 2: scores is not an object of numbers"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row(tmp_path: Path, case: str) -> None:
    row, message = BAD_ROWS[case]
    sampler = replay(write(tmp_path / "c.jsonl", plain("HumanEval/0", "fine"), row))
    with pytest.raises(InputError, match=message) as error:
        sampler.counts(PROBLEMS, Budget())
    assert "c.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


BAD_FILES = {
    "empty": (b"", "is empty: it holds no completions"),
    "blank": (b"\n \n", "is empty: it holds no completions"),
    "empty list": (b"[]", "is empty: it holds no completions"),
    "truncated gzip": (
        gzip.compress(b'{"problem_id": "HumanEval/0", "text": "x"}\n' * 1000)[:-20],
        "not a whole gzip file",
    ),
    "not UTF-8": (b'{"problem_id": "HumanEval/0", "text": "\xff"}\n', "line 1 is not UTF-8"),
    "a lone list": (b'[["a"], "b"]', "in no format that can be recognised"),
    "not JSON at all": (b"hello\n", "is not JSON"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        replay(str(tmp_path / "c.json")).counts(PROBLEMS, Budget())
    assert "\n" not in str(error.value)


def test_missing_file_and_bad_parquet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.jsonl does not exist"):
        replay(str(tmp_path / "no.jsonl"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        replay(str(tmp_path / "c.parquet"))


def test_a_system_for_a_format_without_systems(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no systems: leave out system=6b"):
        replay(write(tmp_path / "c.jsonl", plain("HumanEval/0", "x")), system="6b")


def test_a_row_without_an_index_among_numbered_ones(tmp_path: Path) -> None:
    rows = [plain("HumanEval/0", "a", index=3), plain("HumanEval/1", "b"), plain("HumanEval/0", "c")]
    assert [c.index for c in every(replay(write(tmp_path / "c.jsonl", *rows[:2])))] == [3, 0]
    with pytest.raises(InputError, match="line 3 has no index where others of 'HumanEval/0' have"):
        every(replay(write(tmp_path / "c.jsonl", *rows)))


def test_two_rows_with_one_index(tmp_path: Path) -> None:
    rows = [plain("HumanEval/0", "a", index=0), plain("HumanEval/1", "a", index=0), plain("HumanEval/0", "a", index=0)]
    sampler = replay(write(tmp_path / "same.jsonl", *rows))
    assert [(c.problem_id, c.index) for c in every(sampler)] == [("HumanEval/0", 0), ("HumanEval/1", 0)]
    assert sampler.notices == ["1 completion repeated word for word under the same index and counted once."]
    other = replay(write(tmp_path / "other.jsonl", *rows, plain("HumanEval/1", "b", index=0)))
    with pytest.raises(InputError, match=r"other.jsonl, line 2 and line 4 both claim index 0 of 'HumanEval/1' with"):
        other.counts(PROBLEMS, Budget())


# ---------------------------------------------------------------------------------------------------------------------
# odd texts are no error


@pytest.mark.parametrize(
    "text", ["", "a\0b", "\u2028\u2029\x85", "x" * 10_000_000, "\N{GRINNING FACE}", "\ufeff", "\r\n"]
)
def test_odd_texts_pass_through(tmp_path: Path, text: str) -> None:
    sampler = replay(write(tmp_path / "c.jsonl", plain("HumanEval/0", text)))
    (got,) = every(sampler)
    assert got.text == text
    assert sampler.notices == []
    assert msgspec.json.decode(msgspec.json.encode(got), type=Completion) == got


def test_lone_surrogates_are_replaced_and_counted(tmp_path: Path) -> None:
    rows = [plain("HumanEval/0", text) for text in ("a\ud800b", "\udc00", "fine \N{GRINNING FACE}")]
    sampler = replay(write(tmp_path / "c.jsonl", *rows))
    got = every(sampler)
    assert [c.text for c in got] == ["a\ufffdb", "\ufffd", "fine \N{GRINNING FACE}"]
    assert sampler.notices == ["2 completions with lone surrogates, replaced by U+FFFD."]
    assert [msgspec.json.decode(msgspec.json.encode(c), type=Completion) for c in got] == got


def test_scores_that_are_no_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    row = (
        '{"problem_id": "HumanEval/0", "text": "x", "reward": NaN, "other": 1e400, "big": 1'
        + "0" * 400
        + ', "fine": 2}'
    )
    sampler = replay(write(tmp_path / "c.jsonl", row))
    (got,) = every(sampler)
    assert got.scores == {"fine": 2.0}
    assert sampler.notices == ["3 scores left out: NaN or infinite."]


def test_a_long_file_is_streamed(tmp_path: Path) -> None:
    text = "x" * 20_000
    path = tmp_path / "c.jsonl"
    with path.open("w") as file:
        for i in range(2_000):  # 40 MB
            file.write(json.dumps(plain("HumanEval/0", f"{i} {text}", index=i)) + "\n")
    sampler = replay(str(path))
    tracemalloc.start()
    n = sum(1 for _ in sampler.sample(PROBLEMS, Budget()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 2_000
    assert peak < 4_000_000


# ---------------------------------------------------------------------------------------------------------------------
# the real files


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_real_humaneval_samples(shared_data: Path) -> None:
    problems = [Problem(id=row["task_id"], task="humaneval", prompt=row["prompt"])
                for row in rows_of(shared_data / "HumanEval.jsonl.gz")]  # fmt: skip
    sampler = replay(str(shared_data / "humaneval_codegen16b_even.jsonl.gz"))
    counts = sampler.counts(problems, Budget(n=100))
    assert sampler.format == "humaneval"
    assert sorted(set(counts.values())) == [0, 100]
    assert sum(counts.values()) == 8200
    got = list(sampler.sample(problems, Budget(n=100)))
    expected = rows_of(shared_data / "humaneval_codegen16b_even.jsonl.gz")
    assert [(c.problem_id, c.text) for c in got] == [(row["task_id"], row["completion"]) for row in expected]
    verdicts = rows_of(shared_data / "humaneval_codegen16b_even_verdicts.jsonl.gz")
    assert {(c.problem_id, c.index) for c in got} == {(row["task_id"], row["index"]) for row in verdicts}
    assert sampler.notices == []


@pytest.mark.parametrize(
    ("system", "percent"),
    [
        ("6b_finetuning", 21.970),
        ("6b_verification", 38.939),
        ("175b_finetuning", 31.970),
        ("175b_verification", 56.515),
    ],
)
def test_real_gsm8k_solutions(shared_data: Path, system: str, percent: float) -> None:
    problems = [Problem(id=f"gsm8k/{i}", task="gsm8k", prompt=row["question"], meta={"question": row["question"]})
                for i, row in enumerate(rows_of(shared_data / "gsm8k_test.jsonl.gz"))]  # fmt: skip
    got = every(replay(str(shared_data / "gsm8k_model_solutions_even.jsonl.gz"), system=system), problems=problems)
    assert [c.problem_id for c in got] == [f"gsm8k/{i}" for i in range(0, 1319, 2)]
    assert 100 * sum(c.scores["source_passed"] for c in got) / len(got) == pytest.approx(percent, abs=5e-4)


def test_real_gsm8k_solutions_without_index_are_matched_by_question(shared_data: Path, tmp_path: Path) -> None:
    questions = [row["question"] for row in rows_of(shared_data / "gsm8k_test.jsonl.gz")]
    problems = [Problem(id=f"gsm8k/{i}", task="gsm8k", prompt=text) for i, text in enumerate(questions)]
    rows = rows_of(shared_data / "gsm8k_model_solutions_even.jsonl.gz")[:50]
    path = write(tmp_path / "m.jsonl", *[{name: row[name] for name in row if name != "index"} for row in rows])
    got = every(replay(path, system="6b_finetuning"), problems=problems)
    assert [c.problem_id for c in got] == [f"gsm8k/{row['index']}" for row in rows]


def test_real_qwen_math(shared_data: Path) -> None:
    rows = rows_of(shared_data / "math_qwen_rm_first50.jsonl.gz")
    problems = [
        Problem(id=f"hendrycks_math/{i}", task="hendrycks_math", prompt=row["question"]) for i, row in enumerate(rows)
    ]
    got = every(replay(str(shared_data / "math_qwen_rm_first50.jsonl.gz")), problems=problems)
    assert len(got) == 400
    assert sum(c.scores["source_passed"] for c in got) / 400 == 0.9375
    best = {}
    for c in got:
        if c.problem_id not in best or c.scores["pred_score"] > best[c.problem_id].scores["pred_score"]:
            best[c.problem_id] = c
    assert sum(c.scores["source_passed"] for c in best.values()) == 48  # rm@8
