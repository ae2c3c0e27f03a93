"""Our rewards for a trainer of your own: `score` in its reward function, `serve` around its command.

    from harness.scoring import score

    def reward(problem_ids, completions):
        return score(problem_ids, completions)      # one number each; None: could not be graded

`serve` answers on this machine only, at the address in HARNESS_SCORING_URL, which has a secret in it: POST
`{"problem_id": ..., "completion": ...}` gives `{"problem_id", "reward", "terms", "passed"}`, and a list gives a list;
an error is `{"error": one sentence}`. It extracts, runs and rewards as a run of ours does, cuts a text at the stop
strings as our samplers do, and knows the problems that it was given alone: test problems are refused.

Not handled: trainers on other machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from harness.errors import HarnessError, InputError
from harness.progress import Progress, silent
from harness.recipes import Reward
from harness.rewards import needs_all_tests
from harness.sandbox import open_sandbox
from harness.service import MOST_COMPLETIONS, Asked, Service, known_problems, timed
from harness.types import Form, Task

URL = "HARNESS_SCORING_URL"
"""Environment variable: where the service of a command listens."""
MOST_BYTES = 256 << 20
"""Of one request."""
MOST_REQUESTS = 128
"""Under way at the same time."""
PATIENCE_S = 3600.0


# --- in the trainer


def score(
    problem_ids: Sequence[str], completions: Sequence[Any], *, n_tokens: Sequence[int] | None = None
) -> list[float | None]:
    """The treatment's reward of each completion; None where it could not be measured: leave such a one out.

    Args:
        problem_ids: of the completions, as {train} and {val} have them.
        completions: what the model wrote after the prompt: texts, or chat replies as lists of messages.
        n_tokens: of the completions; only the term `length` needs it.

    Raises:
        HarnessError: there is no service, or it refuses; the message is one sentence.
    """
    if URL not in os.environ:
        raise HarnessError(f"{URL} is not set: score works in a command that the harness has started.")
    counts: Sequence[int | None] = n_tokens if n_tokens is not None else [None] * len(problem_ids)
    asked = [
        {"problem_id": name, "completion": text if isinstance(text, str) else text[-1]["content"], "n_tokens": count}
        for name, text, count in zip(problem_ids, completions, counts, strict=True)
    ]
    rewards: list[float | None] = [None] * len(asked)
    for places in _requests(problem_ids):
        for place, answer in zip(places, _post(os.environ[URL], [asked[place] for place in places]), strict=True):
            rewards[place] = answer["reward"]
    return rewards


def _requests(problem_ids: Sequence[str]) -> Iterator[list[int]]:
    """Places of what is sent together: all completions of a problem are."""
    places_of: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(problem_ids):
        places_of[name].append(place)
    together: list[int] = []
    for places in places_of.values():
        if together and len(together) + len(places) > MOST_COMPLETIONS:
            yield together
            together = []
        together += places
    if together:
        yield together


def _post(url: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(asked).encode(), headers={"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's own
    try:
        with direct.open(request, timeout=PATIENCE_S) as reply:
            answers: list[dict[str, Any]] = json.load(reply)
            return answers
    except urllib.error.HTTPError as error:
        raise HarnessError(json.load(error)["error"]) from error
    except OSError as error:
        raise HarnessError(f"the scoring service does not answer ({error}): has the harness ended?") from error


# --- in the harness


@contextlib.contextmanager
def serve(
    tasks: Sequence[Task],
    reward: Reward,
    *,
    form: Form = "continuation",
    stop: Sequence[str] = (),
    workers: int | None = None,
    tier: str = "auto",
    progress: Progress = silent,
) -> Iterator[Service]:
    """A service on a port of its own, closed with the block.

    Args:
        tasks: whose problems can be scored, training and validation problems.
        reward: the treatment's.
        form: of the completions: "message" where prompts go through a chat template.
        stop: where a completion is cut, in place of the problems' own stop strings.
        workers: programs run side by side; None: one per core.
        tier: how programs are isolated.
        progress: told of gold solutions that fail.
    """
    problems = known_problems(tasks)
    with contextlib.ExitStack() as stack:
        sandbox = None
        if any(problem.tests for _, problem in problems.values()):
            sandbox = stack.enter_context(
                contextlib.closing(open_sandbox(workers=workers, tier=tier, all_tests=needs_all_tests(reward)))
            )
            problems = timed(problems, sandbox, progress=progress)
        service = Service(problems, reward, form=form, stop=stop)
        if sandbox is not None:
            thread = threading.Thread(target=service.run_programs, args=(sandbox,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(service.stop)
        server = _Server(service)
        stack.callback(server.server_close)
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        stack.callback(server.shutdown)
        service.url = f"http://127.0.0.1:{server.server_port}{server.path}"
        yield service


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_REQUESTS

    def __init__(self, service: Service) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = service
        self.path = f"/{secrets.token_urlsafe(16)}"
        self.free = threading.BoundedSemaphore(MOST_REQUESTS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S
    server: _Server

    def do_POST(self) -> None:
        status, answer = self._answered()
        body = json.dumps({"error": answer} if isinstance(answer, str) else answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status != 200:
            self.send_header("Connection", "close")  # the request may not have been read
        self.end_headers()
        self.wfile.write(body)

    def _answered(self) -> tuple[int, Any]:
        """Status, and the answer or a sentence."""
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            return 403, f"this is not the address in {URL}."
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, "a request says how long it is: send Content-Length."
        if int(length) > MOST_BYTES:
            return 413, f"{length} bytes in one request: send at most {MOST_BYTES}."
        if not self.server.free.acquire(blocking=False):
            return 503, f"{MOST_REQUESTS} requests are under way: send more completions in one request."
        try:
            asked = msgspec.json.decode(self.rfile.read(int(length)), type=Asked | list[Asked])
            if isinstance(asked, list):
                return 200, self.server.service.answers(asked)
            return 200, self.server.service.answers([asked])[0]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return 400, f'the request is not {{"problem_id": ..., "completion": ...}} or a list of those ({error}).'
        except InputError as error:
            return 400, str(error)
        except Exception as error:  # it is raised again by `check`
            self.server.service.fail(error)
            return 500, f"the completions could not be scored ({type(error).__name__}: {error})."
        finally:
            self.server.free.release()

    def log_message(self, *_: Any) -> None:
        """Standard error is the user's."""
