"""What papers found beside what the studies here show: `page` makes the comparison.

    python -m harness.leaderboards.findings leaderboards/studies

reads findings.yaml and the studies' boards (NAME.json) in a folder and writes its README.md. A finding has the paper's
words and its figure, one or more readings of a board, and the sign that the paper saw:

    +   rises: agrees if the whole 95% interval is above 0, disagrees if it is below
    -   falls
    0   alike: agrees if the interval lies within 2 points of 0, disagrees if it excludes 0
    no loss: agrees if the interval lies above -2 points, disagrees if it lies below 0

A reading is one number with its interval: `against` of two arms' last checkpoints (for new seeds as well as new
problems, as papers speak of methods), the `change` of a metric against the base, the `trend` from an arm's first
iteration to its last, an arm's `gap` in the same words, or the change in a difficulty `bin`. `beyond` sets one reading
against another: it agrees where the intervals are apart. Nothing is adjusted for the number of findings: these are
signs, and the boards have the evidence. Not handled: findings that no number of a board is about.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from tabulate import tabulate

from harness.errors import HarnessError, InputError, UnknownName
from harness.store import write_atomically
from harness.types import Record

from .experiment import read_report
from .experiment.format import change_text, plural
from .experiment.report import NEGLIGIBLE, ArmReport, Comparison, Number, SettingReport

Verdict = Literal["agrees", "disagrees", "undecided"]
T = TypeVar("T")


class Reading(Record, frozen=True):
    """One number of a study's board: exactly one of `against`, `change`, `trend` and `bin` says which."""

    setting: str
    arm: str
    against: str | None = None
    """Another arm."""
    evaluation: str | None = None
    """Of `against`, such as transfer; None: the test problems."""
    change: str | None = None
    """A metric, such as "test pass@16"."""
    trend: Literal["test", "gap"] | None = None
    bin: str | None = None
    """A name of `strata.EDGES`."""


class Finding(Record, frozen=True):
    """What a paper says, and where a board here says the same or not."""

    study: str
    paper: str
    """Its result in a sentence, with the figure or section."""
    reading: Reading
    sign: Literal["+", "-", "0", "no loss"]
    beyond: Reading | None = None
    """The reading is set against this one."""
    remark: str = ""
    """What a reader should know: why it does not agree, or what makes it easy here."""


def page(folder: Path) -> str:
    """The comparison as markdown.

    A study that has no board yet is named and has no row.

    Raises:
        InputError: no findings, or a reading of what a board doesn't have.
    """
    findings = _read(folder / "findings.yaml")
    rows, verdicts = [], Counter[Verdict]()
    missing = sorted({each.study for each in findings if not (folder / f"{each.study}.json").is_file()})
    for finding in findings:
        if finding.study in missing:
            continue
        number, other = _number(folder, finding, finding.reading), None
        if finding.beyond is not None:
            other = _number(folder, finding, finding.beyond)
        found = verdict(finding.sign, number, other)
        verdicts[found] += 1
        shown = change_text(number) + ("" if other is None else f", against {change_text(other)}")
        where = f"[{finding.study}]({finding.study}.md), {finding.reading.setting}"
        rows.append(
            [where, finding.paper, finding.sign, _words(finding.reading), shown, f"**{found}**", finding.remark]
        )
    headers = ["study", "the paper", "sign", "here", "points [95%]", "", "remark"]
    pending = f" Studies that are not run yet: {', '.join(missing)}." if missing else ""
    return "\n\n".join(
        [
            "# What the papers found, and what the studies here show",
            "Each row sets a finding of a paper beside the same comparison in the generated worlds, where models of "
            "1 to 3 million weights are trained on a CPU with 5 seeds (`harness ls study`). Two other worlds and much "
            "smaller models: a sign that differs says that a finding does not hold everywhere, not that it was wrong.",
            f"Of {plural(len(rows), 'finding')}: {verdicts['agrees']} agree here, {verdicts['disagrees']} disagree, "
            f"{verdicts['undecided']} are undecided.{pending}",
            tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True),
            "**+** and **-**: agrees if the whole 95% interval has this sign, disagrees if it has the other one. "
            f"**0**: agrees if it lies within {100 * NEGLIGIBLE:.0f} points of 0. **no loss**: agrees if it lies above "
            f"-{100 * NEGLIGIBLE:.0f} points. Anything else is undecided. Where two arms are compared, the interval is "
            "for new seeds and new problems; a change against the base, a trend and a bin are of these checkpoints. "
            "Nothing is adjusted for the number of rows.",
        ]
    )


def verdict(sign: str, number: Number, other: Number | None = None) -> Verdict:
    """Whether an interval has the sign, the opposite one, or leaves it open; with `other`, what it is beyond that."""
    low, high = _ends(number)
    if other is not None:
        other_low, other_high = _ends(other)
        low, high = low - other_high, high - other_low
    if sign == "-":
        low, high = -high, -low
    if sign == "0":
        within = low >= -NEGLIGIBLE and high <= NEGLIGIBLE
        return "agrees" if within else "disagrees" if low > 0 or high < 0 else "undecided"
    if high < 0:
        return "disagrees"
    return "agrees" if low > (-NEGLIGIBLE if sign == "no loss" else 0) else "undecided"


def _ends(number: Number) -> tuple[float, float]:
    if number.low is None or number.high is None:
        raise InputError("a finding rests on one problem, which has no interval: evaluate more.")
    return number.low, number.high


def _read(path: Path) -> list[Finding]:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=list[Finding])
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a folder with findings.yaml.") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a list of findings ({error}): mend it.") from error


def _number(folder: Path, finding: Finding, reading: Reading) -> Number:
    settings = {each.name: each for each in read_report(folder / f"{finding.study}.json").settings}
    setting = _named(f"setting of {finding.study}", reading.setting, settings)
    arms = {each.name: each for each in setting.arms}
    arm = _named(f"arm of {finding.study}", reading.arm, arms)
    if arm.final is None:
        raise InputError(f"{finding.study}: {arm.name} is not finished; run the sweep again, which goes on with it.")
    if reading.against is not None:
        return _compared(setting, reading, finding.study)
    if reading.change is not None:
        return _named(f"metric of {arm.name}", reading.change, arm.final.change)
    if reading.bin is not None:
        return _named(f"bin of {arm.name}", reading.bin, setting.bins.get(arm.name, {}))
    return _trend(arm, reading)


def _named(kind: str, name: str, found: dict[str, T]) -> T:
    if name not in found:
        raise UnknownName(kind, name, found)
    return found[name]


def _compared(setting: SettingReport, reading: Reading, study: str) -> Number:
    families: tuple[Comparison, ...] = (*setting.comparisons, *setting.pairs)
    if reading.evaluation is not None:
        families = _named(f"evaluation of {study}", reading.evaluation, setting.elsewhere)
    for each in families:
        for name, other, turned in ((each.arm, each.against, 1), (each.against, each.arm, -1)):
            if (name, other) == (reading.arm, reading.against):
                found = each.new_seeds or Number(
                    value=each.value, low=each.low, high=each.high, se=each.se, problems=each.problems
                )
                return found if turned > 0 else _negative(found)
    raise InputError(f"{study} has no comparison of {reading.arm} with {reading.against}: name two of its arms.")


def _negative(number: Number) -> Number:
    low, high = _ends(number)
    return msgspec.structs.replace(number, value=-number.value, low=-high, high=-low)


def _trend(arm: ArmReport, reading: Reading) -> Number:
    if arm.trend is None or reading.trend is None:
        raise InputError(f"{arm.name} has one iteration, or the reading names nothing: give against, change or bin.")
    found = arm.trend.test if reading.trend == "test" else arm.trend.gap
    if found is None:
        raise InputError(f"{arm.name} has no train/test gap: evaluate it on training problems.")
    return found


def _words(reading: Reading) -> str:
    """The reading for people."""
    if reading.against is not None:
        return f"{reading.arm} against {reading.against}, {reading.evaluation or 'test'} pass@1"
    if reading.change is not None:
        return f"{reading.arm}: {reading.change} against base"
    if reading.bin is not None:
        return f"{reading.arm}: problems of bin {reading.bin}"
    what = "test pass@1" if reading.trend == "test" else "train/test gap"
    return f"{reading.arm}: {what}, last iteration against the first"


def main(arguments: list[str]) -> int:
    """Writes README.md in the folder."""
    if len(arguments) != 1:
        print("usage: findings FOLDER", file=sys.stderr)
        return 2
    try:
        folder = Path(arguments[0])
        write_atomically(folder / "README.md", page(folder) + "\n")
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
