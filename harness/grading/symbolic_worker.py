"""The process that runs math-verify, which parses model text with sympy: JSON lines in, JSON lines out.

Started by `harness.grading.symbolic` as a script, never imported. Says {"ready": true} or {"missing": true} first, then
answers {"number", "answer", "reference", "cpu_s"} with {"number", "equal": bool} or {"number", "failed": reason}. Only
math-verify's LaTeX reader is used: its reader of plain expressions evaluates Python. Its own timeouts are off (they
need SIGALRM and return False for "don't know"): the kernel's limit on CPU seconds ends this process instead.

math-verify's own comparison of values (15 digits, anything below 1e-15 counts as 0, decimals rounded to 6 places) is
replaced by `same_value`, which it then uses for members of sets, ends of intervals, matrices and coefficients; decimals
reach it as fractions. Its dropping of units and taking of boxes out of the text are off: both are done, or refused,
before.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import sys
from typing import Any

MEMORY_BYTES = 2 << 30
DIGITS = (30, 300)
"""Decimal digits to which irrational values must agree; the few are tried first, since most pairs differ there."""
_DECIMAL = re.compile(r"([0-9]*)\.([0-9]+)|([0-9]+)\.(?![0-9])")


def main() -> None:
    """Answers requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not look like a reply
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from math_verify import LatexExtractionConfig, grader, parse, verify
        from math_verify.parser import NormalizationConfig
    except ImportError:
        print(json.dumps({"missing": True}), file=replies, flush=True)
        return
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    assert callable(grader.sympy_numeric_eq)  # if it is gone, replacing it would change nothing
    grader.sympy_numeric_eq = same_value
    solve_and_compare = grader.sympy_solve_and_compare
    grader.sympy_solve_and_compare = lambda gold, *rest: bool(  # two equations without solutions are not the same
        grader.solve(gold, gold.free_symbols) and solve_and_compare(gold, *rest)
    )
    reading = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=reading)]
    for line in sys.stdin:
        request = json.loads(line)
        _allow_cpu(request["cpu_s"])
        try:
            answer, reference = (
                parse(f"${exact_decimals(request[name])}$", config, fallback_mode="no_fallback", parsing_timeout=None)
                for name in ("answer", "reference")
            )
            # Arguments of verify are (gold, target).
            defined = all(map(_is_defined, answer + reference))
            same = defined and verify(reference, answer, timeout_seconds=None, raise_on_error=True)
            reply: dict[str, bool | str] = {"equal": bool(same)}
        except (MemoryError, RecursionError) as error:
            reply = {"failed": type(error).__name__}
        except Exception:  # whatever sympy raises on odd pairs: as mathematics they are not known to be equal
            reply = {"equal": False}
        print(json.dumps({"number": request["number"], **reply}), file=replies, flush=True)


def exact_decimals(text: str) -> str:
    """The text with its decimals as fractions: math-verify would read 15 digits of them."""

    def fraction(match: re.Match[str]) -> str:
        places = len(match[2] or "")
        return rf"\frac{{{int((match[1] or '') + (match[2] or '') or match[3])}}}{{{10**places}}}"

    return _DECIMAL.sub(fraction, text)


def same_value(a: Any, b: Any, *_: object) -> bool:
    """Whether two expressions or matrices have one value: exactly, or in `DIGITS` digits for irrational numbers.

    False also where that can't be seen so; math-verify then tries to simplify the difference to 0.
    """
    from math_verify.grader import MatrixBase

    a, b = a.doit(), b.doit()
    if isinstance(a, MatrixBase) or isinstance(b, MatrixBase):
        if not (isinstance(a, MatrixBase) and isinstance(b, MatrixBase)) or a.shape != b.shape:
            return False
        return all(map(same_value, a.flat(), b.flat()))
    if not _is_defined(a) or not _is_defined(b):
        return False
    if a == b:
        return True
    if (a.is_Rational and b.is_Rational) or not (a.is_finite and b.is_finite):
        return False
    if a.free_symbols or b.free_symbols:
        return bool((a - b).expand() == 0)
    difference = a - b
    if difference.is_Rational:
        return bool(difference == 0)
    return all(_agree(a, b, digits) for digits in DIGITS)


def _agree(a: Any, b: Any, digits: int) -> bool:
    values = a.evalf(digits + 10), b.evalf(digits + 10)
    if not all(value.is_comparable or value.is_number for value in values):
        return False
    size = max(abs(value) for value in values)
    return bool(abs(values[0] - values[1]) <= size * 10**-digits)


def _is_defined(value: Any) -> bool:
    from math_verify.grader import nan, zoo

    return not (hasattr(value, "has") and value.has(nan, zoo))


def _allow_cpu(seconds: float) -> None:
    """The kernel ends this process when it has used `seconds` more than until now, rounded up to whole seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
