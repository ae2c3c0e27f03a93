"""Treatment Harness: did this training make the model better, at what, by how much, and compared with what?

One import name. In a wheel `tasks/`, `trainers/` and `leaderboards/` sit inside this package; in a checkout they are
its siblings, so the checkout's root joins the package's search path and `harness.tasks.gsm8k` is the name in both.
"""

from pathlib import Path

_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

__version__ = "0.1.0"

from harness.errors import HarnessError, InputError
from harness.evaluate import evaluate
from harness.types import Budget, Completion, Limits, Problem, Results, Task, Test, Verdict

__all__ = [
    "Budget",
    "Completion",
    "HarnessError",
    "InputError",
    "Limits",
    "Problem",
    "Results",
    "Task",
    "Test",
    "Verdict",
    "evaluate",
]
