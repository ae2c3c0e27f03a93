"""Which isolation tiers hold on this machine? `examine` opens each, which tries an escape for each promise of its.

`languages` says for which programming languages there is a toolchain; whether it works is tried when it is first used.
Not handled: what no tier promises (README).
"""

from __future__ import annotations

from harness.errors import SandboxUnavailable
from harness.sandbox import language, open_sandbox
from harness.sandbox.tiers import COMMON, NATIVE, PROMISES


def examine() -> dict[str, str]:
    """What is wrong with each tier, best first; an empty text for one that keeps all of its promises here."""
    found = {}
    for tier in PROMISES:
        try:
            open_sandbox(workers=1, tier=tier).close()
            found[tier] = ""
        except SandboxUnavailable as error:
            found[tier] = str(error)
    return found


def promises() -> str:
    """What each tier promises, as a table in markdown."""
    rows = [f"| every tier | {', '.join(COMMON)} |"]
    for tier, promised in PROMISES.items():
        rows.append(f"| `{tier}` also | {', '.join(name for name in promised if name not in COMMON)} |")
    return "\n".join(["| tier | promises |", "|---|---|", *rows])


def describe(found: dict[str, str]) -> str:
    """A table of tiers and promises, then what is wrong where something is."""
    promises = list(dict.fromkeys(promise for tier in PROMISES for promise in PROMISES[tier]))
    width = max(map(len, promises))
    lines = ["".ljust(width) + "".join(f"  {tier:10}" for tier in found)]
    for promise in promises:
        lines.append(promise.ljust(width) + "".join(f"  {_cell(tier, promise, found[tier]):10}" for tier in found))
    lines = [line.rstrip() for line in lines]
    lines += [f"{tier} cannot be used here: {what}" for tier, what in found.items() if what]
    best = next((tier for tier in NATIVE if not found[tier]), None)
    other = "No program can be run here." if found["docker"] else "Programs are run only if you ask: --sandbox docker."
    lines.append(f"Programs are run in {best}." if best else other)
    return "\n".join(lines)


def languages() -> str:
    """What this machine has for each language, one line for each."""
    found = language.here()
    width = max(map(len, found))
    lines = [f"{name.ljust(width)}  {what}" for name, what in found.items()]
    return "\n".join([*lines, f"Programs that are not Python are run in {language.TIER} only."])


def _cell(tier: str, promise: str, wrong: str) -> str:
    if promise not in PROMISES[tier]:
        return "-"
    if wrong:
        return "BROKEN" if promise.replace(" ", "_") in wrong else "not here"
    return "holds"
