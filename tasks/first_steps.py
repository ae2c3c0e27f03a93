"""First steps: twelve small problems of our own, with completions of two made-up systems, for trying the harness out.

Six functions tested by calls, two by scripts, two whole programs on standard input and two maths questions. `careful`
is mostly right; `hasty` is mostly wrong in ways that fool careless graders (an object that equals everything, an exit
with status 0, an endless loop) and right once in a while. Everything ships with the package: no download. MIT.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from harness.samplers.replay import replay
from harness.types import Sampler, Task

from .jsonl import jsonl

_DATA = Path(__file__).parent / "first_steps_data"


def first_steps() -> Task:
    """Twelve small problems that ship with the harness (pass@k)."""
    return replace(jsonl(path=str(_DATA / "problems.jsonl"), name="first_steps"), revision="1")


def completions(system: Literal["careful", "hasty"] = "careful") -> Sampler:
    """Completions for first_steps that ship with the harness: system=careful or system=hasty."""
    return replay(path=str(_DATA / f"{system}.jsonl"))
