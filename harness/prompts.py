"""Few-shot prompts: `worked_examples` renders solved examples as the text before a problem's prompt.

Not handled: chat templates, which are the sampler's; examples chosen per problem.
"""

from __future__ import annotations

from collections.abc import Iterable


def worked_examples(examples: Iterable[tuple[str, str]], *, instruction: str = "") -> str:
    """The instruction and every (prompt, solution), a blank line after each: a problem's prompt can follow."""
    blocks = [instruction] if instruction else []
    blocks += [f"{prompt} {solution.strip()}" for prompt, solution in examples]
    return "".join(f"{block}\n\n" for block in blocks)
