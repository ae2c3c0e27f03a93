"""The files of a sweep's report: the same bytes every time, links that lead somewhere, figures that hold the arms."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from harness.errors import InputError
from harness.leaderboards.experiment import board, read_report, write
from harness.leaderboards.experiment.agrees import agrees

RFT = {"shifts": [(1.2, 1.0, 0.4)], "rewards": (0.4, 0.6), "tokens": 1_500_000}
ARMS = {
    "rft": RFT,
    "rest_em": {"shifts": [(1.0, 0.8, 0.3), (2.2, 1.1, 0.3)], "rewards": (0.4, 0.5, 0.6)},
    "random reward": {"shifts": [(0.0, 0.0, 0.0)], "of": "rest_em", "control": "random_reward"},
}
FIGURES = ("iterations", "change", "curves", "difficulty", "compute")


def texts(path):
    return {element.text for element in ET.parse(path).iter() if element.tag.endswith("}text")}


@pytest.mark.slow
def test_a_report_is_the_same_bytes_and_all_its_links_lead_to_files(build, tmp_path):
    out = build(tmp_path / "out", ARMS)
    first = {path: path.read_bytes() for path in write(out)}
    assert [path.name for path in list(first)[:2]] == ["report.md", "report.json"]
    assert {path.name for path in first if path.suffix == ".svg"} == {f"maths_{name}.svg" for name in FIGURES}
    for path in first:
        path.unlink()
    with matplotlib.rc_context({"font.size": 20}):
        assert {path: path.read_bytes() for path in write(out)} == first
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (out / "report.md").read_text())
    assert len(links) == len(FIGURES)
    assert all((out / link).is_file() for link in links)
    for name in FIGURES:
        shown = texts(out / f"figures/maths_{name}.svg")
        assert {"rft", "rest_em", "random reward"} <= shown, name
    assert {"train", "test"} <= texts(out / "figures/maths_iterations.svg")
    assert {"test", "transfer"} <= texts(out / "figures/maths_change.svg")
    assert {"pass@k", "base pass@k", "maj@k"} <= texts(out / "figures/maths_curves.svg")
    assert "sampled and trained tokens, millions (0: base)" in texts(out / "figures/maths_compute.svg")
    assert "rest_em: +" in board(out)
    elsewhere = write(out, tmp_path / "boards" / "demo.md")
    assert elsewhere[1] == tmp_path / "boards" / "demo.json"
    assert "](demo/maths_curves.svg)" in elsewhere[0].read_text()
    assert elsewhere[0].read_text().replace("](demo/", "](figures/") == (out / "report.md").read_text()


@pytest.mark.slow
def test_a_fresh_run_agrees_and_another_world_does_not(build, tmp_path):
    """Other completions of the same policies agree; an arm that has lost its effect doesn't."""
    runs = [build(tmp_path / str(luck), {"rft": RFT}, luck=luck, problems=60) for luck in (1, 2)]
    lost = build(tmp_path / "lost", {"rft": {**RFT, "shifts": [(-1.0, -1.0, -1.0)]}}, luck=3, problems=60)
    committed, fresh, other = (write(run)[1] for run in (*runs, lost))
    assert agrees(committed, fresh) == []
    assert any("rft: change of test pass@1 was +" in line for line in agrees(committed, other))
    command = [sys.executable, "-m", "harness.leaderboards.experiment.agrees", str(committed), str(other)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "")
    assert "rft against base was higher and is lower" in found.stdout


def test_a_report_of_another_version_is_refused(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(InputError, match="harness report writes it"):
        read_report(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="not a report of this version"):
        read_report(path)
    path.write_text(json.dumps({"format": 0, "name": "x", "seeds": [], "settings": []}))
    with pytest.raises(InputError, match="is of format 0"):
        read_report(path)
