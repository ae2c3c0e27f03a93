"""A server that speaks enough of the OpenAI API to be asked, and fails as it is told: real HTTP on a loopback port.

`serve(...)` starts one in threads of its own and stops it at the end. A good answer's text is a function of prompt and
seed (`text_for`), so a test knows what must come back for every problem and index. `faults` gives the fault for a
request, or None; the server remembers all that it saw.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "org/served"
ENTRY = {"id": MODEL, "object": "model", "created": 0, "owned_by": "tests", "root": "weights-1"}


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    attempt: int
    """How often this very body came before."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What to do instead of a good answer."""

    status: int = 200
    body: bytes | None = None
    """None: the good answer's."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """Bytes of the body that are sent before the connection is closed."""
    sleep_s: float = 0.0
    edit: Callable[[dict[str, Any]], None] = lambda answer: None
    """Changes the good answer."""


Faults = Callable[[Seen], Fault | None]


class FaultyServer(ThreadingHTTPServer):
    """Counts what it sees."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, faults: Faults, *, work_s: float, port: int, entry: dict[str, Any] | None, chat: bool) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.faults, self.work_s, self.entry, self.chat = faults, work_s, entry, chat
        self.seen: list[Seen] = []
        self.now = 0
        self.most = 0
        """Most requests that were being answered at the same time."""
        self.connections = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> list[Seen]:
        """Requests for completions."""
        return [seen for seen in self.seen if not seen.path.endswith("/models") and seen.body.get("max_tokens") != 16]

    def remember(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        with self.lock:
            attempt = sum(seen.body == body and seen.path == path for seen in self.seen)
            self.seen.append(Seen(path, body, headers, time.monotonic(), attempt))
            return self.seen[-1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for one another
    server: FaultyServer

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections -= 1
        super().finish()

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        seen = self.server.remember(self.path, {}, dict(self.headers))
        models = {"object": "list", "data": [self.server.entry]}
        found = self.path == "/v1/models" and self.server.entry is not None
        self._answer(seen, models if found else {"error": {"message": "no such thing"}}, 200 if found else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = self.server.remember(self.path, body, dict(self.headers))
        with self.server.lock:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            time.sleep(self.server.work_s)
            if seen.path.endswith("/chat/completions") and not self.server.chat:
                self._answer(seen, {"error": {"message": "there is no chat template"}}, 400)
            else:
                self._answer(seen, good_answer(seen), 200)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def _answer(self, seen: Seen, answer: dict[str, Any], status: int) -> None:
        fault = self.server.faults(seen) or Fault(status=status)
        time.sleep(fault.sleep_s)
        fault.edit(answer)
        content = json.dumps(answer).encode() if fault.body is None else fault.body
        self.send_response(fault.status)
        for name, value in {"Content-Type": "application/json", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: fault.cut_at])
        self.wfile.flush()
        self.close_connection = fault.cut_at is not None


def text_for(prompt: str, seed: int | None) -> str:
    """What a good answer says."""
    return f" {prompt}/{seed}"


def good_answer(seen: Seen) -> dict[str, Any]:
    """An answer with the tokens " " and the rest of the text, each of log-probability -0.5 for a prompt's letter."""
    body, n = seen.body, seen.body.get("n", 1)
    chat = seen.path.endswith("/chat/completions")
    prompt = body["messages"][-1]["content"] if chat else body["prompt"]
    seed = body.get("seed")
    texts = [text_for(prompt, None if seed is None else seed + i) for i in range(n)]
    choices: list[dict[str, Any]] = []
    for i, text in enumerate(texts):
        tokens = [text[:1], text[1:]]
        choice: dict[str, Any] = {"index": i, "finish_reason": "stop", "logprobs": None}
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": token, "logprob": -0.5} for token in tokens]}
        else:
            choice["text"] = text
            if body.get("logprobs"):
                choice["logprobs"] = {"tokens": tokens, "token_logprobs": [-0.5, -0.5]}
        choices.append(choice)
    usage = {"prompt_tokens": 3, "completion_tokens": 2 * n, "total_tokens": 3 + 2 * n}
    return {"id": "x", "model": body["model"], "choices": choices, "usage": usage}


@contextlib.contextmanager
def serve(
    faults: Faults = lambda seen: None,
    *,
    work_s: float = 0.0,
    port: int = 0,
    entry: dict[str, Any] | None = ENTRY,
    chat: bool = False,
) -> Iterator[FaultyServer]:
    """A running server; it has no chat template unless `chat`."""
    with FaultyServer(faults, work_s=work_s, port=port, entry=entry, chat=chat) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
