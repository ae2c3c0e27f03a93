"""What a user should know of a server's answers when all are there: `Notes` counts, `sentences` tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from harness.samplers.openai_api import CUT, STOPPED, Answer, Choice, Settings
from harness.types import Budget, Completion

SHOWN = 5
"""Names of models that a sentence lists."""


@dataclass(kw_only=False)
class Notes:
    """Counts over one call of `sample`."""

    settings: Settings
    repeated: Counter[str] = field(default_factory=Counter)
    """Requests that were sent again, by reason."""
    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    short: int = 0
    reasoned: int = 0
    empty: int = 0
    scored: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    fingerprints: Counter[str] = field(default_factory=Counter)
    _first: dict[str, int] = field(default_factory=dict)
    _several: dict[str, bool] = field(default_factory=dict)
    """Problems with two completions or more: whether they differ."""

    def answer(self, answer: Answer, asked: int) -> None:
        """Counts one answer to a request for `asked` completions."""
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            self.uncounted += 1
        self.prompt_tokens += answer.prompt_tokens or 0
        self.completion_tokens += answer.completion_tokens or 0
        self.short += len(answer.choices) < asked
        if answer.model is not None:
            self.models[answer.model] += 1
        if answer.fingerprint is not None:
            self.fingerprints[answer.fingerprint] += 1

    def completion(self, completion: Completion, choice: Choice) -> None:
        """Counts one completion."""
        self.completions += 1
        self.reasoned += choice.reasoned
        self.empty += choice.empty
        self.scored += completion.logprob is not None
        if choice.finish_reason not in STOPPED | CUT:
            self.ends[choice.finish_reason or "none"] += 1
        text, name = hash(completion.text), completion.problem_id
        if name in self._first:
            self._several[name] = self._several.get(name, False) or self._first[name] != text
        self._first.setdefault(name, text)

    def sentences(self, budget: Budget) -> list[str]:
        """One for each thing worth telling."""
        if not self.completions and not self.repeated:
            return []
        told = [self._usage()]
        if self.repeated:
            reasons = ", ".join(f"{reason}: {times}" for reason, times in self.repeated.most_common())
            told.append(f"{_many(sum(self.repeated.values()), 'request')} had to be sent again ({reasons}).")
        if self.short:
            told.append(
                f"{_many(self.short, 'answer')} had fewer completions than were asked for: the rest was asked again."
            )
        for reason, times in self.ends.most_common():
            told.append(
                f"{_many(times, 'completion')} ended neither by itself nor at max_tokens: finish_reason {reason}."
            )
        if self.empty:
            told.append(f"{_many(self.empty, 'completion')} came without text, which is taken as empty.")
        if self.reasoned:
            told.append(f"{_many(self.reasoned, 'completion')} came with reasoning, which is not in the text.")
        if self.completions and not self.scored:
            told.append("the server gave no log-probabilities.")
        elif self.scored < self.completions:
            told.append(f"{_many(self.completions - self.scored, 'completion')} came without log-probability.")
        others = [name for name in self.models if name != self.settings.model]
        if others:
            told.append(f"the server says that {' and '.join(others[:SHOWN])} answered for {self.settings.model}.")
        if len(self.fingerprints) > 1:
            told.append(f"the server changed while it was used: {len(self.fingerprints)} values of system_fingerprint.")
        if budget.temperature > 0 and self._several and not any(self._several.values()):
            told.append(
                f"all completions of each problem are equal at temperature {budget.temperature:g}: "
                "does this server sample, and does it take the seed for more than one request?"
            )
        return told

    def _usage(self) -> str:
        tokens = f"{self.prompt_tokens} tokens of prompts and {self.completion_tokens} of completions"
        missing = f", without {_many(self.uncounted, 'answer')} that did not say" if self.uncounted else ""
        return f"the server counted {tokens}{missing}."


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
