"""The verifier report of a run: `write` makes a page, its numbers and its figures from the run folder alone.

It says what each way of choosing one of k completions is worth: over taking one unchosen, over majority, over
log-probability, and as a share of what could be gained; how good each score is; and what choosing ever harder does. The
same folder gives the same bytes; seconds are those that the folder has recorded. Read on in `read.py` (what the folder
says of its scores), `measure.py`, `quality.py` and `stages.py` (the statistics), `words.py`, `tables.py`, `figures.py`.
Not handled: several runs (`compare.py`), and making scores (`harness.verifiers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.store import write_atomically

from . import tables
from .figures import draw
from .measure import DEFAULT, measure
from .report import FORMAT, VerifierReport


def write(
    run: Path, page: Path | None = None, *, ks: Sequence[int] | None = None, baseline: str = DEFAULT
) -> list[Path]:
    """Writes the verifier report of a finished run; gives the files, the page first.

    Args:
        run: a run folder with at least two problems and two graded completions of each.
        page: the page's path; by default verifiers.md in the run folder. The numbers go beside it as .json, the figures
            to a folder of its name.
        ks: how many completions to choose from; the run's own, or powers of two, if not given.
        baseline: what every selector is set against beside pass@1 and log-probability, as a metric without its k:
            `maj` (of programs the majority of their results, where there is one), `best[score]`.

    Raises:
        InputError: nothing to choose by, too few problems or completions, an unknown baseline, or a place that cannot
            be written.
    """
    page = run / "verifiers.md" if page is None else page
    if page.suffix in ("", ".json"):
        raise InputError(f"{page} is no name for a page, beside which a folder and a .json will lie: add .md to it.")
    if ks is not None and (not ks or min(ks) < 1):
        raise InputError(f"ks are numbers of completions to choose from, 1 or more, not {list(ks)}.")
    found = measure(run, ks=ks, baseline=baseline)
    drawn = {part.name: draw(part, page.with_suffix("")) for part in found.parts}
    pictures = {part: {name: svg for name, [svg, _] in each.items()} for part, each in drawn.items()}
    numbers = page.with_suffix(".json")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, tables.markdown(found, pictures, page.parent))
        write_atomically(numbers, msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    except OSError as error:
        raise InputError(f"{page} cannot be written ({error.strerror}): choose another place for it.") from error
    return [page, numbers, *(path for each in drawn.values() for paths in each.values() for path in paths)]


def board(page: Path) -> str:
    """What each selector is worth, for a terminal, from a report that `write` has made."""
    return tables.board(read_report(page.with_suffix(".json")))


def read_report(path: Path) -> VerifierReport:
    """The numbers of a report."""
    if not path.is_file():
        raise InputError(f"there is no {path}: write the verifier report of the run first.")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=VerifierReport)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a verifier report of this version ({error}): write it anew.") from error
    if found.format != FORMAT:
        raise InputError(f"{path} is of format {found.format}, not {FORMAT}: write it anew.")
    return found
