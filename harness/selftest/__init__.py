"""Does the grader say yes to what is right, no to what is wrong, and stay unharmed? What `harness selftest` runs.

Main functions: `selftest` all of it; `run_gold` the gold solutions of tasks; `run_programs` the collections: attacks
(attacks.yaml) and odd but correct programs (odd.yaml), which `collection` reads. `describe` writes the table. Not
handled: harm that no program of the collections can notice, and languages other than Python.
"""

from harness.selftest.findings import Failure, Findings, Row, describe, failures, read, save, sentence
from harness.selftest.gold import run_gold
from harness.selftest.programs import Program, collection
from harness.selftest.run import LIMITS, run_programs, selftest

__all__ = [
    "LIMITS",
    "Failure",
    "Findings",
    "Program",
    "Row",
    "collection",
    "describe",
    "failures",
    "read",
    "run_gold",
    "run_programs",
    "save",
    "selftest",
    "sentence",
]
