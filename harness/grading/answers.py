r"""Maths answers: what a text gives as its answer, whether that equals the reference, and the verdict.

`grade` is the main function. `equal` decides in this order: the canonical forms are the same text (`normalise`); both
are exact numbers, compared as fractions; else math-verify, in a process of its own with a time limit, compares them as
mathematics. There is NO tolerance: 0.333 is not 1/3 and 1.414214 is not the root of 2, in a list or matrix neither.
Model text is never evaluated in this process.

`50\%` equals both `50` (benchmarks write either) and `0.5`; `4210` equals `4210_5`, but `4210_6` does not. `x = 5` and
`f(x) = 5` equal `5`; no other equation, and nothing approximate, equals a bare value. A list without brackets equals
the same list in any order, a set of as many members, and the tuple (...) in this order; else brackets must be the same,
and [...] equals only itself. A division by zero and a text with a box left in it equal nothing.

Not handled: answers with several parts in prose; an inequality where an interval is wanted; names like `AB =` or
`P(A, B) =`; known units are ignored, so "5 cm" equals "5 m", but "5 \text{ apples}" is not "5 \text{ pears}".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.errors import InputError
from harness.grading import symbolic
from harness.grading.answer_forms import (
    MAX_LENGTH,
    NAME,
    as_number,
    closes_at_end,
    nesting,
    normalise,
    other_units,
    outside_brackets,
    split_list,
)
from harness.types import Completion, Execution, Problem, Status, Verdict

__all__ = [
    "cut_run_on",
    "equal",
    "extract_after",
    "extract_boxed",
    "extract_last_number",
    "first_number",
    "grade",
    "normalise",
]

TIMEOUT_S = 5.0
MAX_NESTING = 40
"""Brackets deeper than this are compared as text only: math-verify's reader needs seconds for them."""
MAX_PARTS = 8
"""Members of an unordered list that are compared each with each; longer lists are compared as text only."""
_BOX_TOKEN = re.compile(r"(?<!\\)\\+(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+((?:\\[a-zA-Z]+(?:\{[^{}]*\})*|[^\s$\\{}])+)")
_MINUS = "-−–"
_NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w.])(?:(?<![)\]\w])[{_MINUS}])?\\?\$?[{_MINUS}]?"
    r"(?P<digits>(?:[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)
_BASE = re.compile(r"(-?[0-9][0-9a-zA-Z]*)_\{([0-9]+)\}")
_WORD = re.compile(r"[a-zA-Z]{4,}|[0-9:.]+[ap]m", re.IGNORECASE)
_RELATION = re.compile(r"[=<>]|\\(?:le|ge)(?![a-zA-Z])")
_ABOUT = re.compile(r"\\(?:approx|approxeq|sim|simeq|cong|doteq)(?![a-zA-Z])")
_BOX_LEFT = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_UNDEFINED = re.compile(r"-?(?:\\frac\{[^{}]*\}\{0+(?:\.0*)?\}|[0-9.]+/0+(?:\.0*)?)")
_SPACED_DIGITS = re.compile(r"[0-9.]\s+[0-9.]")
_ASSIGNMENT = re.compile(rf"({NAME})\s*=([^=<>]+)")
_NAMED = re.compile(r"\s*\$?\s*([a-zA-Z])\s*=(?!=)")


def grade(
    problem: Problem, completion: Completion, executions: Sequence[Execution] = (), *, timeout_s: float = TIMEOUT_S
) -> Verdict:
    """The verdict on `completion.answer`, beside `problem.answer`; `executions` is unused.

    The verdict's `answer` is for votes: equal answers in different forms form one class if they are right, because a
    right one takes the reference's form.
    """
    if problem.answer is None:
        raise InputError(f"problem {problem.id} has no answer to grade with: give it the field `answer`.")

    def verdict(passed: bool | None, status: Status, form: str | None, detail: str) -> Verdict:
        return Verdict(
            problem_id=completion.problem_id,
            index=completion.index,
            passed=passed,
            status=status,
            answer=form,
            detail=detail,
        )

    answer = completion.answer
    if answer is None or not answer.strip():
        return verdict(False, Status.wrong, None, "no answer found")
    if len(answer) > MAX_LENGTH:
        return verdict(False, Status.wrong, None, f"an answer of {len(answer)} characters is not an answer")
    try:
        same = equal(answer, problem.answer, timeout_s=timeout_s)
    except symbolic.UsedUp as used_up:  # else a policy could escape its verdict by answering 9^{9^{9^9}}
        return verdict(False, Status.timeout, normalise(answer), f"{answer[:60]!r} cannot be compared: {used_up}")
    if same is None:
        detail = f"comparing {answer[:60]!r} with {problem.answer[:60]!r} crashed or stalled twice"
        return verdict(None, Status.sandbox_error, normalise(answer), detail)
    if same:
        return verdict(True, Status.passed, normalise(problem.answer), "")
    return verdict(False, Status.wrong, normalise(answer), f"{answer[:60]!r} is not {problem.answer[:60]!r}")


def equal(answer: str, reference: str, *, timeout_s: float = TIMEOUT_S) -> bool | None:
    """Whether two answers are the same; None if the process that compares crashed or stalled twice.

    Raises `symbolic.UsedUp` if comparing takes too much time or memory, `MissingDependency` if math-verify is needed
    and not installed.
    """
    if not reference.strip() or len(reference) > MAX_LENGTH:
        raise InputError(f"the reference answer {reference[:60]!r} is empty or longer than {MAX_LENGTH} characters.")
    if not answer.strip() or len(answer) > MAX_LENGTH:
        return False
    form, wanted = normalise(answer), normalise(reference)
    decided = _equal_as_text(answer, reference, form, wanted)
    if decided is not None:
        return decided
    if _RELATION.search(form) or _RELATION.search(wanted):
        form, wanted = _with_name(answer, form), _with_name(reference, wanted)  # y - 2x = 0 is y = 2x, not 2x
        if _is_equation(form) != _is_equation(wanted):
            form, wanted = _values(form), _values(wanted)
            if _is_equation(form) != _is_equation(wanted):
                return False  # an equation and a value
    return _equal_in_parts(form, wanted, timeout_s)


def _is_equation(form: str) -> bool:
    return "=" in outside_brackets(form)


def _values(form: str) -> str:
    """`1, 2` of `x=1, x=2` and `(1,2)` of `x=1, y=2`; any other form as it is."""
    matches = [_ASSIGNMENT.fullmatch(part.strip()) for part in split_list(form)]
    found = [match for match in matches if match]
    if len(found) < len(matches):
        return form
    values = ", ".join(normalise(match[2]) for match in found)
    return f"({values})" if len({match[1] for match in found}) == len(found) > 1 else values


def _equal_in_parts(form: str, wanted: str, timeout_s: float) -> bool | None:
    """The answer of `equal` for two forms that may be lists."""
    (kind, parts), (wanted_kind, wanted_parts) = _parts(form), _parts(wanted)
    if (len(parts) < 2 and len(wanted_parts) < 2 and kind == wanted_kind) or "\\pm" in form + wanted:
        return symbolic.compare(form, wanted, timeout_s=timeout_s)
    kinds = {kind, wanted_kind}
    if len(kinds) == 2 and kinds not in ({"", "()"}, {"", "{}"}):
        return False
    if kinds == {"{}"}:
        parts, wanted_parts = list(dict.fromkeys(parts)), list(dict.fromkeys(wanted_parts))
    if len(parts) != len(wanted_parts):
        return False
    if kinds <= {"", "{}"}:
        return _equal_in_any_order(parts, wanted_parts, timeout_s)
    for part, wanted_part in zip(parts, wanted_parts, strict=True):
        same = _equal_parts(part, wanted_part, timeout_s)
        if not same:
            return same
    return True


def _equal_parts(part: str, wanted: str, timeout_s: float) -> bool | None:
    decided = _equal_as_text(part, wanted, part, wanted)
    return _equal_in_parts(part, wanted, timeout_s) if decided is None else decided


def _equal_in_any_order(parts: list[str], wanted: list[str], timeout_s: float) -> bool | None:
    """Whether the parts can be paired off."""
    left = list(wanted)
    unpaired = []
    for part in parts:
        if part in left:
            left.remove(part)
        else:
            unpaired.append(part)
    if len(unpaired) > MAX_PARTS:
        return False
    for part in unpaired:
        for place, other in enumerate(left):
            same = _equal_parts(part, other, timeout_s / len(unpaired))
            if same is None:
                return None
            if same:
                del left[place]
                break
        else:
            return False
    return True


def _parts(form: str) -> tuple[str, list[str]]:
    """The outer brackets of a form (none for a single value, too) and the parts between its commas."""
    opening = 2 if form.startswith("\\{") else 1
    if form[opening - 1 : opening] in ("(", "[", "{") and closes_at_end(form, opening - 1):
        closing = 2 if form.endswith("\\}") else 1
        parts = split_list(form[opening:-closing])
        brackets = form[opening - 1] + form[-1]
        if len(parts) > 1 or (form.startswith("\\{") and parts[0].strip()):
            return brackets, [normalise(part) for part in parts]
    return "", [part.strip() for part in split_list(form)]


def _with_name(text: str, form: str) -> str:
    """The form with the `x =` that `normalise` dropped from the text, if it did."""
    name = _NAMED.match(text)
    return f"{name[1]}={form}" if name and not _RELATION.search(form) else form


def _equal_as_text(answer: str, reference: str, form: str, wanted: str) -> bool | None:
    """Everything that needs no algebra; None if that is needed."""
    names = [match[1] for match in map(_NAMED.match, (answer, reference)) if match]
    if len(names) == 2 and names[0] != names[1]:
        return False  # the lines x = 5 and y = 5
    if _UNDEFINED.fullmatch(form) or _UNDEFINED.fullmatch(wanted):
        return False
    if other_units(answer, reference):
        return False
    if form == wanted or answer.strip() == reference.strip():
        return True
    if answer.count(",") > 1 and re.sub(r",\s+", ",", answer.strip()) == re.sub(r",\s+", ",", reference.strip()):
        return True  # 100,200,300 may well be a list
    if not form or not wanted:
        return False
    if any(pattern.search(text) for pattern in (_ABOUT, _BOX_LEFT, _SPACED_DIGITS) for text in (form, wanted)):
        return False
    value, target = as_number(form), as_number(wanted)
    if value is not None and target is not None:
        scale, target_scale = _percent(answer), _percent(reference)
        return scale != target_scale and value * target_scale == target * scale
    base, wanted_base = _BASE.fullmatch(form), _BASE.fullmatch(wanted)
    if base or wanted_base:
        both = base is not None and wanted_base is not None
        return not both and (base[1] if base else form) == (wanted_base[1] if wanted_base else wanted)
    if _WORD.fullmatch(form) or _WORD.fullmatch(wanted) or len(form) == len(wanted) == 1:
        return False  # as algebra, "listen" and "silent" are one product of letters
    if max(nesting(form), nesting(wanted)) > MAX_NESTING:
        return False
    return None


def _percent(text: str) -> int:
    """100 for a percentage, which is worth so many times less than its digits; else 1."""
    return 100 if re.search(r"%|\bpercent\b", text) else 1


def extract_boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{...}` or `\fbox{...}` whose braces close, or after a bare `\boxed 5`."""
    last, last_end, opened = None, -1, []  # (where its content starts, whether it is a box)
    for token in _BOX_TOKEN.finditer(text):
        if token[0].endswith("{") and token[0] != "\\{":
            opened.append((token.end(), len(token[0]) > 1))
        elif token[0] == "}" and opened:
            start, box = opened.pop()
            if box:
                last, last_end = text[start : token.start()].strip(), token.end()
    for bare in _BARE_BOX.finditer(text, max(last_end, 0)):
        last = bare[1].rstrip(".,;:")
    return last or None


def extract_after(text: str, marker: re.Pattern[str]) -> str | None:
    """The rest of the line after the last match of `marker`, or the next line that is not blank if there is no rest."""
    last = None
    for last in marker.finditer(text):  # noqa: B007  the last one is wanted
        pass
    return rest_of_line(text, last.end()) if last else None


def rest_of_line(text: str, start: int) -> str | None:
    """From `start` to the end of its line, or the next line that is not blank if nothing is left of that one."""
    match = re.compile(r"[\s*_:]*([^\n]*)").match(text, start)
    return (match[1].strip().strip("*_").strip() or None) if match else None


def extract_last_number(text: str) -> str | None:
    """The last number of a text, with its sign and without commas; annotations like <<3+4=7>> are skipped."""
    last = None
    for last in _NUMBER_IN_TEXT.finditer(re.sub(r"<<[^<>\n]*>>", "", text)):  # noqa: B007
        pass
    return _plain(last) if last else None


def first_number(text: str) -> str | None:
    """The first number of a text, likewise."""
    match = _NUMBER_IN_TEXT.search(text)
    return _plain(match) if match else None


def _plain(match: re.Match[str]) -> str:
    signs = match[0][: match.start("digits") - match.start()]
    return ("-" if any(sign in signs for sign in _MINUS) else "") + match["digits"].replace(",", "")


def cut_run_on(text: str, marker: re.Pattern[str]) -> str:
    """The text before the first match of `marker` with something before it: base models go on to a next problem."""
    for match in marker.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text
