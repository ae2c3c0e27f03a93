"""What of a chat reply is read for an answer."""

import pytest

from harness.grading.thinking import after_thinking, without_thinking
from harness.types import Completion


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("42", "42"),
        ("<think>41? no</think>42", "42"),
        ("41? no</think>42", "42"),  # the template ended with the opening tag
        ("<think>a</think>41<think>b</think>42", "42"),
        ("<think>41, wait", ""),  # cut off by max_tokens
        ("<think>a</think>42<think>41, wait", "42"),
        ("so 41 <think>no", "so 41 "),
        ('<think mode="long">41</think>42', "42"),
        ("<thinking>41</thinking>", "<thinking>41</thinking>"),  # another tag
        ("", ""),
    ],
)
def test_only_what_is_outside_of_think_blocks_counts(text: str, visible: str) -> None:
    assert after_thinking(text) == visible


def test_tags_are_the_users_and_only_messages_are_cut() -> None:
    text = "<reason>41</reason>42 <think>x</think>"
    message = Completion(problem_id="p", index=0, text=text, form="message")
    assert without_thinking(message, ("reason",)).text == "42 <think>x</think>"
    assert without_thinking(message, ()).text == text
    for form in ("continuation", "program"):
        assert without_thinking(Completion(problem_id="p", index=0, text=text, form=form), ("reason",)).text == text
