"""Does a fresh run of a sweep agree with a committed one? `agrees` compares two report.json; CI runs it.

    python -m harness.leaderboards.experiment.agrees leaderboards/demo.json fresh/report.json

Two numbers agree if their 95% intervals overlap. That is lenient on purpose: a report has hundreds of numbers, and
another machine rounds otherwise, so that a trained model differs a little. Only last checkpoints are compared. An arm
that is missing, failed or unfinished in the fresh run disagrees, and so does a conclusion that is turned round (a rise
that is now a fall). Not handled: costs and seconds, which have no interval.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from harness.errors import HarnessError

from . import read_report
from .format import change_text, level_text
from .report import Number, SettingReport, Stage

OPPOSITE = {"higher": "lower", "lower": "higher"}


def agrees(committed: Path, fresh: Path) -> list[str]:
    """A sentence for each number of a last checkpoint, or conclusion, in which two reports disagree."""
    before, after = read_report(committed), read_report(fresh)
    now = {setting.name: setting for setting in after.settings}
    found: list[str] = []
    for setting in before.settings:
        if setting.name not in now:
            found.append(f"{setting.name}: the fresh run doesn't have this setting.")
        else:
            found += _setting(setting, now[setting.name])
    return found


def _setting(before: SettingReport, after: SettingReport) -> Iterator[str]:
    if before.base is not None:
        yield from _stages(f"{before.name}, base", before.base, after.base)
    now = {arm.name: arm for arm in after.arms}
    for arm in before.arms:
        if arm.final is not None:
            final = now[arm.name].final if arm.name in now else None
            yield from _stages(f"{before.name}, {arm.name}", arm.final, final)
    conclusions = {(each.arm, each.against): each for each in after.comparisons}
    for old in before.comparisons:
        new = conclusions.get((old.arm, old.against))
        if new is not None and new.effect == OPPOSITE.get(old.effect):
            yield f"{before.name}: {old.arm} against {old.against} was {old.effect} and is {new.effect}."


def _stages(where: str, before: Stage, after: Stage | None) -> Iterator[str]:
    if after is None:
        yield f"{where}: the fresh run has no last checkpoint."
        return
    now = dict(_numbers(after))
    for name, old in _numbers(before):
        if name not in now:
            yield f"{where}: the fresh run has no {name}."
        elif apart(old, now[name]):
            text = level_text if name in before.scores else change_text
            yield f"{where}: {name} was {text(old)} and is {text(now[name])}."


def _numbers(stage: Stage) -> Iterator[tuple[str, Number]]:
    yield from stage.scores.items()
    yield from ((f"change of {metric}", number) for metric, number in stage.change.items())
    if stage.gap is not None:
        yield "gap", stage.gap
    if stage.gap_change is not None:
        yield "change of the gap", stage.gap_change


def apart(one: Number, other: Number) -> bool:
    """Whether two intervals have nothing in common; a number without one is its own interval."""
    low, high = ((end if end is not None else one.value) for end in (one.low, one.high))
    other_low, other_high = ((end if end is not None else other.value) for end in (other.low, other.high))
    return low > other_high or other_low > high


def main(arguments: list[str]) -> int:
    """Prints what disagrees; the status is 1 if anything does."""
    if len(arguments) != 2:
        print("usage: experiment.agrees COMMITTED.json FRESH.json", file=sys.stderr)
        return 2
    try:
        found = agrees(*map(Path, arguments))
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    print("\n".join(found) or "The fresh run agrees.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
