"""Sentences of a sweep's report: what each arm did, how far the evidence goes, what it cost. Main function: `sentence`.

A sentence says no more than its comparison: a rise or a fall needs Holm's p below 0.05, "no effect" an interval within
2 points, and everything else is undecided and says what would have been found. Not handled: tables
(`tables.py`) and warnings (`warnings.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from .format import change_text, count_text, listed, p_text, plural, points
from .report import NEGLIGIBLE, ArmReport, Comparison, Number, SettingReport, Stage
from .values import BASE

PLACEBOS = ("random_reward", "matched_reward", "wrong_label", "format_only", "no_verification", "frozen")
"""Controls that take out what a treatment is for; the others change something else, and may well work."""
CLAIM = 5
"""Seeds from which a claim about a method can be made (three are a pilot)."""
MATCHED = 1.1
"""Ratio of tokens up to which arms count as compute-matched."""


def sentence(arm: ArmReport, setting: SettingReport) -> str:
    """The summary of one arm by its last checkpoint."""
    head = f"**{arm.name}**{_role(arm)}: "
    if arm.final is None:
        return head + progress(arm)
    if not compared(setting, arm.name):
        return f"{head}it has fewer than two problems in common with the base, and is compared with nothing."
    parts = []
    for each in compared(setting, arm.name):
        where = f"on {setting.test} pass@1 against base" if each.against == BASE else f"against {_other(each, setting)}"
        unit = " pp" if each.against == BASE else ""
        parts.append(f"{_change(each)[0]}{unit} {_change(each)[1]} {where}, Holm p {_equals(each.p_holm)}")
    parts += [f"{name} {change_text(arm.final.change.get(f'{name} pass@1'))}" for name in setting.others]
    if arm.final.gap is not None:
        parts.append(
            f"gap {points(arm.final.gap.value)} (difference in differences {change_text(arm.final.gap_change)})"
        )
    late = "" if set(arm.progress.values()) == {arm.iterations} and not arm.failures else f" {progress(arm)}"
    return f"{head}{'; '.join(parts)}. {_verdict(arm, setting)}{late}"


def compared(setting: SettingReport, arm: str) -> list[Comparison]:
    """What an arm was compared with, the base first."""
    return [each for each in setting.comparisons if each.arm == arm]


def _role(arm: ArmReport) -> str:
    if arm.control is None:
        return ""
    kind = "placebo" if arm.control in PLACEBOS else "control"
    return f" ({kind}: {arm.control} in {arm.of})" if arm.of else f" ({kind}: {arm.control})"


def _other(each: Comparison, setting: SettingReport) -> str:
    """`its placebo (random reward)`."""
    other = next((arm for arm in setting.arms if arm.name == each.against), None)
    if other is None or other.control is None:
        return each.against
    whose = "its" if other.of == each.arm else "the"
    return f"{whose} {'placebo' if other.control in PLACEBOS else 'control'} ({other.name})"


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _change(each: Comparison) -> tuple[str, str]:
    return points(each.value), f"[{points(each.low)}, {points(each.high)}]"


def _verdict(arm: ArmReport, setting: SettingReport) -> str:
    """What may be said, in words."""
    [base, *others] = compared(setting, arm.name)
    if arm.control in PLACEBOS:
        if base.effect == "higher":
            return "This placebo raised the score: a rise of its size is no sign that a reward was learnt from."
        if base.effect == "lower":
            return "This placebo lowered the score: a treatment has to beat the base, not only this."
        return f"No rise is shown, as should be; the interval leaves out rises of more than {points(base.high)[1:]} pp."
    if base.effect == "lower":
        return "It made the model worse."
    if base.effect == "none":
        return f"No effect: the interval leaves out changes of more than {100 * NEGLIGIBLE:.0f} pp."
    if base.effect == "undecided":
        found = f"{100 * base.detectable:.1f} pp or more would have been found in 80% of cases"
        return f"Undecided: {found}."
    return _beyond(arm, others)


def _beyond(arm: ArmReport, others: list[Comparison]) -> str:
    """Of an arm that has raised the score: whether its controls have not."""
    missing = [name for name in arm.against if name not in {each.against for each in others}]
    short = [each.against for each in others if each.effect != "higher"]
    if missing:
        return f"It raised the score; {listed(missing)} has no result to compare with yet."
    if short:
        return f"It raised the score, but is not shown to be better than {listed(short)}."
    if not others:
        return "It helped; there is no control to say what helped."
    return f"It helped, and by more than {listed(each.against for each in others)}."


def progress(arm: ArmReport) -> str:
    """Which seeds have failed, and how far the unfinished ones are."""
    parts = [f"seed {seed} failed: {error.rstrip('.')}" for seed, error in arm.failures.items()]
    for seed, done in arm.progress.items():
        if seed not in arm.failures and done != arm.iterations:
            state = "not begun" if arm.iterations is None else f"iteration {done} of {arm.iterations}"
            parts.append(f"seed {seed} {'' if arm.iterations is None else 'is at '}{state}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if parts else ""


def trend(arm: ArmReport, setting: SettingReport) -> str | None:
    """What more iterations did, for an arm that has several."""
    if arm.trend is None:
        return None
    found = arm.trend
    words = f"pass@1 on {setting.test} {change_text(found.test)} pp ({_direction(found.test)})"
    if found.gap is not None:
        words += f", train/test gap {change_text(found.gap)} pp ({_direction(found.gap)})"
    return f"**{arm.name}**, from iteration {found.first} to {found.last}: {words}."


def _direction(number: Number) -> str:
    if number.low is None or number.high is None:
        return "undecided"
    if number.low > 0:
        return "grows"
    if number.high < 0:
        return "falls"
    return "flat" if max(-number.low, number.high) <= NEGLIGIBLE else "undecided"


def scope(setting: SettingReport, seeds: int) -> str:
    """How far this evidence goes: what so many seeds can show."""
    spread = [
        (max(arm.seed_changes.values()) - min(arm.seed_changes.values()), arm) for arm in setting.arms if arm.seed_sd
    ]
    text = ""
    if spread:
        widest, arm = max(spread, key=lambda pair: pair[0])
        each = listed(points(value) for value in arm.seed_changes.values())
        text = f" The seeds of one arm differ by up to {100 * widest:.1f} pp ({arm.name}: {each} against base)."
    if seeds == 1:
        return (
            "1 seed cannot show that a method works: nothing is known of the luck of a training run. The intervals "
            f"speak of these checkpoints, on problems like these. At least {CLAIM} seeds are needed for such a claim."
        )
    if seeds < CLAIM:
        return (
            f"{seeds} seeds cannot show that a method works in general: the intervals speak of these checkpoints, on "
            f"problems like these.{text} *For new seeds* (below) has a rough interval for the method: it takes "
            f"at least {CLAIM} seeds to know how far they spread."
        )
    return (
        f"{seeds} seeds: *for new seeds* has the interval of the method, for new training seeds and new problems; the "
        f"other intervals speak of these checkpoints.{text}"
    )


def tokens(stage: Stage | None) -> float | None:
    """Sampled and trained tokens of an arm so far."""
    if stage is None or stage.sampled_tokens is None or stage.trained_tokens is None:
        return None
    return stage.sampled_tokens + stage.trained_tokens


def compute(setting: SettingReport) -> Iterator[str]:
    """Whether the arms had the same budget."""
    spent = {arm.name: used for arm in setting.arms if arm.final and (used := tokens(arm.final))}
    missing = [arm.name for arm in setting.arms if arm.final and arm.name not in spent]
    if missing:
        yield f"Tokens were not counted for {listed(missing)}."
    treatments = {arm.name: spent[arm.name] for arm in setting.arms if arm.name in spent and arm.control is None}
    if len(treatments) > 1:
        least, most = min(treatments, key=lambda n: treatments[n]), max(treatments, key=lambda n: treatments[n])
        ratio = treatments[most] / treatments[least]
        if ratio <= MATCHED:
            yield f"The {plural(len(treatments), 'treatment')} are compute-matched: {ratio:.2f} times at most."
        else:
            yield (
                f"The treatments are not compute-matched: {least} used {count_text(treatments[least])} sampled and "
                f"trained tokens, {most} {count_text(treatments[most])}, {ratio:.1f} times as many."
            )
    for arm in setting.arms:
        for other in arm.against:
            if arm.name in spent and other in spent and arm.control is None:
                ratio = spent[other] / spent[arm.name]
                if not 1 / MATCHED <= ratio <= MATCHED:
                    yield f"{other} used {ratio:.2f} times the tokens of {arm.name}, with which it is compared."
