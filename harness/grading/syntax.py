"""The syntax tree of a program that a model wrote: `parse`. Nothing is run."""

from __future__ import annotations

import ast
import warnings


def parse(program: str) -> ast.Module | None:
    """None where the text is no Python, or too deeply nested to be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubtful escapes and the like are the program's
        try:
            return ast.parse(program)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
