"""The decoding loop of the sampler `hf`: `decode` finishes many rows, a fixed number of slots at a time.

Each prompt goes through the model once, however many completions it gets; the place of a finished row is given to the
next; and the random draws of a row are its own, so that its tokens don't depend on what it shares a batch with.
Trainers sample through `decode`, too, with a model that they hold. It needs torch as soon as it is imported: the
sampler imports it when it starts to sample. Not handled: CUDA graphs, several devices.
"""

from __future__ import annotations

import bisect
import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from harness.errors import InputError
from harness.samplers.hf_cache import Slots
from harness.samplers.hf_draw import draw, generator
from harness.samplers.prompting import added_text, end_ids
from harness.types import Budget

PREFILL_TOKENS = 8192
"""Most prompt tokens, padding included, that go through the model together."""
REFILL_SHARE = 1 / 16
"""Share of the slots that must be free before they are filled again: seating a row has a cost of its own."""
SHRINK_SHARE = 3 / 4
"""With nothing left to seat, the batch is made smaller once less than this share of it is in use."""
STOP_EVERY = 8
"""Tokens between two searches for stop strings: a search decodes text, which costs more than a token or two."""


@dataclass(kw_only=True, slots=True)
class Row:
    """One completion while it is being sampled. Rows of one prompt should follow one another."""

    problem_id: str
    index: int
    prompt_ids: list[int]
    room: int
    """Most tokens that it may get."""
    stop: tuple[str, ...] = ()
    ids: list[int] = field(default_factory=list)
    """Sampled tokens, the end token included."""
    logprobs: list[float] = field(default_factory=list)
    """Of each token at the temperature of sampling, without top_k and top_p, in nats: what a trainer compares with."""
    own_logprobs: list[float] = field(default_factory=list)
    """Of each token under the model itself (temperature 1), in nats."""
    text: str = ""
    stop_reason: Literal["stop", "length"] | None = None

    @property
    def logprob(self) -> float:
        """Of the whole completion under the model itself, in nats."""
        return math.fsum(self.own_logprobs)


def decode(model: Any, tokenizer: Any, rows: Iterable[Row], budget: Budget, *, slots: int) -> Iterator[Row]:
    """Samples `rows`, at most `slots` at a time; yields each when it is finished.

    `model` is a causal language model of transformers, which is not changed; of `budget` only temperature, top_k, top_p
    and seed are read. InputError if logits are not finite.
    """
    decoder = _Decoder(model, tokenizer, rows, budget, slots)
    while decoder.fill():
        yield from decoder.step()


class _Decoder:
    """The state of `decode`. A slot without a row goes on with the others and is of no interest."""

    # The decorator is on methods rather than around the loop: in a generator the mode would be left on in its caller.

    def __init__(self, model: Any, tokenizer: Any, rows: Iterable[Row], budget: Budget, n_slots: int) -> None:
        self.model, self.tokenizer, self.budget = model, tokenizer, budget
        self.waiting = _prefilled(model, rows)
        self.exhausted = False
        self.rows: list[Row | None] = [None] * n_slots
        self.generators = [generator(0, "", 0) if budget.temperature else None] * n_slots
        self.ends: dict[tuple[str, ...], frozenset[int]] = {}
        self.slots: Slots | None = None
        self.logits: Tensor | None = None
        """(B, V) of the next token, in float32."""

    @property
    def live(self) -> list[int]:
        """Slots with a row."""
        return [slot for slot, row in enumerate(self.rows) if row is not None]

    @torch.inference_mode()
    def fill(self) -> bool:
        """Seats waiting rows in free slots, where there are enough of these; False when nothing is left to do."""
        free = [slot for slot, row in enumerate(self.rows) if row is None]
        if not self.exhausted and len(free) >= max(1, REFILL_SHARE * len(self.rows)):
            taken = list(islice(self.waiting, len(free)))
            self.exhausted = len(taken) < len(free)
            for (prompts, position), group in groupby(taken, key=lambda each: each[1:]):
                rows = [row for row, *_ in group]
                self._seat([free.pop() for _ in rows], rows, prompts, position)
        return len(free) < len(self.rows)

    def _seat(self, slots: list[int], rows: list[Row], prompts: _Prompts, position: int) -> None:
        if self.slots is None:
            self.slots = Slots(prompts.cache, len(self.rows))
            self.logits = prompts.logits.new_zeros(len(self.rows), prompts.logits.shape[1])
        assert self.logits is not None
        self.slots.seat(slots, prompts.cache, position, len(rows[0].prompt_ids))
        self.logits[slots] = prompts.logits[position]
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot] = row
            if self.budget.temperature:
                self.generators[slot] = generator(self.budget.seed, row.problem_id, row.index)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One more token for every row; the rows that it finishes, whose slots are then free."""
        assert self.logits is not None
        drawn = draw(self.logits, self.generators, self.budget)
        finished = []
        for slot in self.live:
            row = self.rows[slot]
            assert row is not None
            if not math.isfinite(drawn.own[slot]):
                raise InputError(
                    f"the model's logits are not finite on problem {row.problem_id!r} after {len(row.ids)} tokens: "
                    "its weights are broken, or dtype is too narrow for it."
                )
            row.ids.append(drawn.tokens[slot])
            row.own_logprobs.append(drawn.own[slot])
            row.logprobs.append(drawn.tempered[slot])
            if _finish(row, self.tokenizer, self._ends_of(row)):
                self.rows[slot] = None
                finished.append(row)
        self._shrink(tokens := drawn.tokens)
        if self.live:
            self._forward(tokens)
        return finished

    def _ends_of(self, row: Row) -> frozenset[int]:
        if row.stop not in self.ends:
            self.ends[row.stop] = end_ids(self.tokenizer, self.model.generation_config.eos_token_id, row.stop)
        return self.ends[row.stop]

    def _shrink(self, tokens: list[int]) -> None:
        """Drops free slots, from `tokens` (B) too, if they will stay free and are many."""
        live = self.live
        if self.exhausted and self.slots is not None and 0 < len(live) < SHRINK_SHARE * len(self.rows):
            self.slots.select(live)
            self.rows = [self.rows[slot] for slot in live]
            self.generators = [self.generators[slot] for slot in live]
            tokens[:] = [tokens[slot] for slot in live]

    def _forward(self, tokens: list[int]) -> None:
        assert self.slots is not None
        mask, positions = self.slots.mask_and_positions(self.live)
        ids = torch.tensor(tokens)[:, None]  # (B, 1)
        self.logits = _last_logits(self.model, ids, mask, positions, self.slots.cache)
        self.slots.advance()


@dataclass(frozen=True, eq=False)
class _Prompts:
    """Prompts that have been through the model together."""

    cache: DynamicCache
    """Their keys and values, in the last columns of each row."""
    logits: Tensor
    """(P, V) of each one's first token."""


@torch.inference_mode()
def _read(model: Any, prompts: list[list[int]]) -> _Prompts:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])  # (P, T)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache()  # without the model's configuration: every layer keeps all of its columns
    return _Prompts(cache, _last_logits(model, ids, mask.bool(), positions, cache))


def _prefilled(model: Any, rows: Iterable[Row]) -> Iterator[tuple[Row, _Prompts, int]]:
    """Each row with its prompt's place among those that went through the model with it."""
    together: list[list[Row]] = []
    longest = 0
    for _, group in groupby(rows, key=lambda row: row.prompt_ids):
        of_prompt = list(group)
        length = len(of_prompt[0].prompt_ids)
        if together and max(longest, length) * (len(together) + 1) > PREFILL_TOKENS:
            yield from _with_prompts(model, together)
            together, longest = [], 0
        together.append(of_prompt)
        longest = max(longest, length)
    if together:
        yield from _with_prompts(model, together)


def _with_prompts(model: Any, together: list[list[Row]]) -> Iterator[tuple[Row, _Prompts, int]]:
    prompts = _read(model, [of_prompt[0].prompt_ids for of_prompt in together])
    for position, of_prompt in enumerate(together):
        yield from ((row, prompts, position) for row in of_prompt)


def _last_logits(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Logits (B, V) after the last of `ids` (B, T), in float32; `mask` (B, all tokens) covers what is in the cache."""
    accepted = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {}
    if "position_ids" in accepted:
        more["position_ids"] = positions.to(model.device)
    if "logits_to_keep" in accepted:
        more["logits_to_keep"] = 1
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        use_cache=True,
        **more,
    )
    logits: Tensor = output.logits[:, -1]
    return logits.float()


def _finish(row: Row, tokenizer: Any, ends: frozenset[int]) -> bool:
    """Is the row finished by what it has? Then text and stop reason are filled, and tokens after a stop string gone."""
    ended = row.ids[-1] in ends
    full = len(row.ids) >= row.room
    look = row.stop and len(row.ids) % STOP_EVERY == 0
    if not (ended or full or (look and _stops(row, tokenizer, row.ids[-_tail(row) :]))):
        return False
    kept = row.ids[:-1] if ended else row.ids
    if row.stop and _stops(row, tokenizer, kept):
        # Tokens were sampled since the stop string was whole: the fewest that have it are the completion.
        lengths = range(1, len(kept) + 1)
        kept = kept[: lengths[bisect.bisect_left(lengths, True, key=lambda n: _stops(row, tokenizer, kept[:n]))]]
        for per_token in (row.ids, row.logprobs, row.own_logprobs):
            del per_token[len(kept) :]
        ended = True
    elif not (ended or full):
        return False  # what looked like a stop string in the tail is none in the whole text
    text = added_text(tokenizer, row.prompt_ids, kept)
    row.text = text[: min((place for place in map(text.find, row.stop) if place >= 0), default=len(text))]
    row.stop_reason = "stop" if ended else "length"
    return True


def _tail(row: Row) -> int:
    """Tokens at the end of which one may have completed a stop string since the last search."""
    return STOP_EVERY + 2 * max(map(len, row.stop))


def _stops(row: Row, tokenizer: Any, ids: list[int]) -> bool:
    """Has the text of `ids` a stop string in it?"""
    text = added_text(tokenizer, row.prompt_ids, ids)
    return any(stop in text for stop in row.stop)
