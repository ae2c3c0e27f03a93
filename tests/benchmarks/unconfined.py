"""Our judge and zygote with nothing that isolates: what isolation costs is the difference. For benchmarks only.

Main function: `main`, in place of both processes' own; `open_unconfined` makes a sandbox of such workers. The parent,
the protocol, the judge, the fork per program and its limits of CPU time are the same code; left out are namespaces,
Landlock, the system-call filter, the dropped rights and the other resource limits.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the two processes see the standard library and the sandbox's own modules only
    from harness.sandbox.pool import Pool


def open_unconfined(*, workers: int) -> Pool:
    """A sandbox that promises nothing. It changes this process's copy of the package: use it for nothing else."""
    from harness.sandbox import tiers, worker
    from harness.sandbox.pool import Pool
    from harness.types import Limits

    worker.BOOT = f"import sys\nsys.path.append({os.path.dirname(os.path.abspath(__file__))!r})\n{worker.BOOT}"
    tiers.PROMISES["none"] = {}
    tier = tiers.Tier("none", judge="unconfined", zygote="unconfined")
    return Pool(tier, Limits(), workers=workers, all_tests=False)


def main() -> None:
    """The judge's or the zygote's process."""
    from harness.sandbox import lockdown, seccomp

    lockdown.prepare = lambda *_, **__: None  # type: ignore[assignment, return-value]
    lockdown.confine = lambda _: None
    lockdown.lower_limit = lambda *_: None
    seccomp.Filter.install = lambda _: None  # type: ignore[method-assign]
    # not both: what the zygote imports, every program's process pays for
    name = "judge" if "parent" in json.loads(sys.argv[1]) else "zygote"
    importlib.import_module(f"harness.sandbox.{name}").main()
