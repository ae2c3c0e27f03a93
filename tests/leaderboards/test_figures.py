"""Figures: the numbers they draw, the labels they carry, the same bytes every time, and what cannot be drawn."""

import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib
import msgspec
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

import harness
from harness.errors import InputError
from harness.leaderboards.drawing import COLOURS, INK, Line, name_ends, sheet, style, title
from harness.leaderboards.figures import curves, difficulty, draw, iterations, lines_by_difficulty, lines_by_k, parts_of

WHITE, DARK = "#ffffff", "#0d1117"


def make_run(folder, name, right, *, problems=12, n=8, split=lambda i: "test", score=None, answer="7", task="sums"):
    """A run in which `right(i, j)` says whether completion j of problem i is right."""
    rows = [{"id": f"p/{i}", "prompt": "?", "answer": answer, "split": split(i)} for i in range(problems)]
    (folder / f"{name}.problems").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        {"problem_id": f"p/{i}", "text": answer if right(i, j) else f"-{j % 3 + 1}"}
        | ({} if score is None else {"scores": {"verifier": score(i, j)}})
        for i, j in itertools.product(range(problems), range(n))
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": str(folder / f"{name}.jsonl")},
        task_args={"path": str(folder / f"{name}.problems"), "name": task},
        k="1" if n < 8 else "1,2,4,8",
        output_path=folder / name,
    )
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(folder):
    """From never solved to always solved, with a verifier that is right more often than not."""
    return make_run(folder, "base", lambda i, j: j < i * 8 / 11, score=lambda i, j: ((3 * i + 5 * j) % 7 - j) / 8)


@pytest.fixture(scope="module")
def better(folder):
    return make_run(folder, "better", lambda i, j: j < 2 + i * 6 / 11)


@pytest.fixture(scope="module")
def short(folder):
    return make_run(folder, "short", lambda i, j: i % 2, n=1)


@pytest.fixture(scope="module")
def both_splits(folder):
    def right(start):
        return lambda i, j: j < start + (i % 2) * 3

    return [make_run(folder, f"iteration{t}", right(t + 1), split=lambda i: ("test", "train")[i % 2]) for t in range(3)]


def texts(path):
    return [element.text for element in ET.parse(path).iter() if element.tag.endswith("}text")]


def test_curves_are_the_numbers_of_the_report(base):
    part = parts_of(base, "base")["sums"]
    lines = lines_by_k(part)
    reported = json.loads((base / "results.json").read_text())["tasks"]["sums"]
    assert list(lines) == ["pass@k", "maj@k", "best@k[verifier]"]
    for name, line in lines.items():
        assert list(line.x) == list(range(1, 9))
        for k in (2, 4, 8):
            estimate, place = reported[name.replace("@k", f"@{k}")], line.x.index(k)
            drawn = (line.value[place], line.low[place], line.high[place])
            assert drawn == pytest.approx([100 * estimate[field] for field in ("value", "low", "high")])
        assert all(value <= ceiling + 1e-9 for value, ceiling in zip(line.value, lines["pass@k"].value, strict=True))


def test_difficulty_measures_the_base_on_other_completions_than_its_bins(folder):
    """Even completions of the base are right on odd problems, odd ones are right on all: no bin may change the base."""
    lucky = make_run(folder, "lucky", lambda i, j: j % 2 == 1 or i % 2 == 1)
    same = make_run(folder, "same", lambda i, j: i % 2 == 1 and j < 4)
    parts = [parts_of(run, run.name)["sums"] for run in (lucky, same)]
    bins, (first, second) = lines_by_difficulty(parts[0], parts[1:])
    assert bins == {"0": 6, "76–100": 6}
    assert first.value == [100, 100]
    assert second.value == [0, 50]
    assert 0 < second.high[0] < 50


def test_difficulty_of_one_problem_has_no_interval(base, better):
    parts = [parts_of(run, run.name)["sums"] for run in (base, better)]
    bins, lines = lines_by_difficulty(parts[0], parts[1:])
    assert sum(bins.values()) == 12
    lonely = [place for place, size in enumerate(bins.values()) if size == 1]
    assert all(np.isnan(line.low[place]) == (place in lonely) for line in lines for place in range(len(bins)))


def test_files_are_xml_with_labels_and_pictures_at_twice_the_size(base, better, tmp_path):
    svg, png = curves([base, better], tmp_path / "deep" / "v1.5")
    assert (svg.name, png.name) == ("v1.5.svg", "v1.5.png")
    labels = texts(svg)
    assert {"base", "better", "sums, 12 problems × 8", "maj@k", "best@k[verifier]", "pass@k (ceiling)"} <= set(labels)
    assert labels.count("pass@k (ceiling)") == 2
    assert labels.count("best@k[verifier]") == 1
    picture = Image.open(png)
    width = float(ET.parse(svg).getroot().attrib["width"].removesuffix("pt"))
    assert picture.size[0] == pytest.approx(width / 72 * 96 * 2, abs=1)
    assert picture.convert("RGBA").getpixel((0, 0))[3] == 0
    svg, _ = difficulty(base, [better], tmp_path / "difficulty.svg")
    assert svg == tmp_path / "difficulty.svg"
    assert {"sums by difficulty", "base", "better", "0", "1–25", "1 problem"} <= set(texts(svg))


def test_iterations_from_folders_and_from_numbers_are_the_same_figure(both_splits, tmp_path):
    from_runs = iterations(dict(enumerate(both_splits)), tmp_path / "runs")
    numbers = {t: (np.full(6, (t + 4) / 8), np.full(6, (t + 1) / 8)) for t in (2, 0, 1)}
    from_numbers = iterations(numbers, tmp_path / "numbers")
    assert [file.read_bytes() for file in from_runs] == [file.read_bytes() for file in from_numbers]
    labels = texts(from_runs[0])
    assert {"train", "test", "6 train and 6 test problems", "0", "1", "2", "iteration"} <= set(labels)
    assert any(label.startswith("gap +37.5 [") for label in labels)


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_whatever_the_users_settings(base, better, both_splits, tmp_path):
    def all_figures(folder):
        files = draw([base, better], folder)
        files += iterations(dict(enumerate(both_splits)), folder / "iterations", task="sums")
        return {file.name: file.read_bytes() for file in files}

    first = all_figures(tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert all_figures(tmp_path / "second") == first
        assert matplotlib.rcParams["font.size"] == 20
    assert sorted(first) == sorted(
        f"{name}.{kind}" for name in ("curves_sums", "difficulty_sums", "iterations") for kind in ("png", "svg")
    )
    assert b"<dc:date>" not in b"".join(first.values())


def test_draw_takes_the_runs_that_have_enough(base, short, both_splits, tmp_path):
    files = draw([short, base, both_splits[0]], tmp_path)
    names = {file.name for file in files if file.suffix == ".svg"}
    assert names == {"curves_sums.svg", "curves_sums_train.svg", "curves_sums_test.svg"}
    assert "short" not in texts(tmp_path / "curves_sums.svg")
    with pytest.raises(InputError, match="nothing to draw"):
        draw([short], tmp_path)


def test_programs_have_no_majority(base):
    part = parts_of(base, "base")["sums"]
    test = harness.Test(id="0", kind="stdio", input="")
    problems = tuple(msgspec.structs.replace(problem, tests=(test,)) for problem in part.results.problems_P)
    part = replace(part, results=replace(part.results, problems_P=problems))
    assert list(lines_by_k(part)) == ["pass@k", "best@k[verifier]"]


def test_what_cannot_be_drawn_is_said_in_a_sentence(folder, base, short, both_splits, tmp_path):
    other = make_run(folder, "other", lambda i, j: True, answer="8")
    refused = [
        (lambda: curves([], tmp_path / "x"), "no run to draw"),
        (lambda: curves([short], tmp_path / "x"), "short has 12 problems × 1 of sums: curves need"),
        (lambda: curves([base], tmp_path / "x", task="gsm8k"), r"'gsm8k' \(there are sums\)"),
        (lambda: curves([both_splits[0]], tmp_path / "x"), "about sums/test, sums/train: name one task"),
        (lambda: curves([tmp_path], tmp_path / "x"), "is not a run folder"),
        (lambda: curves([base], base / "manifest.json" / "x"), "cannot be written"),
        (lambda: difficulty(base, [], tmp_path / "x"), "name at least one more run"),
        (lambda: difficulty(base, [other], tmp_path / "x"), "other and base have other problems of sums"),
        (lambda: difficulty(short, [base], tmp_path / "x"), "at least two"),
        (lambda: iterations({0: base}, tmp_path / "x"), "two or more of them, not 1"),
        (lambda: iterations({0: base, 1: base}, tmp_path / "x"), "has 0 tasks with train and test problems"),
        (
            lambda: iterations({0: ([0.5, 1], [0, 1]), 1: ([0.5, 2], [0, 1])}, tmp_path / "x"),
            "iteration 1, train: a band",
        ),
    ]
    for call, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            call()
    assert not list(tmp_path.glob("x*"))


def test_names_at_line_ends_never_cover_one_another_nor_leave_the_figure():
    names = [f"best@k[{place} is a score with a long name]" for place in range(7)]
    lines = [Line([1, 2], [0, value], [0, 0], [0, 100]) for value in (50, 50, 50.1, 51, 100, 99.9, 0)]
    with sheet(2) as (figure, panels):
        for axes in panels:
            axes.set(xlim=(1, 2), ylim=(0, 100))
            title(axes, "a run with a very long name " * 3, "a task with a very long name " * 3)
            name_ends(axes, [(line, name, style(i)) for i, (line, name) in enumerate(zip(lines, names, strict=True))])
        figure.draw_without_rendering()
        for axes in panels:
            boxes = [Text.get_window_extent(text) for text in axes.texts]  # an Annotation's would hold its arrow too
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
            assert all(figure.bbox.contains(*corner) for box in boxes for corner in (box.p0, box.p1))
            assert axes.get_window_extent().width > 50


def linear(colour):
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05 for colour in (one, other))
    return high / low


def lab(rgb):
    """CIELAB of linear RGB under D65."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    t = to_xyz @ rgb.clip(0, 1) / to_xyz.sum(axis=1)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def cie94(one, other):
    chroma = np.hypot(one[1], one[2]), np.hypot(other[1], other[2])
    mean, difference = np.sqrt(chroma[0] * chroma[1]), chroma[0] - chroma[1]
    hue = max(float(((one - other)[1:] ** 2).sum() - difference**2), 0.0)
    return np.sqrt((one[0] - other[0]) ** 2 + (difference / (1 + 0.045 * mean)) ** 2 + hue / (1 + 0.015 * mean) ** 2)


SEEN_AS = {  # Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("colour", [INK, *COLOURS])
def test_colours_stand_out_on_light_and_dark_pages(colour):
    assert min(contrast(colour, WHITE), contrast(colour, DARK)) >= (4 if colour == INK else 3)


@pytest.mark.parametrize("eye", SEEN_AS)
def test_colours_differ_to_every_eye(eye):
    seen = [lab(np.array(SEEN_AS[eye]) @ linear(colour)) for colour in (INK, *COLOURS)]
    assert min(cie94(one, other) for one, other in itertools.combinations(seen, 2)) >= 16


def test_matplotlib_is_loaded_only_to_draw_and_pyplot_never(tmp_path):
    code = """
import sys
from pathlib import Path
from harness.leaderboards.figures import iterations
assert "matplotlib" not in sys.modules
iterations({0: ([0, 1], [0, 1]), 1: ([1, 1], [0, 1])}, Path(sys.argv[1]))
assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "figure")], check=True, timeout=60)
    assert (tmp_path / "figure.svg").is_file()
