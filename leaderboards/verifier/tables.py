"""verifiers.md from its numbers: `markdown`. Not handled: numbers (`measure.py`), sentences (`words.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from ..experiment.format import change_text, level_text, listed, number_text, p_text, plural, points, value_text
from ..experiment.report import Number
from .figures import drawn
from .report import Gain, Part, Pressure, Pruned, Quality, Several, Source, Tests, VerifierReport
from .words import (
    ROUGH,
    SUITES,
    baseline,
    filtered,
    headline,
    label,
    ordered,
    pressure,
    pruned,
    seconds_text,
    selector,
    share_text,
    submitted,
    title,
)

CAPTIONS = {
    "selection": "How often the chosen completion is right, against the number to choose from.",
    "reliability": "What a probability says, against how often that is so.",
    "pressure": "The score of the chosen completion against its success rate, as k grows.",
    "claimed": "What the score says of the chosen, and how often that is right.",
}

READING = """\
Everything is from one set of completions: for each problem the mean over all k-subsets of them (few rules draw many
subsets instead), then inference over problems. Percent with 95% intervals; differences are percentage points, paired by
problem; Holm's p is over all comparisons of a table. An interval for one selector by itself says little about a
difference: two that overlap can still differ. *Captured* is (selector - pass@1) / (pass@k - pass@1). At k = n a problem
counts one single subset. Whoever takes the best of many selectors from this page takes some luck with it: choose on
validation problems.

*Pairs ordered* is the share of pairs (right, wrong) of one problem that a score orders rightly, .5 is chance; with
equally many completions of each problem, 2 x it - 1 is the share captured at k = 2. AUROC and average precision are
pooled over problems, and also rise when a score only knows which problems are easy. Intervals of these resample
problems (BCa). ECE is over ten bins of equally many completions, and biased upwards; its square is not (much), and may
be below 0."""


QUALITY = """\
*Valid* are tests that the gold solution passes. *Accepts*: all tests of a problem, *single*: one of them, as a judge of
completions; true positive is the share of right completions that pass, false positive that of wrong ones. *Kill rate*:
the share of gold solutions with a planted fault that a valid test fails."""


PRUNING = """\
Of {k} programs the best by a score are run on {suite}, and of these the one that passes most is chosen. *CPU s* are
those of the programs that are run, expected for one problem, without what the score costs; to keep one is to choose by
the score alone, and needs no test. Differences are paired by problem and not adjusted for their number."""


def markdown(report: VerifierReport, figures: Mapping[str, Mapping[str, Path]], folder: Path) -> str:
    """The whole page; `figures` by part and name, linked relative to `folder`."""
    several = len(report.parts) > 1
    parts = [f"# {report.run}: what choosing among completions is worth", *_warnings(report)]
    for part in report.parts:
        parts += _part(part, report.sources, figures.get(part.name, {}), folder)
    parts += _tests(report.suites)
    parts += ["## How to read this", READING]
    parts.append(f"Completions of `{report.model}`{', in several parts' if several else ''}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def board(report: VerifierReport) -> str:
    """Warnings, sentences and the table of every part, for a terminal."""
    paragraphs = ["\n".join(f"WARNING {one.score}: {line}" for one in report.sources for line in one.warnings)]
    for part in report.parts:
        sentences = "\n".join(selector(one, part).replace("**", "") for one in ordered(part))
        paragraphs += [_heading(part), headline(part), sentences, _levels(part)]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def _warnings(report: VerifierReport) -> Iterator[str]:
    lines = [f"> - **{source.score}**: {line}" for source in report.sources for line in source.warnings]
    if lines:
        yield "\n".join(["> **Warnings**", ">", *lines])


def _part(part: Part, sources: Sequence[Source], figures: Mapping[str, Path], folder: Path) -> Iterator[str]:
    yield f"## {_heading(part)}"
    yield headline(part)
    yield _list(selector(one, part) for one in ordered(part))
    yield _list(f"Note: {note}" for note in part.notes)
    yield _picture("selection", figures, folder, more=_left_out(part))
    yield _levels(part)
    if part.gains:
        yield f"### Against the baselines, at k = {part.ks[-1]}"
        yield _gains(part)
    if part.several:
        yield "### Several submissions"
        yield filtered(part.several)
        yield _list(submitted(one) for one in part.several.submitted)
        yield _several(part, part.several)
    if part.quality:
        yield "### How good each score is"
        yield _quality(part, {source.score: source for source in sources})
        yield _picture("reliability", figures, folder)
    if part.pressure:
        yield "### Choosing ever harder"
        yield _list(pressure(one) for one in part.pressure)
        yield _pressure(part)
        yield _picture("claimed", figures, folder)
        yield _picture("pressure", figures, folder)
    if part.pruned:
        yield "### Prune, then rank"
        yield PRUNING.format(k=part.ks[-1], suite=SUITES[part.pruned[0].suite])
        yield _list(pruned(one) for one in part.pruned)
        yield _pruned(part.pruned)
        yield _unmeasured(part.pruned[0])


def _heading(part: Part) -> str:
    fewest, most = part.completions
    each = str(fewest) if fewest == most else f"{fewest}–{most}"
    return f"{part.name}: {plural(part.problems, 'problem')} × {each} completions"


def _levels(part: Part) -> str:
    ks = [k for k in part.ks if k > 1]
    rows = [["pass@1", *(level_text(part.one) for _ in ks)]]
    rows += [[title(one.name), *(level_text(one.levels.get(k)) for k in ks)] for one in part.selectors]
    rows.append(["pass@k (ceiling)", *(level_text(part.ceiling[k]) for k in ks)])
    return _table(["selector", *(f"k = {k}" for k in ks)], rows)


def _gains(part: Part) -> str:
    shares = {one.name: one.captured[part.ks[-1]] for one in part.selectors}
    found = {(gain.selector, gain.against): gain for gain in part.gains}
    rows = []
    for one in ordered(part):
        share = shares[one.name]
        row = [title(one.name), "-" if share is None else share_text(share)]
        rows.append(row + [cell for name in part.baselines for cell in _gain(found.get((one.name, name)))])
    headers = ["selector", "captured"]
    headers += [text for name in part.baselines for text in (f"over {baseline(name)}", "better/worse", "p, Holm p")]
    rough = f"Only {part.mixed} problems have anything to choose: the intervals of *captured* are too narrow."
    return _table(headers, rows) + (f"\n\n{rough}" if part.mixed < ROUGH else "")


def _gain(gain: Gain | None) -> list[str]:
    if gain is None:
        return ["-", "-", "-"]
    return [
        f"{points(gain.value)} [{points(gain.low)}, {points(gain.high)}]",
        *(f"{gain.better}/{gain.worse}", f"{p_text(gain.p)}, {p_text(gain.p_holm)}"),
    ]


def _quality(part: Part, sources: Mapping[str, Source]) -> str:
    rows = [_score(quality, sources.get(quality.score)) for quality in part.quality]
    headers = ["score", "scorer", "pairs ordered", "by problem", "AUROC", "average precision"]
    return _table([*headers, "Brier", "ECE", "ECE² (debiased)", "seconds"], rows)


def _score(quality: Quality, source: Source | None) -> list[str]:
    calibrated = quality.calibrated
    return [
        *(quality.score, source.scorer if source and source.scorer else "-"),
        *(_plain(quality.pairs), _plain(quality.pairs_by_problem)),
        *(_plain(quality.auroc), _plain(quality.average_precision)),
        *(("-", "-", "-") if calibrated is None else (_plain(calibrated.brier), f"{calibrated.ece:.3f}")),
        *(() if calibrated is None else (f"{calibrated.ece_squared:.4f}",)),
        number_text(source.seconds if source else None, 1),
    ]


def _plain(number: Number | None) -> str:
    """`0.734 [0.701, 0.765]`."""
    if number is None:
        return "-"
    interval = "" if number.low is None else f" [{number.low:.3f}, {number.high:.3f}]"
    return f"{number.value:.3f}{interval}"


def _pressure(part: Part) -> str:
    rows = [row for each in part.pressure for row in _chosen(each)]
    return _table(["score", "of the chosen", *(f"k = {k}" for k in part.ks)], rows)


def _chosen(each: Pressure) -> Iterator[list[str]]:
    if each.chosen[0].gap is not None:
        yield [each.score, "says, %", *(f"{100 * chosen.score:.1f}" for chosen in each.chosen)]
    else:
        yield [each.score, "score", *(f"{chosen.score:.4g}" for chosen in each.chosen)]
    yield ["", "right, %", *(value_text(chosen.right) for chosen in each.chosen)]
    if each.chosen[0].gap is not None:
        yield ["", "says too much, pp", *(change_text(chosen.gap) for chosen in each.chosen)]


def _several(part: Part, several: Several) -> str:
    ks = [k for k in part.ks if k > 1]
    rows = []
    for each in several.submitted:
        known = [k in each.solved for k in ks]
        rows.append([f"{each.n}, chosen ({each.n}@k)", *(level_text(each.solved.get(k)) for k in ks)])
        random = level_text(each.random)
        rows.append([f"{each.n}, random (pass@{each.n})", *(random if some else "-" for some in known)])
    rows.append(["all k (pass@k)", *(level_text(part.ceiling[k]) for k in ks)])
    return _table(["submissions", *(f"k = {k}" for k in ks)], rows)


def _pruned(every: Sequence[Pruned]) -> str:
    rows = [
        [
            *(each.score if one is each.kept[0] else "", str(one.keep), level_text(one.right)),
            *(change_text(one.change), seconds_text(one.cpu_s)),
        ]
        for each in every
        for one in each.kept
    ]
    return _table(["score", "programs run", "right, %", "against all", "CPU s"], rows)


def _unmeasured(each: Pruned) -> str:
    """What is not known of the seconds."""
    if each.kept[0].cpu_s is None:
        return (
            f"CPU seconds are not known of {each.unmeasured} of {plural(each.programs, 'completion')}: none are shown."
        )
    if not each.unmeasured:
        return ""
    some = f"CPU seconds are not known of {each.unmeasured} of {plural(each.programs, 'completion')}"
    return f"{some}: they count like the average of the others of their problem."


def _tests(suites: Sequence[Tests]) -> Iterator[str]:
    if not suites:
        return
    yield "## Tests beside the task's own"
    headers = ["suite", "problems", "tests", "most of a problem", "programs", "seconds", "CPU s of a completion"]
    yield _list(f"**{each.suite}**: {each.source}" for each in suites)
    yield _table(
        headers,
        [
            [
                *(each.suite, *map(str, (each.problems, each.tests, each.most, each.programs))),
                *(number_text(each.seconds, 1), number_text(each.cpu_s, 3)),
            ]
            for each in suites
        ],
    )
    said = {each.suite: {name: str(count) for name, count in each.made.items()} | dict(each.quality) for each in suites}
    names = list(dict.fromkeys(name for each in said.values() for name in each))
    if names:
        yield _table(
            ["of its tests", *said], [[name, *(each.get(name, "-") for each in said.values())] for name in names]
        )
    if any(each.quality for each in suites):
        yield QUALITY


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _picture(name: str, figures: Mapping[str, Path], folder: Path, *, more: str = "") -> str:
    if name not in figures:
        return ""
    path = figures[name].relative_to(folder).as_posix().replace(" ", "%20")
    return f"![{CAPTIONS[name]}]({path})\n\n*{CAPTIONS[name]}{more}*"


def _left_out(part: Part) -> str:
    names = [one.name for one in part.selectors if one.name not in drawn(part)]
    return f" Not drawn: {listed(map(label, names))}." if names else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without the columns in which no row has anything."""
    every = [list(row) for row in rows]
    keep = [i for i in range(len(headers)) if i == 0 or any(row[i] not in ("-", "") for row in every)]
    cells = [[row[i].replace("|", "\\|").replace("\n", " ") for i in keep] for row in every]
    return tabulate(cells, headers=[headers[i] for i in keep], tablefmt="github", disable_numparse=True)
