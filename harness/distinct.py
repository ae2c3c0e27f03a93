"""How many different correct solutions a model has of a problem, on average over problems: `distinct_correct`.

More completions show more solutions, so a bare count says little. Of n completions of a problem, m_j have the correct
solution j; a random subset of g of them has on average (rarefaction: Hurlbert 1971, Ecology 52(4), 577-586)

    D(g) = sum_j [ 1 - C(n - m_j, g) / C(n, g) ]

different correct ones. It is unbiased for what g fresh draws would show, whatever n is, so that runs of n = 16 and n =
64 can be compared at g = 16; D(1) is the share of correct completions, and D(n) the bare count.

Two programs are one solution if they differ in comments, layout or names of local variables alone (`rows/keys.py`). Two
texts are one if they have the same sums in the same order: the calculator annotations <<3+4=7>>, or, where there are
none, whatever reads like 3 + 4 = 7; without any sum, if they have the same words. Not handled: programs that do the
same by other means count as several; how likely each solution is.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from harness.errors import InputError
from harness.rewards import Graded
from harness.rows.keys import equations, key_of

_NUMBER = r"-?\d[\d.,]{0,20}"  # the bounds keep the time linear, whatever a model writes
_SUM = re.compile(rf"{_NUMBER}(?:[ \t]*[-+*/x×÷][ \t]*{_NUMBER}){{1,20}}[ \t]*=[ \t]*{_NUMBER}")


def distinct_correct(graded: Sequence[Graded], *, g: int | None = None) -> float | None:
    """The mean of `distinct_by_problem` over problems; None where no completion is graded."""
    found = list(distinct_by_problem(graded, g=g).values())
    return math.fsum(found) / len(found) if found else None


def distinct_by_problem(graded: Sequence[Graded], *, g: int | None = None) -> dict[str, float]:
    """The expected number of distinct correct solutions among g completions, by problem id.

    Args:
        graded: all completions of each problem; those that could not be graded are left out.
        g: how many completions; None: as many as every problem has that has any.

    Raises:
        InputError: a problem has fewer than g graded completions, or g is below 1.
    """
    solutions: dict[str, list[str | None]] = defaultdict(list)
    for one in graded:
        if one.verdict.passed is not None:
            solutions[one.problem.id].append(solution_key(one) if one.verdict.passed else None)
    if g is None:
        g = min(map(len, solutions.values()), default=1)
    for name, keys in solutions.items():
        if len(keys) < g:
            raise InputError(
                f"distinct solutions among {g} completions are asked for, and {name} has {len(keys)} that are graded: "
                "lower g, or sample more."
            )
    return {
        name: rarefied(list(Counter(key for key in keys if key is not None).values()), len(keys), g)
        for name, keys in sorted(solutions.items())
    }


def rarefied(counts: Sequence[int], n: int, g: int) -> float:
    """The expected number of kinds among g of n individuals, drawn without replacement.

    Args:
        counts: individuals of each kind that counts, 1 or more each; the rest of the n are of no kind.
        n: all individuals.
        g: how many are drawn, from 1 to n.

    Raises:
        InputError: g outside 1..n, or more individuals in `counts` than n.
    """
    if not 1 <= g <= n or sum(counts) > n:
        raise InputError(f"{g} of {n} completions, {sum(counts)} of them correct: g must be from 1 to n.")
    # whole numbers until the division: C(64, 32) is more than a float can hold exactly
    return math.fsum((math.comb(n, g) - math.comb(n - count, g)) / math.comb(n, g) for count in counts)


def solution_key(graded: Graded) -> str:
    """The same for two completions of a problem that are one solution."""
    if graded.completion.program:
        return key_of(graded, "program")
    text = graded.completion.text
    if equations(text):
        return key_of(graded, "equations")
    sums = "|".join("".join(found.rstrip(".,").split()) for found in _SUM.findall(text))
    return sums or " ".join(text.split())
