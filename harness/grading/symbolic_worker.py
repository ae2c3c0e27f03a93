"""The process that runs math-verify, which parses model text with sympy: JSON lines in, JSON lines out.

Started by `harness.grading.symbolic` as a script, never imported. Says {"ready": true} or {"missing": true} first, then
answers {"number", "answer", "reference", "cpu_s"} with {"number", "equal": bool} or {"number", "failed": reason}. Only
math-verify's LaTeX reader is used: its reader of plain expressions evaluates Python. Its own timeouts are off (they
need SIGALRM and return False for "don't know"): the kernel's limit on CPU seconds ends this process instead.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys

MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answers requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not look like a reply
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from math_verify import LatexExtractionConfig, parse, verify
    except ImportError:
        print(json.dumps({"missing": True}), file=replies, flush=True)
        return
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    config = [LatexExtractionConfig()]
    for line in sys.stdin:
        request = json.loads(line)
        _allow_cpu(request["cpu_s"])
        try:
            answer, reference = (
                parse(f"${request[name]}$", config, fallback_mode="no_fallback", parsing_timeout=None)
                for name in ("answer", "reference")
            )
            # Arguments of verify are (gold, target).
            reply: dict[str, bool | str] = {
                "equal": bool(verify(reference, answer, timeout_seconds=None, raise_on_error=True))
            }
        except (MemoryError, RecursionError) as error:
            reply = {"failed": type(error).__name__}
        except Exception:  # whatever sympy raises on odd pairs: as mathematics they are not known to be equal
            reply = {"equal": False}
        print(json.dumps({"number": request["number"], **reply}), file=replies, flush=True)


def _allow_cpu(seconds: float) -> None:
    """The kernel ends this process when it has used `seconds` more than until now, rounded up to whole seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
