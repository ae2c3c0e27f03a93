"""Importance weights by hand and the figures that go with them."""

from __future__ import annotations

import math

import pytest
import torch

from harness.errors import UnknownName
from harness.trainers.mismatch import importance_weights, summarise_mismatch

NOW = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, -1.0, 7.0]], dtype=torch.float64)
SAMPLER = torch.tensor([[-2.0, -1.1, math.nan], [-0.5, -1.0, math.nan]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False]])
E = math.exp


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [[2.0, E(0.1), 1.0], [0.8, 1.0, 1.0]]),
        ("token_mask", [[0.0, E(0.1), 1.0], [0.0, 1.0, 1.0]]),
        ("sequence_truncate", [[2.0], [0.8]]),
        ("sequence_mask", [[0.0], [0.0]]),
    ],
)
def test_weights_by_hand(mode, expected):
    weights, stats = importance_weights(NOW, SAMPLER, MASK, mode=mode, cap=2.0, floor=0.8)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    figures = summarise_mismatch([stats])
    assert figures["difference"] == pytest.approx((1.0 + 0.1 + 0.5 + 0.0) / 4), "the unknown token is not in the mean"
    assert figures["difference_max"] == pytest.approx(1.0)
    assert figures["clipped_share"] == pytest.approx(1.0 if mode.startswith("sequence") else 2 / 5)


def test_effective_sample_size_over_micro_batches():
    parts = [importance_weights(NOW[i : i + 1], SAMPLER[i : i + 1], MASK[i : i + 1], mode="none") for i in (0, 1)]
    assert all(weights is None for weights, _ in parts)
    weights = [E(1.0), E(0.1), 1.0, E(-0.5), 1.0]
    figures = summarise_mismatch(stats for _, stats in parts)
    assert figures["effective_share"] == pytest.approx(sum(weights) ** 2 / (5 * sum(w * w for w in weights)))
    assert figures["weight"] == pytest.approx(sum(weights) / 5)
    assert figures["clipped_share"] == 0
    assert figures["difference_max"] == pytest.approx(1.0)


def test_equal_numerics_weigh_one_and_nothing_measured_is_none():
    weights, stats = importance_weights(NOW, NOW, MASK)
    torch.testing.assert_close(weights, torch.ones_like(NOW))
    assert summarise_mismatch([stats])["effective_share"] == pytest.approx(1.0)
    assert set(summarise_mismatch([]).values()) == {None}
    _, empty = importance_weights(NOW, SAMPLER, torch.zeros_like(MASK))
    assert set(summarise_mismatch([empty]).values()) == {None}


def test_unknown_mode():
    with pytest.raises(UnknownName, match="did you mean 'token_mask'"):
        importance_weights(NOW, SAMPLER, MASK, mode="token_masks")
