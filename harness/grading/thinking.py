"""Texts without what a model only thought: `after_thinking`, and `without_thinking` for a completion."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from harness.types import Completion

TAGS = ("think",)


def after_thinking(text: str, tags: Sequence[str] = TAGS) -> str:
    """The text after the last closing tag: programs and answers in a think block are no answers.

    A block that was never closed, as when `max_tokens` ran out, takes all that follows it along. An opening tag may be
    missing: chat templates put it into the prompt.
    """
    for tag in tags:
        text = text.rpartition(f"</{tag}>")[2]
        text = re.split(rf"<{re.escape(tag)}\b[^>]*>", text, maxsplit=1)[0]
    return text


def without_thinking(completion: Completion, tags: Sequence[str]) -> Completion:
    """A chat reply without its think blocks; a continuation or a program stays as it is."""
    if completion.form != "message":
        return completion
    return msgspec.structs.replace(completion, text=after_thinking(completion.text, tags))
