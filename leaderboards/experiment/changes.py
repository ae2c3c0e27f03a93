"""What each arm of a sweep changed: exactly the fields that differ. Main function: `changes_of`.

A control, or an arm that starts from another one, stands against that arm; every other treatment against the first.
Fields that have no effect are left out: `select` and `improve` of a treatment that trains on its own samples. Not
handled: what a default of the package has become since (trials say all that they were run with).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from harness.trials import Trial

from .read import Arm, Setting

UNUSED = ("treatment.name", "treatment.paper", "control", "seed")
"""Names and words, not settings."""
NONE = "-"


def changes_of(setting: Setting) -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """For each arm but the reference itself: its name, what it stands against, and (field, before, after)."""
    begun = {arm.name: trial for arm in setting.arms if (trial := trial_of(arm))}
    treatments = [arm.name for arm in setting.arms if arm.control is None and arm.name in begun]
    for arm in setting.arms:
        origin = arm.of if arm.of in begun else next((name for name in treatments if name != arm.name), None)
        if arm.of not in begun and treatments[:1] == [arm.name]:
            continue  # the others stand against this one
        if arm.name in begun and origin is not None:
            yield arm.name, origin, differences(begun[origin], begun[arm.name])


def trial_of(arm: Arm) -> Trial | None:
    """What an arm was run with."""
    return next((attempt.trial for attempt in arm.attempts if attempt.trial), None)


def differences(before: Trial, after: Trial) -> list[tuple[str, str, str]]:
    """The fields in which two trials differ, with both values in words."""
    unused = list(UNUSED)
    if before.treatment.on_policy or after.treatment.on_policy:
        unused += ["treatment.select", "treatment.improve"]
    found = _differences(before, after, "")
    return [
        (path.removeprefix("treatment."), shown(old), shown(new))
        for path, old, new in found
        if not any(path == name or path.startswith(f"{name}.") for name in unused)
    ]


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if before == after:
        return
    old, new = _fields(before), _fields(after)
    if old is None or new is None or type(before) is not type(after):
        yield path, before, after
        return
    for name in dict.fromkeys([*old, *new]):
        yield from _differences(old.get(name, NONE), new.get(name, NONE), f"{path}.{name}" if path else str(name))


def _fields(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return value if isinstance(value, Mapping) else None


def shown(value: Any) -> str:
    """A setting for people: none, a word or a number, or the settings inside that are not the defaults."""
    plain = msgspec.to_builtins(value)  # a struct leaves its defaults out
    if plain is None:
        return "none"
    if isinstance(plain, dict):
        return ", ".join(f"{name} {shown(inner)}" for name, inner in plain.items()) or "defaults"
    return plain if isinstance(plain, str) else json.dumps(plain)
