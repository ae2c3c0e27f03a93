"""Which isolation tiers hold on this machine? `examine` opens each, which tries an escape for each promise of its.

Not handled: what no tier promises (README).
"""

from __future__ import annotations

from harness.errors import SandboxUnavailable
from harness.sandbox import open_sandbox
from harness.sandbox.tiers import PROMISES


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


def describe(found: dict[str, str]) -> str:
    """A table of tiers and promises, then what is wrong where something is."""
    promises = list(dict.fromkeys(promise for tier in PROMISES for promise in PROMISES[tier]))
    width = max(map(len, promises))
    lines = ["".ljust(width) + "".join(f"  {tier:10}" for tier in found)]
    for promise in promises:
        lines.append(promise.ljust(width) + "".join(f"  {_cell(tier, promise, found[tier]):10}" for tier in found))
    lines = [line.rstrip() for line in lines]
    lines += [f"{tier} cannot be used here: {what}" for tier, what in found.items() if what]
    best = next((tier for tier, what in found.items() if not what), None)
    lines.append(f"Programs are run in {best}." if best else "No program can be run here.")
    return "\n".join(lines)


def _cell(tier: str, promise: str, wrong: str) -> str:
    if promise not in PROMISES[tier]:
        return "-"
    if wrong:
        return "BROKEN" if promise.replace(" ", "_") in wrong else "not here"
    return "holds"
