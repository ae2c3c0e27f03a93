r"""Maths answers: what a text gives as its answer, whether that equals the reference, and the verdict.

`grade` is the main function. `equal` decides in this order: the canonical forms are the same text (`normalise`); both
are exact numbers, compared as fractions; else math-verify, in a process of its own with a time limit, compares them as
mathematics. There is NO tolerance: 0.333 is not 1/3 and 1.414214 is not the root of 2 (only decimals inside a longer
expression are left to math-verify, which counts 6 places). Model text is never evaluated in this process.

`50\%` equals both `50` (benchmarks write either) and `0.5`; `4210` equals `4210_5`, but `4210_6` does not.

Not handled: answers with several parts in prose; an inequality where an interval is wanted; units are ignored, so
"5 cm" equals "5 m".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.errors import InputError
from harness.grading import symbolic
from harness.grading.answer_forms import MAX_LENGTH, as_number, nesting, normalise, split_list
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
_BOX_TOKEN = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+((?:\\[a-zA-Z]+(?:\{[^{}]*\})*|[^\s$\\{}])+)")
_MINUS = "-−–"
_NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w.])(?:(?<![)\]\w])[{_MINUS}])?\\?\$?[{_MINUS}]?"
    r"(?P<digits>(?:[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)
_BASE = re.compile(r"(-?[0-9][0-9a-zA-Z]*)_\{([0-9]+)\}")
_WORD = re.compile(r"[a-zA-Z]{4,}|[0-9:.]+[ap]m", re.IGNORECASE)
_RELATION = re.compile(r"[=<>]|\\(?:le|ge)(?![a-zA-Z])")
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
    if wanted[0] == "(" and wanted[-1] == ")" and len(split_list(form)) > 1:
        form = f"({form})"  # a bare list would be read as a set, and the pair (1,2) is not (2,1)
    if form == wanted:
        return True
    return symbolic.compare(form, wanted, timeout_s=timeout_s)


def _with_name(text: str, form: str) -> str:
    """The form with the `x =` that `normalise` dropped from the text, if it did."""
    name = _NAMED.match(text)
    return f"{name[1]}={form}" if name and not _RELATION.search(form) else form


def _equal_as_text(answer: str, reference: str, form: str, wanted: str) -> bool | None:
    """Everything that needs no algebra; None if that is needed."""
    names = [match[1] for match in map(_NAMED.match, (answer, reference)) if match]
    if len(names) == 2 and names[0] != names[1]:
        return False  # the lines x = 5 and y = 5
    if form == wanted or "".join(answer.split()) == "".join(reference.split()):
        return True
    if not form or not wanted:
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
