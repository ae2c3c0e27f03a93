"""Is an answer the expected one? For call tests (values) and stdio tests (text). Script tests compare for themselves.

Main functions: `same_value`, `same_output`; `digest_value` and `digest_output` name equal answers equally, for votes.
They run in the judge on decoded plain data. Not handled: several right answers; that takes a script test.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice, zip_longest
from math import isclose, isfinite, isnan
from typing import Any

from harness.sandbox import plain

RELATIVE = 1e-6
ABSOLUTE = 1e-9
"""A number is close if it is off by no more than the larger of RELATIVE x the larger number and ABSOLUTE."""
NUMERAL = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""What may stand for a decimal: `1.50` may be given as `1.5`, `15e-1` and, where it is whole, without a point."""
DECIMAL = re.compile(rb"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
"""What is expected as a decimal, with a tolerance: it has a point. `1e3` may be a label and is text."""
MAX_NUMERAL = 400
"""Characters of a token that is read as a number."""
SPACE, WORD = re.compile(rb"[\t-\r ]"), re.compile(rb"[^ ]+")
PIECE = 1 << 20
SHOWN = 60
"""Characters of a value in a message."""
MAX_VALUE_TEXT = 200
"""Characters of a value in a record."""


def same_value(expected: Any, got: Any) -> bool:
    """Python's ==, but a list expected (JSON has no tuples) may be a tuple, and expected floats have a tolerance."""
    if type(expected) is float:
        return _close(expected, got)
    if type(expected) in (list, tuple):
        types = (list, tuple) if type(expected) is list else (tuple,)
        return type(got) in types and len(expected) == len(got) and all(map(same_value, expected, got))
    if type(expected) is dict:
        return (
            type(got) in (dict, OrderedDict)
            and expected.keys() == got.keys()
            and all(same_value(expected[k], got[k]) for k in got)
        )
    return bool(expected == got)


def _close(expected: float, got: Any) -> bool:
    if type(got) not in (int, float, bool):
        return False
    if isnan(expected):
        return bool(got != got)
    try:
        return expected == got or isclose(expected, got, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except OverflowError:  # an integer beyond every float
        return False


def same_output(expected: str, got: str) -> bool:
    """All tokens between ASCII white space must agree; an expected number with a decimal point has a tolerance."""
    return explain_output(expected, got) is None


def explain_output(expected: str, got: str) -> str | None:
    """Where the outputs differ, for people; None if they are the same."""
    return explain_words(words(expected), words(got))


def words(text: str | bytes) -> bytes:
    """The tokens with one space after each, and nothing else. Some at a time: a list of all would take much memory."""
    data = _encoded(text) if isinstance(text, str) else text
    found = bytearray()
    start = 0
    while start < len(data):
        space = SPACE.search(data, start + PIECE)
        end = space.start() if space else len(data)
        piece = data[start:end].split()  # at ASCII white space only
        if piece:
            found += b" ".join(piece) + b" "
        start = end
    return bytes(found)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # bytes that are no UTF-8, as Python reads them
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def explain_words(expected: bytes, got: bytes) -> str | None:
    """Where the outputs, as `words` gives them, differ, for people; None if they are the same."""
    position = start = 0
    while expected[start : start + PIECE] == got[start : start + PIECE]:
        start += PIECE
        if start >= len(expected) and start >= len(got):
            return None
    start = expected.rfind(b" ", 0, start) + 1  # the last token before it may go on after it
    position = expected.count(b" ", 0, start)
    for wanted, found in zip_longest(_each(expected, start), _each(got, start)):
        position += 1
        if wanted != found and (wanted is None or found is None or not _same_token(wanted, found)):
            return f"token {position}: expected {_shown_token(wanted)}, got {_shown_token(found)}"
    return None


def _each(words: bytes, start: int) -> Iterator[bytes]:
    return (found.group() for found in WORD.finditer(words, start))


def _shown_token(token: bytes | None) -> str:
    return shown(None if token is None else token.decode("utf-8", "surrogateescape"))


def _same_token(wanted: bytes, found: bytes) -> bool:
    if b"." not in wanted or max(len(wanted), len(found)) > MAX_NUMERAL:
        return False
    if DECIMAL.fullmatch(wanted) is None or NUMERAL.fullmatch(found) is None:
        return False
    number, other = float(wanted), float(found)
    return isfinite(number) and isfinite(other) and isclose(number, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def digest_value(value: Any) -> str:
    """The same short name for values that are equal under ==, but for tuples, which count as lists."""
    return _digest(plain.dumps(_canonical(plain.encode(value))))


def digest_output(text: str) -> str:
    """The same short name for outputs of the same tokens."""
    return digest_words(words(text))


def digest_words(found: bytes) -> str:
    """The same short name for outputs of the same `words`."""
    return _digest(found[:-1])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _canonical(data: plain.Encoded) -> plain.Encoded:
    """Encoded data in which order does not matter where it does not in Python, and equal numbers look equal."""
    if type(data) is bool or (type(data) is float and data.is_integer()):
        return int(data) if abs(data) < plain.SMALL_INT else data
    if type(data) is list:
        return [_canonical(item) for item in data]
    if type(data) is not dict:
        return data
    ((tag, body),) = data.items()
    body = _canonical(body)
    if tag == "t":
        return body
    same = {"z": "s", "O": "d"}.get(tag) or str(tag)
    return {same: sorted(body, key=plain.dumps) if same in "sd" else body}


def shown(value: Any) -> str:
    """A value in a message: short, on one line, and never failing."""
    try:
        text = repr(value)
    except (ValueError, RecursionError, MemoryError):  # integers beyond Python's limit of digits
        return f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class _NoText(Exception):
    """A value that holds an object of the program's own."""


def value_text(value: Any) -> str | None:
    """A value in a record: as Python writes it, the same for equal sets, and cut at MAX_VALUE_TEXT. Never failing.

    None where an object of the program's own is among what is written: that is equal to nothing.
    """
    try:
        text = _written(value)
    except _NoText:
        return None
    except (ValueError, RecursionError, MemoryError):  # as for `shown`
        return f"<{type(value).__name__}>"
    return text if len(text) <= MAX_VALUE_TEXT else f"{text[: MAX_VALUE_TEXT - 3]}..."


def _written(value: Any) -> str:
    """repr, as far as it is kept, but the members of sets in one order: each judge hashes texts in its own way."""
    kind = type(value)
    if kind is plain.Opaque:
        raise _NoText
    if kind is plain.Consumed:
        return f"iter({_written(list(copy.copy(value.items)))})"  # it can be read once, and others want to
    if kind in (set, frozenset) and value:
        inner = f"{{{', '.join(sorted(map(_written, value)))}}}"
        return inner if kind is set else f"frozenset({inner})"
    if kind in (list, tuple):
        items = ", ".join(map(_written, value[:MAX_VALUE_TEXT]))
        return f"[{items}]" if kind is list else f"({items},)" if len(value) == 1 else f"({items})"
    if kind is dict:
        pairs = islice(value.items(), MAX_VALUE_TEXT)
        return f"{{{', '.join(f'{_written(key)}: {_written(item)}' for key, item in pairs)}}}"
    return repr(value[: MAX_VALUE_TEXT + 1] if kind in (str, bytes) else value)
