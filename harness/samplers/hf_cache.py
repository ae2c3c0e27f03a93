"""Keys and values of a decoding batch: `Slots` is a transformers cache whose rows are given back and taken again.

transformers' own `DynamicCache` copies all keys and values for every token. Here each layer has one buffer of B slots
and a window of columns, written in place and enlarged by a block at a time. All rows end in the same column, so that
they can be decoded together; each starts in its own, and the attention mask hides what is to its left.

Not handled: recurrent layers, and saving memory where a model's attention slides (all keys are kept, the mask slides).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

BLOCK_COLUMNS = 64
"""Columns by which the buffers grow."""


class SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers' types are not read
    """One layer's keys and values, both (B, H, columns, D); the window is columns `begin` to `end`, without `end`."""

    keys: Tensor
    values: Tensor
    begin: int
    end: int

    def __init__(self, like: DynamicLayer, n_slots: int, columns: int) -> None:
        super().__init__()
        # Zeros, because what the mask hides still takes part: 0 times what happens to be in memory may be NaN.
        self.keys, self.values = (
            each.new_zeros(n_slots, each.shape[1], columns, each.shape[3]) for each in (like.keys, like.values)
        )
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True
        self.begin = self.end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Writes one token's (B, H, 1, D) at `end` and gives the window up to it."""
        self.keys[:, :, self.end] = key_states[:, :, 0]
        self.values[:, :, self.end] = value_states[:, :, 0]
        window = slice(self.begin, self.end + 1)
        return self.keys[:, :, window], self.values[:, :, window]

    def get_seq_length(self) -> int:
        """Columns of the window."""
        return self.end - self.begin


class Slots:
    """`n_slots` rows that are decoded together; `cache` is what the model is called with."""

    def __init__(self, prefilled: DynamicCache, n_slots: int) -> None:
        columns = prefilled.get_seq_length() + BLOCK_COLUMNS
        self._layers = [SlotLayer(layer, n_slots, columns) for layer in prefilled.layers]
        self.cache = Cache(layers=list(self._layers))
        self._columns = columns
        self._end = 0
        self.starts = np.zeros(n_slots, dtype=np.int64)
        """(B) first column of each row."""

    def seat(self, slots: list[int], prefilled: DynamicCache, position: int, length: int) -> None:
        """Puts the last `length` columns of row `position` of `prefilled` into each of `slots`."""
        if self._end < length:  # by a block: the next prompts may be longer still
            self._resize(max(length - self._end, BLOCK_COLUMNS))
        for layer, source in zip(self._layers, prefilled.layers, strict=True):
            window = slice(self._end - length, self._end)
            for buffer, filled in ((layer.keys, source.keys), (layer.values, source.values)):
                buffer[slots, :, window] = filled[position, :, filled.shape[2] - length :]
        self.starts[slots] = self._end - length

    def mask_and_positions(self, live: list[int]) -> tuple[Tensor, Tensor]:
        """For the next token: attention mask (B, columns of the window + 1), positions (B, 1).

        The window is fitted to the rows of the slots `live`; the others see nothing but their own token.
        """
        begin = int(self.starts[live].min())
        if self._end == self._columns:
            self._resize(-begin)
            begin = 0
        for layer in self._layers:
            layer.begin, layer.end = begin, self._end
        starts = np.full_like(self.starts, self._end)
        starts[live] = self.starts[live]
        columns = np.arange(begin, self._end + 1)
        return torch.from_numpy(columns >= starts[:, None]), torch.from_numpy(self._end - starts)[:, None]

    def advance(self) -> None:
        """To be called after each call of the model."""
        self._end += 1

    def select(self, slots: list[int]) -> None:
        """Keeps only these slots, in this order."""
        self.starts = self.starts[slots]
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[slots], layer.values[slots]

    def _resize(self, shift: int) -> None:
        """Moves what there is by `shift` columns (to the left where negative) and makes room for a block more."""
        first = max(0, -shift)
        begin, end = first + shift, self._end + shift
        self._columns = end + BLOCK_COLUMNS
        for layer in self._layers:
            moved = []
            for old in (layer.keys, layer.values):
                new = old.new_empty(*old.shape[:2], self._columns, old.shape[3])
                new[:, :, :begin] = 0
                new[:, :, begin:end] = old[:, :, first : self._end]
                new[:, :, end:] = 0
                moved.append(new)
            layer.keys, layer.values = moved
        self.starts += shift
        self._end = end
