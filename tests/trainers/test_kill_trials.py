"""A trial that is killed at random moments ends with the same weights; 30 moments: `python -m tests.kill_trials`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kill_trials import METHODS, compare, killed
from tests.samplers.conftest import save


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_with_minus_nine_and_gone_on_with(tmp_path: Path, method: str) -> None:
    base = save(tmp_path / "base", 1, attention_dropout=0.1)
    phases = killed(method, base, tmp_path, points=3, seed=1)
    assert phases.total() == 3
    weights = tmp_path / "whole" / "iteration_2" / "train" / "checkpoint" / "model.safetensors"
    *others, last = weights.read_bytes()
    weights.write_bytes(bytes([*others, last ^ 1]))  # one bit
    with pytest.raises(AssertionError, match=r"iteration_2/train/checkpoint/model\.safetensors"):
        compare(tmp_path / "whole", tmp_path / "killed_1")
