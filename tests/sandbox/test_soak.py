"""A short soak: two thousand completions leave nothing behind, and no verdict is wrong. The long one is run by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_two_thousand_completions_leave_nothing_behind(shared_data: Path, tmp_path: Path, tier: str) -> None:
    scratch, report = tmp_path / "scratch", tmp_path / "report.json"
    scratch.mkdir()
    options = ["--n", "2000", "--every", "500", "--samples", "10", "--tier", tier, "--json", str(report)]
    done = subprocess.run(
        [sys.executable, str(SOAK), *options],
        env={**os.environ, "TMPDIR": str(scratch), "HARNESS_DATA": str(shared_data.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    samples = found["samples"]
    assert found["wrong"] == []
    assert [sample["done"] for sample in samples] == [0, 500, 1000, 1500, 2000]
    first = samples[0]
    assert first["processes"] == {"landlock": 4, "namespaces": 6, "docker": 2}[tier]  # two workers
    assert first["mounts"] > first["descriptors"] > 5  # it counts something
    for later in samples[1:]:
        assert later["processes"] == first["processes"]
        assert later["zombies"] == 0
        assert later["mounts"] == first["mounts"]
        # two workers in the middle of a job, each with what it is about to hand on
        assert abs(later["descriptors"] - first["descriptors"]) <= 2 * 6
    assert samples[-1]["files"] == first["files"]  # then no program is under way
    assert list(scratch.iterdir()) == []
    assert found["workers_rss_bytes"] < 16 << 20
    assert found["own_rss_bytes"] < 16 << 20  # the programs it remembers, 4096 at most
