"""Sample files of general harnesses: lm-evaluation-harness, lighteval, verifiers.

| format | one row |
|---|---|
| `lm_eval` | a line of `samples_TASK_DATE.jsonl` (`--log_samples`): `resps[request][repeat]`, not `filtered_resps` |
| `lighteval` | a row of `details_TASK_DATE.parquet`: columns `doc`, `model_response`, or before 2025 `predictions` |
| `verifiers` | a line of `results.jsonl`: `prompt`, `completion`, `reward` |

lm_eval writes a line for each filter with the same responses: the first one counts. A response to a chat is a message,
except where the prompt ends with the problem's own (a prefilled reply), which the response continues. Not handled:
multiple-choice rows (log-likelihoods, no completion), inspect's .eval archives. A field `form` of lm_eval's rows is
ours (`harness convert`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from harness.dataset import require
from harness.errors import InputError
from harness.samplers.formats.code import note_if_none
from harness.samplers.formats.found import (
    OWN_IDS,
    Found,
    Line,
    common_fields,
    count_of,
    finite,
    first_of,
    form_of,
    id_of,
    number_of,
    question_of,
    text_of,
    text_or_none,
    texts_of,
)
from harness.types import Form

CHAT_MARKS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>", "<|assistant|>",
              "<｜User｜>", "<|start|>user", '[{"role":', "[{'role':")  # fmt: skip
"""What shows that a prompt was made by a chat template, or is a list of messages written as text."""


def lm_eval(line: Line) -> Iterator[Found]:
    """A line of samples_TASK_DATE.jsonl: the responses to one document."""
    row, place = line.row, line.place
    require(row, ["doc_id", "resps"], place)
    responses = row["resps"]
    if not isinstance(responses, list) or len(responses) != 1 or not isinstance(responses[0], list):
        raise InputError(f"{place}: resps is not one list of responses: multiple-choice samples hold no completions.")
    texts = texts_of(responses[0], "resps[0]", place)
    note_if_none(texts, line.notes)
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    own_id = first_of(doc, OWN_IDS)
    scores = finite({"source_passed": _lm_eval_verdict(row) if len(texts) == 1 else None}, line.notes)
    for i, text in enumerate(texts):
        yield Found(
            place=place,
            id=None if own_id is None else id_of(own_id, "the document's id", place),
            row=count_of(row["doc_id"], "doc_id", place) if own_id is None else None,
            question=question_of(doc),
            text=text,
            form=_lm_eval_form(row, doc) if row.get("form") is None else form_of(row["form"], place),
            index=i,  # so that the lines of further filters are the same completions again
            scores=scores,
        )


def _lm_eval_verdict(row: dict[str, Any]) -> float | None:
    names = row.get("metrics")
    name = names[0] if isinstance(names, list) and names else None
    value = number_of(row.get(name)) if isinstance(name, str) else None
    return value if value in (0.0, 1.0) else None


def _lm_eval_form(row: dict[str, Any], doc: dict[str, Any]) -> Form:
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    prompt = first.get("arg_0") if isinstance(first, dict) else None
    if isinstance(prompt, list):
        return "message"
    if not isinstance(prompt, str) or not any(mark in prompt for mark in CHAT_MARKS):
        return "continuation"
    own = doc.get("prompt")
    prefilled = isinstance(own, str) and own.strip() and prompt.rstrip().endswith(own.rstrip())
    return "continuation" if prefilled else "message"


def lighteval(line: Line) -> Iterator[Found]:
    """A row of a details file: the generations for one document."""
    row, place = line.row, line.place
    if "model_response" not in row:
        yield from _lighteval_before_2025(line)
        return
    doc, response = _unpacked(row.get("doc"), "doc", place), _unpacked(row["model_response"], "model_response", place)
    require(response, ["text"], place)
    texts = texts_of(response["text"], "model_response.text", place)
    note_if_none(texts, line.notes)
    tokens = response.get("output_tokens")
    name, number = _lighteval_id(doc, line)
    metric = row.get("metric")
    for i, text in enumerate(texts):
        generated = tokens[i] if isinstance(tokens, list) and i < len(tokens) else None
        yield Found(
            place=place,
            id=name,
            row=number,
            question=text_or_none(doc.get("query")),
            text=text,
            form="message" if isinstance(response.get("input"), list) else "continuation",
            n_tokens=len(generated) if isinstance(generated, list) else None,
            scores=_lighteval_scores(metric if len(texts) == 1 else None, line),
        )


def _lighteval_id(doc: dict[str, Any], line: Line) -> tuple[str | int | None, int | None]:
    """Id and row of a document: lighteval's own `id` is the row number as a text; its rows are shuffled."""
    specific = doc.get("specific")
    own_id = first_of(specific, OWN_IDS) if isinstance(specific, dict) else None
    if own_id is not None:
        return id_of(own_id, "the document's id", line.place), None
    number = text_or_none(doc.get("id"))
    return (None, int(number)) if number and number.isdecimal() else (number, None)


def _lighteval_scores(metric: Any, line: Line) -> dict[str, float]:
    if not isinstance(metric, dict):
        return {}
    scores = finite({f"source.{name}": number_of(value) for name, value in metric.items()}, line.notes)
    if len(scores) == 1 and next(iter(scores.values())) in (0.0, 1.0):
        return {"source_passed": next(iter(scores.values()))}
    return scores


def _lighteval_before_2025(line: Line) -> Iterator[Found]:
    row, place = line.row, line.place
    require(row, ["predictions"], place)
    predictions = row["predictions"]
    if isinstance(predictions, str):
        predictions = _literal(predictions, "predictions", place)
    if isinstance(predictions, list) and len(predictions) == 1 and isinstance(predictions[0], list):
        predictions = predictions[0]
    specifics = row.get("specifics")
    own_id = first_of(specifics, OWN_IDS) if isinstance(specifics, dict) else None
    question = text_or_none(row.get("full_prompt")) or text_or_none(row.get("example"))
    own_id = None if own_id is None else id_of(own_id, "the document's id", place)
    for text in texts_of(predictions, "predictions", place):
        yield Found(place=place, id=own_id, question=question, text=text)


def _unpacked(value: Any, what: str, place: str) -> dict[str, Any]:
    """An object; lighteval falls back on writing it as text."""
    if isinstance(value, str):
        value = _literal(value, what, place)
    if not isinstance(value, dict):
        raise InputError(f"{place}: {what} is a {type(value).__name__} where an object is wanted.")
    return value


def _literal(text: str, what: str, place: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(f"{place}: {what} is a text that cannot be read as a list or an object.") from error


def verifiers(line: Line) -> Iterator[Found]:
    """A line of results.jsonl: one rollout, matched by its prompt, since ids were wrong in the versions of 2025."""
    row, place = line.row, line.place
    require(row, ["prompt", "completion"], place)
    number = first_of(row, ["example_id", "id"])
    fields = common_fields(line, ["prompt", "completion", "answer", "task", "info", "example_id", "id"])
    text, form = _reply(row["completion"], line)
    yield Found(
        place=place,
        row=number if type(number) is int else None,
        question=_asked(row["prompt"], place),
        text=text,
        form=form,
        **fields,
    )


def _reply(completion: Any, line: Line) -> tuple[str, Form]:
    if isinstance(completion, str):
        return completion, "continuation"
    replies = [_content(message, line.place) for message in _messages(completion, "completion", line.place)
               if message.get("role") == "assistant"]  # fmt: skip
    if not replies:
        raise InputError(f"{line.place}: completion has no message of the assistant.")
    if len(replies) > 1:
        line.notes["completion", "of several turns of which the last was taken"] += 1
    return replies[-1], "message"


def _asked(prompt: Any, place: str) -> str:
    if isinstance(prompt, str):
        return prompt
    asked = [
        _content(message, place) for message in _messages(prompt, "prompt", place) if message.get("role") == "user"
    ]
    if not asked:
        raise InputError(f"{place}: prompt has no message of the user.")
    return asked[-1]


def _messages(value: Any, what: str, place: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise InputError(f"{place}: {what} is neither a text nor a list of messages.")
    return value


def _content(message: dict[str, Any], place: str) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return "" if content is None else text_of(content, "content of a message", place)
