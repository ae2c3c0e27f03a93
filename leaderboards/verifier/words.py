"""Sentences of a verifier report: what each selector is worth, and what pressure does to a score.

A sentence says no more than its interval: one that contains 0 is "cannot be told apart". Main functions: `selector`,
`headline`, `pressure`, `submitted`, `pruned`. Not handled: tables (`tables.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.results import percent
from harness.selectable import MEAN_LOGPROB

from ..experiment.format import change_text, level_text, listed, plural, points
from ..experiment.report import Number
from .report import ONE, Chosen, Gain, Kept, Part, Pressure, Pruned, Selector, Several, Submitted

SUITE_RULES = {"codet": "CodeT", "b4": "B4", "mbr_exec": "MBR-exec", "max_pass": "MaxPass"}
SUITES = {"generated": "generated tests", "inputs": "the tests' inputs", "examples": "the examples"}
SIGNIFICANT = 0.05
ROUGH = 30
"""Problems to choose in below which the interval of a share of the gain is too narrow (coverage is 92% at 30)."""


def parts_of(name: str) -> tuple[str, str | None]:
    """`best[lever]` to rule and argument."""
    rule, bracket, rest = name.partition("[")
    return rule, rest.removesuffix("]") if bracket else None


def title(name: str, k: int | str = "k") -> str:
    """A selector in words: `best-of-8 by lever`, `majority of 8`."""
    rule, argument = parts_of(name)
    of = SUITES.get(argument or "", _score(argument or ""))
    if name == ONE:
        return ONE
    if rule == "maj":
        return f"majority of {k}" + (f" by results on {of}" if argument else "")
    if rule == "best":
        return f"best-of-{k} by {of}"
    if rule == "vote":
        return f"vote of {k} weighted by {of}"
    if rule == "lever":
        return f"LEVER of {k} with {of}"
    if rule in SUITE_RULES:
        return f"{SUITE_RULES[rule]} of {k} on {of}"
    return name if k == "k" else name.replace(rule, f"{rule}@{k}", 1)


def _score(argument: str) -> str:
    return {MEAN_LOGPROB: "mean log-probability", "logprob": "summed log-probability"}.get(argument, argument)


def label(name: str) -> str:
    """A selector in a figure, where there is little room: `best by lever`, `CodeT, generated`."""
    rule, argument = parts_of(name)
    words = {"maj": "majority", "lever": "LEVER", **SUITE_RULES}.get(rule, rule)
    if argument is None:
        return words
    return f"{words} by {argument}" if rule in ("best", "vote") else f"{words}, {argument}"


def baseline(name: str) -> str:
    """A baseline in words."""
    rule, argument = parts_of(name)
    if rule == "maj":
        return f"majority ({argument})" if argument else "majority"
    return _score(argument or name) if rule == "best" else title(name)


def headline(part: Part) -> str:
    """What there is to choose from, and what the best rule makes of it."""
    k = part.ks[-1]
    head = (
        f"pass@1 is {level_text(part.one)} %, pass@{k} (the ceiling of every selector) {level_text(part.ceiling[k])} %"
    )
    if not part.selectors:
        return f"{head}. There is nothing to choose by."
    some = f"{part.mixed} of the {part.problems} problems have right and wrong completions to choose from"
    return f"{head}; {some}. Selectors at k = {k}, best first:"


def ordered(part: Part) -> list[Selector]:
    """Selectors by what they score at the largest k, best first."""
    return sorted(part.selectors, key=lambda each: -each.levels[part.ks[-1]].value)


def selector(each: Selector, part: Part) -> str:
    """`best-of-8 by lever: 61.2 % [..]; +4.1 [+2.0, +6.2] over majority; ...`."""
    k = part.ks[-1]
    said = [f"**{title(each.name, k)}**: {level_text(each.levels[k])} %"]
    said += against([gain for gain in part.gains if gain.selector == each.name])
    share = each.captured[k]
    if share is not None:
        said.append(f"captures {share_text(share)} of the way from pass@1 to pass@{k}")
    if each.fall is not None and each.best_k != 1:  # below pass@1 says it already
        said.append(f"**falls from k = {each.best_k} on**, by {change_text(each.fall)}")
    return "; ".join(said) + "."


def against(gains: Sequence[Gain]) -> list[str]:
    """Comparisons in words, the better ones first, those that show nothing joined."""
    over = [f"{_change(gain)} over {baseline(gain.against)}{_doubt(gain)}" for gain in gains if gain.low > 0]
    worse = [
        f"**worse than {baseline(gain.against)}**, {_change(gain)}{_doubt(gain)}" for gain in gains if gain.high < 0
    ]
    unclear = [f"{baseline(gain.against)} ({_change(gain)})" for gain in gains if gain.low <= 0 <= gain.high]
    return [*over, *worse, *([f"cannot be told apart from {listed(unclear)}"] if unclear else [])]


def _doubt(gain: Gain) -> str:
    """Of a difference whose own interval leaves out 0, and that is one of many."""
    return f" (but Holm p {gain.p_holm:.2g})" if gain.p_holm >= SIGNIFICANT else ""


def _change(gain: Gain) -> str:
    return f"{points(gain.value)} [{points(gain.low)}, {points(gain.high)}]"


def share_text(number: Number) -> str:
    """`48 % [40, 56]`."""
    interval = (
        "" if number.low is None or number.high is None else f" [{100 * number.low:.0f}, {100 * number.high:.0f}]"
    )
    return f"{round(100 * number.value) + 0:d} %{interval}"


def pressure(each: Pressure) -> str:
    """What happens to the chosen as k grows."""
    first, last = each.chosen[0], each.chosen[-1]
    name = f"**{_score(each.score)}**"
    if first.gap is not None and last.gap is not None:
        said = f"{name} {_claim(first, 'a random completion')}; {_claim(last, f'the chosen of {last.k}')}."
    elif last.rise is None:
        said = f"{name} gives all completions of a problem the same score: it chooses nothing."
    else:
        said = (
            f"{name}: from k = {first.k} to {last.k} the score of the chosen rises by {last.rise:.1f} standard "
            f"deviations; its success rate goes from {percent(first.right.value, 1)} to "
            f"{percent(last.right.value, 1)} %."
        )
    if each.fall is None:
        return said
    return (
        f"{said} **The score rises while the success rate falls from k = {each.best_k} on**: "
        f"{change_text(each.fall)} by k = {last.k}."
    )


def _claim(chosen: Chosen, what: str) -> str:
    assert chosen.gap is not None
    value, low, high = chosen.gap.value, chosen.gap.low, chosen.gap.high
    assert low is not None
    assert high is not None
    verdict = "too much" if low > 0 else "too little" if high < 0 else "right within noise"
    return (
        f"says {percent(chosen.score, 1)} % of {what}, of which {percent(chosen.right.value, 1)} % are right "
        f"({verdict}: {points(value)} [{points(low)}, {points(high)}])"
    )


def filtered(each: Several) -> str:
    """What is done to choose several submissions."""
    passing, nothing = "all", ""
    if each.accepted is not None:
        passing, nothing = (
            f"those that pass {SUITES[each.accepted]}, where a problem has any,",
            "; where none passes, nothing is submitted",
        )
    return (
        f"Of k programs {passing} are clustered by their results on {SUITES[each.suite]}, and one of each of the n "
        f"largest clusters is submitted{nothing}. A problem is solved if any submission is right (AlphaCode's n@k)."
    )


def submitted(each: Submitted) -> str:
    """`10 submissions of 100: 55.1 [..] % solved; +8.2 [..] over 10 random ones (pass@10).`"""
    k = max(each.solved)
    random = f"{'a random one' if each.n == 1 else f'{each.n} random ones'} (pass@{each.n})"
    gain = f"cannot be told apart from {random} ({change_text(each.gain)})"
    if _side(each.gain) > 0:
        gain = f"{change_text(each.gain)} over {random}"
    if _side(each.gain) < 0:
        gain = f"**worse than {random}**, {change_text(each.gain)}"
    return f"**{plural(each.n, 'submission')} of {k}**: {level_text(each.solved[k])} % solved; {gain}."


def pruned(each: Pruned) -> str:
    """How few programs need to be run, and the CPU seconds that saves."""
    every, half = each.kept[:2]
    found = next(one for one in each.kept if one.keep == each.enough)
    name, best = f"**{_score(each.score)}**", "running only the best {} of {}"
    if found.change is None:
        return (
            f"{name}: {best.format(half.keep, each.k)} is already worse than running all, {change_text(half.change)}."
        )
    best = best.format(found.keep, each.k) if found.keep > 1 else f"taking the best of {each.k} and running none"
    like = "is better than" if _side(found.change) > 0 else "cannot be told apart from"
    return f"{name}: {best} {like} running all ({change_text(found.change)}); {_saved(every.cpu_s, found)}."


def _saved(every: float | None, found: Kept) -> str:
    if every is None or found.cpu_s is None:
        return "what that saves is not known, as CPU seconds were not measured"
    if found.keep == 1:
        return f"it saves the {seconds_text(every)} CPU seconds that the tests of a problem take"
    share = f" ({100 * (1 - found.cpu_s / every):.1f} % less)" if every else ""
    return f"it takes {seconds_text(found.cpu_s)} CPU seconds a problem instead of {seconds_text(every)}{share}"


def seconds_text(seconds: float | None) -> str:
    """Three digits, as a program may take milliseconds and all of them minutes: `0.00814`, `1.59`, `152`."""
    if seconds is None:
        return "-"
    return f"{seconds:.3g}" if seconds < 1000 else f"{seconds:.0f}"


def _side(change: Number) -> int:
    """1: above 0 beyond noise, -1: below, 0: cannot be told."""
    assert change.low is not None
    assert change.high is not None
    return int(change.low > 0) - int(change.high < 0)
