"""The sampler `openai`: what it asks a server, what it makes of answers, what it tells and what it keeps to itself."""

from __future__ import annotations

import json
import logging

import pytest

from harness import registry
from harness.errors import HarnessError, InputError, MissingDependency, UnknownName
from harness.samplers import http_client, openai_api
from harness.samplers.openai import openai
from harness.types import Budget, Completion, Problem
from tests.samplers.faulty_server import ENTRY, MODEL, Fault, serve

BUDGET = Budget(n=2, temperature=0.8, top_p=0.9, max_tokens=8, seed=3)
PROBLEM = Problem(id="p/0", task="t", context="Few shots. ", prompt="prompt", stop=("\n\n",))
KEY = "sk-secret-0123456789"


@pytest.fixture(scope="module")
def server():
    with serve(chat=True) as running:
        yield running


def sampler(server, **options):
    return openai(MODEL, server.url, **{"api": "completions", **options})


def edited(edit, **options):
    """A server whose answers are changed, and the one completion that the sampler makes of them."""
    budget = options.pop("budget", Budget(max_tokens=8))
    problem = options.pop("problem", PROBLEM)
    fault = Fault(edit=lambda answer: edit(answer) if "choices" in answer else None)
    with serve(lambda seen: fault, chat=True) as server:
        model = sampler(server, **options)
        (completion,) = model.sample([problem], budget)
        return completion, model.notices


# what is asked


def test_a_request_for_a_continuation(server):
    begin = len(server.asked)
    completions = sorted(sampler(server).sample([PROBLEM], BUDGET), key=lambda c: c.index)
    seeds = [openai_api.seed_for(3, "p/0", i) for i in range(2)]
    body = {
        "model": MODEL,
        "prompt": "Few shots. prompt",
        "temperature": 0.8,
        "top_p": 0.9,
        "max_tokens": 8,
        "stop": ["\n\n"],
        "logprobs": 1,
    }
    asked = sorted((seen.body for seen in server.asked[begin:]), key=lambda body: body["seed"])
    assert asked == [body | {"seed": seed} for seed in sorted(seeds)]
    assert completions[1] == Completion(
        problem_id="p/0",
        index=1,
        text=f" Few shots. prompt/{seeds[1]}",
        form="continuation",
        logprob=-1.0,
        n_tokens=2,
        stop_reason="stop",
    )


def test_a_request_for_a_reply(server):
    begin = len(server.asked)
    model = sampler(server, api="chat", system_instruction="Be brief.", max_tokens_field="max_completion_tokens")
    (completion,) = model.sample([PROBLEM], Budget(max_tokens=8, top_k=5))
    assert [seen.body for seen in server.asked[begin:]] == [
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Few shots. prompt"},
            ],
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 5,
            "max_completion_tokens": 8,
            "logprobs": True,
        }
    ]  # greedy: no seed; a reply: the problem's stop strings are not for it
    assert (model.form, completion.form, completion.logprob) == ("message", "message", -1.0)


def test_extra_fields_and_fields_taken_out(server):
    begin = len(server.asked)
    model = sampler(server, extra='{"reasoning_effort": "low", "top_p": null}', logprobs=False, send_seed=False)
    list(model.sample([PROBLEM], Budget(temperature=1.0, max_tokens=8)))
    assert set(server.asked[begin].body) == {"model", "prompt", "temperature", "max_tokens", "stop", "reasoning_effort"}


@pytest.mark.parametrize("vendor", ["vllm", "sglang", "llamacpp"])
def test_servers_with_defaults_of_their_own_are_told_to_have_none(vendor):
    with serve(entry={**ENTRY, "owned_by": vendor}) as server:
        list(sampler(server).sample([PROBLEM], Budget(max_tokens=8)))
        list(sampler(server).sample([PROBLEM], Budget(max_tokens=8, temperature=1.0, top_k=7)))
        first, second = (seen.body for seen in server.asked)
    assert (first["top_k"], first["min_p"], first["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert second["top_k"] == 7


def test_only_what_is_missing_and_wanted_is_asked_for(server):
    begin = len(server.asked)
    problems = [PROBLEM, Problem(id="p/1", task="t", prompt="other"), Problem(id="p/2", task="t", prompt="third")]
    done = [("p/0", 0), ("p/0", 2), ("p/1", 1)]
    model = sampler(server)
    found = list(model.sample(problems, Budget(n=4, temperature=1.0), done, {"p/0", "p/1"}))
    keys = sorted((c.problem_id, c.index) for c in found)
    assert keys == [("p/0", 1), ("p/0", 3), ("p/1", 0), ("p/1", 2), ("p/1", 3)]
    assert len(server.asked) - begin == 5
    assert model.counts(problems, Budget(n=4, temperature=1.0)) == {"p/0": 4, "p/1": 4, "p/2": 4}


def test_several_per_request_are_the_same_completions_as_one_by_one(server):
    budget = Budget(n=7, temperature=1.0)
    one = {c.index: c for c in sampler(server).sample([PROBLEM], budget)}
    begin = len(server.asked)
    several = {c.index: c for c in sampler(server, n_per_request=3).sample([PROBLEM], budget)}
    assert [seen.body.get("n", 1) for seen in server.asked[begin:]].count(3) == 2
    assert {i: c.text for i, c in several.items()} == {i: c.text for i, c in one.items()}
    assert several[0].n_tokens == 2  # of an answer with several choices: by the tokens, not by the usage


def test_seeds_of_a_problem_differ_and_are_small():
    seeds = {openai_api.seed_for(0, "p/0", i) for i in range(10_000)}
    assert len(seeds) == 10_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert openai_api.seed_for(1, "p/0", 0) != openai_api.seed_for(0, "p/0", 0) != openai_api.seed_for(0, "p/1", 0)


def test_auto_is_chat_where_there_is_a_template(server):
    assert sampler(server, api="auto").form == "message"
    with serve(chat=False) as base:
        assert sampler(base, api="auto").form == "continuation"


def test_auto_with_a_server_that_refuses_both_quotes_it(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_BACKOFF_S", 0.001)
    fault = Fault(status=404, body=b'{"error": {"message": "no model org/served"}}')
    with serve(lambda seen: fault) as server, pytest.raises(InputError, match="no model org/served"):
        sampler(server, api="auto")


# what is made of answers


STOPS = ("A", "B", "C", "D", "EE")


@pytest.mark.parametrize(
    ("text", "reason", "cut", "n_tokens", "logprob", "stop_reason"),
    [
        ("one two", "stop", "one two", 9, -4.5, "stop"),
        ("one two", "length", "one two", 9, -4.5, "length"),
        ("oneB", "stop", "one", 9, -4.5, "stop"),  # the server left its stop string in the text
        ("oneEEtwoB", "stop", "one", 5, -2.5, "stop"),  # the fifth was not sent: three letters and the stop string
        ("oneEtwo", "length", "oneEtwo", 9, -4.5, "length"),
        ("oneBtwo", "length", "one", 4, -2.0, "stop"),  # sent, and ignored
        ("EE", "stop", "", 2, -1.0, "stop"),
    ],
)
def test_stop_strings_beyond_those_sent_cut_here(text, reason, cut, n_tokens, logprob, stop_reason):
    def edit(answer):
        names = [*text, "", ""][:9] if len(text) < 9 else list(text)
        names += [""] * (9 - len(names))
        tokens = {"tokens": names, "token_logprobs": [-0.5] * 9}
        answer["choices"] = [{"text": text, "finish_reason": reason, "logprobs": tokens}]
        answer["usage"]["completion_tokens"] = 9

    completion, _ = edited(edit, problem=Problem(id="p", task="t", prompt="x", stop=STOPS))
    assert completion.text == cut
    assert (completion.n_tokens, completion.logprob, completion.stop_reason) == (n_tokens, logprob, stop_reason)


def test_tokens_that_do_not_spell_the_text_are_not_counted_up_to_a_cut():
    def edit(answer):
        answer["choices"] = [
            {"text": "one EE", "finish_reason": "stop",
             "logprobs": {"tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-1.0, -1.0]}}
        ]  # fmt: skip

    completion, _ = edited(edit, problem=Problem(id="p", task="t", prompt="x", stop=STOPS))
    assert (completion.text, completion.logprob, completion.n_tokens) == ("one ", None, None)


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"token_logprobs": []}, {"token_logprobs": [-1.0, None]}, {"token_logprobs": [-1.0, -9999.0]}, "x"],
)
def test_no_log_probability_is_none_and_never_zero(logprobs):
    completion, notices = edited(lambda answer: answer["choices"][0].update(logprobs=logprobs))
    assert completion.logprob is None
    assert completion.n_tokens == 2  # by the usage
    assert "the server gave no log-probabilities." in notices


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "something new", None])
def test_odd_endings_are_neither_stop_nor_length_and_are_told(reason):
    completion, notices = edited(lambda answer: answer["choices"][0].update(finish_reason=reason))
    assert completion.stop_reason is None
    assert any(notice.endswith(f"finish_reason {reason or 'none'}.") for notice in notices)


REASONED = "1 completion came with reasoning, which is not in the text."
EMPTY = "1 completion came without text, which is taken as empty."


@pytest.mark.parametrize(
    ("message", "text", "told"),
    [
        ({"content": "8", "reasoning_content": "4+4"}, "8", REASONED),
        ({"content": "8", "reasoning": "4+4"}, "8", REASONED),
        ({"content": None, "reasoning_content": "4+"}, "", EMPTY),
        ({"content": None, "refusal": "I won't."}, "I won't.", ""),
        ({"content": None, "tool_calls": []}, "", EMPTY),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "8"}]}, "8", ""),
        ({"content": "\ud83d8"}, "\ufffd8", ""),
    ],
)
def test_the_visible_text_of_a_reply(message, text, told):
    completion, notices = edited(lambda answer: answer["choices"][0].update(message=message), api="chat")
    assert completion.text == text
    assert not told or told in notices
    if told == REASONED:  # two tokens by the usage and two log-probabilities: they are of all that was sampled
        assert completion.logprob == -1.0


def test_log_probabilities_of_a_part_of_the_tokens_are_none():
    def edit(answer):
        answer["choices"][0]["message"]["reasoning_content"] = "long thoughts"
        answer["usage"]["completion_tokens"] = 50

    completion, _ = edited(edit, api="chat")
    assert (completion.logprob, completion.n_tokens) == (None, 50)


def test_a_server_that_refuses_log_probabilities_is_asked_without():
    refusal = Fault(status=400, body=b'{"error": {"message": "logprobs is not supported"}}')
    with serve(lambda seen: refusal if "logprobs" in seen.body else None) as server:
        model = sampler(server, concurrency=1)
        found = list(model.sample([PROBLEM], BUDGET))
        assert [c.logprob for c in found] == [None, None]
        assert len(server.asked) == 3
        with pytest.raises(InputError, match="logprobs is not supported"):
            list(sampler(server, logprobs=True).sample([PROBLEM], BUDGET))


# what is told


def test_usage_and_other_models_are_told():
    def edit(answer):
        answer["model"] = "org/served-2024-08-06"

    _, notices = edited(edit)
    assert notices[0] == "the server counted 3 tokens of prompts and 2 of completions."
    assert "the server says that org/served-2024-08-06 answered for org/served." in notices
    _, notices = edited(lambda answer: answer.pop("usage"))
    assert notices[0].endswith("without 1 answer that did not say.")


def test_a_server_that_stays_greedy_is_told():
    fault = Fault(edit=lambda answer: [choice.update(text="same") for choice in answer.get("choices", [])])
    with serve(lambda seen: fault) as server:
        model = sampler(server)
        list(model.sample([PROBLEM], BUDGET))
    assert any("all completions of each problem are equal at temperature 0.8" in notice for notice in model.notices)


# identity


def identity(entry=ENTRY, **options):
    with serve(entry=entry, chat=True) as server:
        return sampler(server, **options).identity


def test_identity_is_the_same_when_the_server_has_moved():
    assert identity() == identity()
    assert identity({**ENTRY, "created": 1_700_000_000, "permission": [{"id": "random"}]}) == identity()
    assert identity(concurrency=3, n_per_request=5, logprobs=False, send_seed=False) == identity()


@pytest.mark.parametrize("change", [{"root": "weights-2"}, {"owned_by": "others"}, {"meta": {"n_params": 7}}])
def test_identity_changes_with_the_servers_answer(change):
    assert identity({**ENTRY, **change}) != identity()


def test_identity_changes_with_what_is_asked():
    known = {identity(), identity(api="chat"), identity(api="chat", system_instruction="x"), identity(extra='{"a": 1}')}
    known.add(identity(None))
    assert len(known) == 5


def test_identity_of_a_folder_on_this_machine_is_of_its_files(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    local = {**ENTRY, "root": str(tmp_path)}
    before = identity(local)
    assert before == identity(local) == identity({**ENTRY, "root": "elsewhere"}, weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_text("{} ")
    assert identity(local) != before


# keys, arguments


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    echo = Fault(status=401, body=json.dumps({"error": {"message": f"Incorrect API key: Bearer {KEY}"}}).encode())
    with serve(lambda seen: echo if seen.body.get("prompt") else None) as server:
        model = sampler(server)
        with pytest.raises(HarnessError, match=r"Incorrect API key: Bearer \[key\]") as error:
            list(model.sample([PROBLEM], BUDGET))
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
    chain = [error.value]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    assert KEY not in "".join(map(repr, [*chain, model, model.notices])) + caplog.text


def test_without_a_key_none_is_sent(monkeypatch, server):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    begin = len(server.seen)
    sampler(server)
    monkeypatch.setenv("MY_KEY", KEY)
    sampler(server, api_key_env="MY_KEY")
    sent = [seen.headers.get("authorization") for seen in server.seen[begin:]]
    assert sent == [None, f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"api_key": KEY}, "environment variable OPENAI_API_KEY"),
        ({"api_key_env": KEY}, "give the name, not the key"),
        ({"base_url": f"http://me:{KEY}@localhost/v1"}, "give a key by the environment"),
        ({"base_url": f"http://localhost/v1?key={KEY}"}, "give a key by the environment"),
        ({"extra": json.dumps({"api-key": KEY})}, "keys belong in the environment"),
        ({"base_url": "localhost:8000"}, "is no address"),
        ({"base_url": "http://localhost/v1/chat/completions"}, "cut /chat/completions"),
        ({"extra": "{"}, "extra is not JSON"),
        ({"extra": "[1]"}, "extra is not a JSON object"),
        ({"extra": '{"n": 3}'}, "extra holds n"),
        ({"extra": '{"temperature": 1}'}, "give --temperature"),
        ({"api": "chta"}, "did you mean 'chat'"),
        ({"concurrency": "0"}, "concurrency is 0"),
        ({"timeout_s": "0"}, "timeout_s is 0"),
        ({"requests_per_minute": "0"}, "requests_per_minute is 0"),
        ({"max_tokens_field": "max"}, "max_tokens_field"),
        ({"max_retries": "-1"}, "max_retries is -1"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, said):
    with pytest.raises(InputError, match=said) as error:
        registry.build("sampler", "openai", {"model": MODEL, "base_url": "http://localhost:9/v1", **arguments})
    assert KEY not in str(error.value)


def test_a_key_that_is_none_is_not_quoted(monkeypatch, server):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY} and more")
    with pytest.raises(InputError, match="holds characters that no key has") as error:
        sampler(server)
    assert KEY not in str(error.value)


def test_a_system_message_needs_chat(server):
    with pytest.raises(InputError, match="needs api=chat"):
        sampler(server, system_instruction="x")


def test_input_is_checked_before_anything_is_sampled(server):
    model = sampler(server)
    for problem, budget in [
        (Problem(id="p", task="t", prompt=""), Budget()),
        (Problem(id="p", task="t", prompt="x", stop=("",)), Budget()),
        (PROBLEM, Budget(n=2)),
    ]:
        with pytest.raises(InputError):
            model.sample([problem], budget)


def test_it_is_listed():
    assert registry.names("sampler")["openai"].startswith("Completions from a server that speaks the OpenAI API")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(MissingDependency, match=r"treatment-harness\[openai\]"):
        openai(MODEL, "http://localhost:9/v1")


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(UnknownName, match="concurrency"):
        registry.build("sampler", "openai", {"model": MODEL, "base_url": "http://x/v1", "concurency": 3})
