"""The report of a sweep: `write` makes report.md, report.json and figures/ from the run folders alone.

The same folders give the same bytes. A sweep that isn't finished, or in which an arm has failed, has a report all the
same, which says so. Read on in `read.py` (what is on disk), `values.py` (a number per problem),
`measure.py` (the statistics), `words.py`, `tables.py` and `figures.py`.
Not handled: several sweeps in one report.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.store import write_atomically

from . import tables
from .figures import draw
from .measure import measure
from .read import read_sweep
from .report import FORMAT, SweepReport


def write(out: Path, report: Path | None = None) -> list[Path]:
    """Writes the report of the sweep folder `out`; gives the files, the page first.

    Args:
        out: a folder of `harness sweep`, finished or not.
        report: the page's path; by default report.md in the folder. The numbers go beside it as .json, the figures to
            figures/ in a sweep folder and to a folder of the page's name elsewhere.

    Raises:
        InputError: no sweep folder, evaluations that cannot be compared, or a place that cannot be written.
    """
    page = report or out / "report.md"
    sweep = read_sweep(out)
    found, pools = measure(sweep)
    folder = page.with_suffix("") if report else out / "figures"
    figures = {
        setting.name: draw(setting, each, pools[setting.name], folder)
        for setting, each in zip(sweep.settings, found.settings, strict=True)
    }
    numbers = page.with_suffix(".json")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, tables.markdown(found, sweep, figures, page.parent))
        write_atomically(numbers, msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    except OSError as error:
        raise InputError(f"{page} cannot be written ({error.strerror}): choose another place for it.") from error
    return [page, numbers, *(path for paths in figures.values() for path in paths)]


def board(out: Path) -> str:
    """The table of last checkpoints with their sentences, for a terminal, from a report that `write` has made."""
    return tables.board(read_report(out / "report.json"))


def read_report(path: Path) -> SweepReport:
    """The numbers of a report."""
    if not path.is_file():
        raise InputError(f"there is no {path}: harness report writes it from a sweep folder.")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=SweepReport)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a report of this version ({error}): write it anew, harness report.") from error
    if found.format != FORMAT:
        raise InputError(f"{path} is of format {found.format}, not {FORMAT}: write it anew, harness report.")
    return found
