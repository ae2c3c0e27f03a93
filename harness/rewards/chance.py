"""Random numbers from names: `coin` of the same names is the same number, in any order, process or batch."""

from __future__ import annotations

import hashlib
import json


def coin(*names: str | int) -> float:
    """A number in [0, 1), uniform over names."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
