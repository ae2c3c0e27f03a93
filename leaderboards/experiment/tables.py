"""report.md of a sweep, from its numbers: `markdown`. Every table has a row per arm, or per arm and iteration.

Not handled: numbers (`measure.py`), sentences (`words.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from harness.types import Manifest

from .changes import changes_of, trial_of
from .format import change_text, count_text, level_text, number_text, p_text, plural, points, value_text
from .read import TRAIN, Setting, SweepFolder, manifest_of, size_of
from .report import ArmReport, Comparison, SettingReport, Stage, SweepReport
from .values import BASE
from .words import compared, compute, progress, scope, sentence, tokens, trend

CAPTIONS = {
    "iterations": "pass@1 on training and on test problems by iteration, with the gap between them.",
    "change": "Change of pass@1 against the base, paired by problem.",
    "curves": "pass@k before (grey) and after, on test problems.",
    "difficulty": "Who gains: test problems by how often the base solves them.",
    "compute": "pass@1 on test problems against the tokens that were sampled and trained on.",
}


def markdown(report: SweepReport, sweep: SweepFolder, figures: Mapping[str, Sequence[Path]], folder: Path) -> str:
    """The whole report; `figures` are by setting, and linked relative to `folder`."""
    parts = [f"# {report.name}: what the training changed", _opening(report)]
    for setting, read in zip(report.settings, sweep.settings, strict=True):
        parts += _setting(setting, read, report.seeds, {p.stem: p for p in figures.get(setting.name, ())}, folder)
    parts += ["## How to read this", _reading(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def board(report: SweepReport) -> str:
    """The sentences and the table of last checkpoints of every setting, for a terminal."""
    parts = []
    for setting in report.settings:
        sentences = [sentence(arm, setting).replace("**", "") for arm in setting.arms]
        warned = [f"WARNING {arm.name}: {line}" for arm in setting.arms for line in arm.warnings]
        parts += [f"{report.name}, {setting.name}", _board(setting), "\n".join([*sentences, *warned])]
    return "\n\n".join(parts) + "\n"


def _opening(report: SweepReport) -> str:
    arms = len({arm.name for setting in report.settings for arm in setting.arms})
    sizes = (
        f"{plural(arms, 'arm')} in {plural(len(report.settings), 'setting')}, {plural(len(report.seeds), 'seed')} each"
    )
    return (
        f"{sizes}, beside the base model. Percent and percentage points (pp) with 95% intervals; each arm stands by "
        "its last checkpoint, averaged over its seeds. [How to read this](#how-to-read-this) has the details."
    )


def _setting(
    setting: SettingReport, read: Setting, seeds: Sequence[int], figures: Mapping[str, Path], folder: Path
) -> Iterator[str]:
    def picture(name: str) -> str:
        return _picture(f"{setting.name}_{name}", CAPTIONS[name], figures, folder)

    yield f"## {setting.name}"
    if setting.base is None:
        yield _list(["The base model is not evaluated yet.", *(f"Note: {note}" for note in setting.notes)])
        return
    yield _list(sentence(arm, setting) for arm in setting.arms)
    yield _board(setting)
    yield _list(f"Note: {note}" for note in setting.notes)
    yield _section("Warnings", _list(f"**{arm.name}.** {line}" for arm in setting.arms for line in arm.warnings))
    yield _section(
        "Iteration by iteration",
        *(picture("iterations"), picture("change")),
        _list(line for arm in setting.arms if (line := trend(arm, setting))),
        *(_scores(setting), _policies(setting)),
    )
    yield _section("Many samples, and which problems", picture("curves"), picture("difficulty"))
    yield _section("Compute", _list(compute(setting)), picture("compute"))
    yield _section("How far the evidence goes", scope(setting, len(seeds)), _comparisons(setting), _ranking(setting))
    yield _section("What each arm changed", _changes(read))
    yield _section("Where the numbers come from", _provenance(read, seeds))


def _section(heading: str, *parts: str) -> str:
    """Nothing where there is nothing to say."""
    said = [part for part in parts if part]
    return "\n\n".join([f"### {heading}", *said]) if said else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _picture(stem: str, caption: str, figures: Mapping[str, Path], folder: Path) -> str:
    if stem not in figures:
        return ""
    path = figures[stem].with_suffix(".svg").relative_to(folder).as_posix()
    return f"![{caption}]({path.replace(' ', '%20')})\n\n*{caption}*"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table without the columns in which no row has anything."""
    keep = [i for i in range(len(headers)) if i == 0 or any(row[i] not in ("-", "") for row in rows)]
    cells = [[str(row[i]).replace("|", "\\|") for i in keep] for row in rows]
    return tabulate(cells, headers=[headers[i] for i in keep], tablefmt="github", disable_numparse=True)


def _board(setting: SettingReport) -> str:
    """One row per arm, best first, with the base among them."""
    main = f"{setting.test} pass@1"
    order = list(setting.ranking)
    arms = sorted(setting.arms, key=lambda arm: order.index(arm.name) if arm.name in order else len(order))
    stages: list[tuple[str, Stage | None, ArmReport | None]] = [(arm.name, arm.final, arm) for arm in arms]
    stages.insert(order.index(BASE) if BASE in order else 0, (BASE, setting.base, None))
    rows: list[list[object]] = []
    for name, stage, arm in stages:
        if stage is None:
            said = progress(arm) if arm else "not evaluated"
            rows.append(["-", name, *["-"] * (5 + len(setting.others)), said])
            continue
        others = [stage.change.get(f"{each} pass@1") for each in setting.others]
        found = compared(setting, name)[:1]
        rows.append(
            [
                *(setting.ranking.get(name, "-"), name, level_text(stage.scores.get(main))),
                *(change_text(stage.change.get(main)), p_text(found[0].p_holm) if found else "-"),
                *(change_text(number) for number in others),
                *(change_text(stage.gap_change), count_text(tokens(stage)), progress(arm) if arm else ""),
            ]
        )
    headers = ["rank", "arm", main, "against base", "Holm p", *setting.others, "gap against base", "tokens", "note"]
    return _table(headers, rows)


def _stages(setting: SettingReport) -> Iterator[tuple[str, ArmReport | None, Stage]]:
    assert setting.base is not None
    yield BASE, None, setting.base
    for arm in setting.arms:
        yield from ((arm.name, arm, stage) for stage in arm.stages)


def _iteration(arm: ArmReport | None, stage: Stage) -> str:
    """`2 of 3`, and how many seeds have got there if not all have."""
    if arm is None:
        return "0"
    some = (
        f", {plural(len(stage.seeds), 'seed')} of {len(arm.progress)}" if len(stage.seeds) < len(arm.progress) else ""
    )
    return f"{stage.iteration} of {arm.iterations}{some}"


def _scores(setting: SettingReport) -> str:
    metrics = list(dict.fromkeys(metric for _, _, stage in _stages(setting) for metric in stage.scores))
    main, trained = f"{setting.test} pass@1", f"{TRAIN} pass@1"
    more = [m for m in metrics if m.startswith(f"{setting.test} ") and m != main]
    others = [f"{name} pass@1" for name in setting.others]
    rows = [
        [
            *(name, _iteration(arm, stage), level_text(stage.scores.get(main))),
            *(value_text(stage.scores.get(metric)) for metric in (*more, trained)),
            *(change_text(number) for number in (stage.gap, stage.gap_change)),
            *(level_text(stage.scores.get(metric)) for metric in others),
        ]
        for name, arm, stage in _stages(setting)
    ]
    unfinished = [[arm.name, progress(arm)] for arm in setting.arms if not arm.stages]
    width = 2 + 1 + len(more) + 1 + 2 + len(others)
    rows += [[*row, *["-"] * (width - 2)] for row in unfinished]
    headers = ["arm", "iteration", main, *more, trained, "gap", "gap against base", *others]
    return _table(headers, rows)


def _policies(setting: SettingReport) -> str:
    """What became of the policy, and what it cost."""
    rows = [
        [
            *(name, _iteration(arm, stage)),
            *(number_text(stage.drift.get(key), 3) for key in ("kl_to_base", "entropy")),
            number_text(stage.drift.get("tokens"), 1),
            *(number_text(stage.distinct.get(key)) for key in (setting.test, TRAIN)),
            *(number_text(stage.rewards.get(key)) for key in (TRAIN, setting.test)),
            number_text(stage.rows, 0),
            *(count_text(value) for value in (stage.sampled_tokens, stage.trained_tokens, stage.reward_calls)),
        ]
        for name, arm, stage in _stages(setting)
    ]
    headers = ["arm", "iteration", "KL to base", "entropy", "tokens each"]
    headers += [f"distinct correct, {setting.test}", f"distinct correct, {TRAIN}"]
    headers += [f"own reward, {TRAIN}", f"own reward, {setting.test}"]
    headers += ["rows", "sampled tokens", "trained tokens", "reward calls"]
    return _table(headers, rows)


def _comparisons(setting: SettingReport) -> str:
    headers = [
        "arm",
        "against",
        "difference",
        "p",
        "p Holm",
        "p sign-flip",
        "better/worse",
        "detectable",
        "for new seeds",
    ]
    others = "of treatments with one another"
    families = [("declared by the sweep", setting.comparisons, setting.family)]
    families += [(others, setting.pairs, len(setting.pairs))]
    families += [(f"{others} on {name}", found, len(found)) for name, found in setting.elsewhere.items()]
    parts = []
    for name, found, size in families:
        if found:
            rest = f", {size - len(found)} of them without a result yet" if size > len(found) else ""
            parts.append(f"The {plural(size, 'comparison')} {name}{rest}:")
            parts.append(_table(headers, [_comparison(each) for each in found]))
    return "\n\n".join(parts)


def _comparison(each: Comparison) -> list[str]:
    return [
        *(each.arm, each.against, f"{points(each.value)} [{points(each.low)}, {points(each.high)}]"),
        *(f"{p:.2g}" for p in (each.p, each.p_holm, each.p_sign_flip)),
        *(f"{each.better}/{each.worse} of {each.problems}", f"{100 * each.detectable:.1f}"),
        "-" if each.new_seeds is None else change_text(each.new_seeds),
    ]


def _ranking(setting: SettingReport) -> str:
    ranks = sorted(set(setting.ranking.values()))
    groups = [" = ".join(name for name, rank in setting.ranking.items() if rank == each) for each in ranks]
    return f"Ranking on {setting.test} pass@1: {' > '.join(groups)}." if groups else ""


def _changes(read: Setting) -> str:
    lines = []
    first = next((arm for arm in read.arms if arm.control is None and trial_of(arm)), None)
    if first is not None and (trial := trial_of(first)) is not None:
        lines.append(f"**{first.name}** is the treatment `{trial.treatment.name}`; the others are set against it.")
    for name, origin, fields in changes_of(read):
        texts = [f"`{field}` {before} → {after}" for field, before, after in fields]
        lines.append(f"**{name}** against {origin}: {'; '.join(texts) or 'nothing'}.")
    return _list(lines)


def _provenance(read: Setting, seeds: Sequence[int]) -> str:
    assert read.base is not None
    lines = []
    made = None
    for name in read.names:
        made = manifest_of(read.base, name)
        [task, *_] = made.tasks
        lines.append(
            f"{name}: {size_of(read.base, name)} of {task.name} {task.revision} (problems {task.problems_sha[:12]}, "
            f"prompts {task.prompts_sha[:12]})"
        )
    assert made is not None
    return _list([*lines, *_circumstances(made, read, seeds)])


def _circumstances(made: Manifest, read: Setting, seeds: Sequence[int]) -> Iterator[str]:
    budget = made.budget
    sampling = f"temperature {budget.temperature:g}, top_p {budget.top_p:g}, top_k {budget.top_k}"
    yield f"sampling: {sampling}, at most {budget.max_tokens} tokens, seed {budget.seed}; the same for every checkpoint"
    yield f"training seeds: {', '.join(map(str, seeds))}; pass@k for k = {', '.join(map(str, read.ks))}"
    yield f"base model: `{read.base_spec}`, sampled with {made.model}, hash {made.model_identity[:16]}"
    yield (
        f"grader {made.grader}, sandbox {made.sandbox}, {made.limits.cpu_s:g} s and "
        f"{made.limits.memory_bytes >> 20} MiB a program"
    )
    yield ", ".join(f"{key} {value}" for key, value in made.environment.items() if key != "platform")


def _reading(report: SweepReport) -> str:
    return _list(
        [
            "Every checkpoint of a setting has the same problems, budget and seed. A metric is averaged over an arm's "
            "seeds problem by problem, and compared with the base's on the same problem (guarded paired t). Intervals "
            "are over problems like these; they don't hold the luck of a training run, which stands apart under *for "
            "new seeds* (crossed moments over seeds and problems; never narrower than the other).",
            "The reported checkpoint is the last one that was planned, never the best on test.",
            "The family of Holm's adjustment was declared by the sweep: every arm against the base and every treatment "
            "against its controls, on pass@1 of the test problems, per setting. Treatments with one another are a "
            "second family, all pairs of the ranking a third. Nothing else is tested; intervals are not "
            "adjusted.",
            "*Gap*: pass@1 on training problems minus on test problems. *Gap against base*, or difference in "
            "differences: how much more pass@1 has changed on train than on test.",
            "*Detectable*: the smallest true difference that is found in 80% of cases. Of a difference within 2 "
            "points, by its whole interval, it is said that there is none.",
            "*Rank*: arms share one unless a paired test tells them apart (5%, Holm over all pairs).",
            "maj@k and best-of-k are shown for k up to half of the samples. *KL to base* is in nats per completion, "
            "*entropy* in nats per token. *Tokens* are sampled and trained ones, evaluation not counted. Seconds "
            "are in report.json: they differ from one machine to the next.",
        ]
    )
