"""A patient HTTP client for JSON: `open_client` opens one, its `ask` sends a request until there is a usable answer.

Sent again, with exponential backoff and full jitter: what fails on the way (no connection, cut off, too slow), statuses
408, 409, 425, 429 and 5xx (but 501), and answers that are no JSON or that the caller finds unusable. A Retry-After, in
seconds or as a date, holds back all requests of the client. Never sent again: other statuses, which say that the
request itself is wrong; the error quotes the server. The one place that imports httpx2, which huggingface_hub has too.

The key is read from the environment when a connection is opened, is kept nowhere else, and is cut out of what a server
says. A server on this machine is never reached through a proxy. Not handled: streamed answers, keys in other headers
than Authorization, redirects (an error says where they lead).
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import itertools
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from harness.errors import HarnessError, InputError, MissingDependency

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429})
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 60.0
LONGEST_RETRY_AFTER_S = 600.0
"""Who asks for more than this is not waited for."""
CONNECT_S = 30.0
SHOWN = 300
"""Characters of a server's message that an error quotes."""


class Refused(InputError):
    """The server says that the request is wrong; the same one would be refused again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class GaveUp(HarnessError):
    """No usable answer in all attempts; `status` is None if the last one had no answer at all."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class Unusable(Exception):
    """Raised by a reader of answers: this one cannot be used, another attempt may bring a better one."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach a server. Holds the name of the variable with the key, not the key."""

    base_url: str
    api_key_env: str
    timeout_s: float
    max_retries: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(kw_only=True)
class Pace:
    """When the next request may start: evenly spaced, never in bursts."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    _next: float = 0.0
    _closed_until: float = 0.0

    async def turn(self) -> None:
        """Waits until a request may start."""
        start = max(self._next, time.monotonic())
        self._next = start + (60 / self.requests_per_minute if self.requests_per_minute else 0)
        while (now := time.monotonic()) < (until := max(start, self._closed_until)):
            await asyncio.sleep(until - now)

    def charge(self, tokens: int) -> None:
        """Tokens are known afterwards only: they move the next start, so that the limit holds on average."""
        if self.tokens_per_minute:
            self._next = max(self._next, time.monotonic()) + 60 * tokens / self.tokens_per_minute

    def close(self, seconds: float) -> None:
        """No request starts for so long."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)


@dataclass(frozen=True)
class _Fault:
    """Why an attempt failed that is worth another."""

    kind: str
    reason: str
    status: int | None = None
    retry_after_s: float | None = None


@dataclass(kw_only=True)
class Client:
    """What `open_client` gives."""

    connection: Connection
    pace: Pace
    repeated: Counter[str]
    """How many requests were sent again, by reason."""
    _http: httpx2.AsyncClient
    _key: str | None = field(repr=False)

    async def ask(self, path: str, body: dict[str, Any] | None = None, *, read: Callable[[Any], T], about: str) -> T:
        """What `read` makes of the answer to a request: POST if there is a body, else GET.

        Raises:
            Refused: the server says that the request is wrong.
            GaveUp: no answer that could be used came in 1 + `max_retries` attempts.
        """
        for attempt in itertools.count():
            await self.pace.turn()
            outcome = await self._attempt(path, body, read, about)
            if not isinstance(outcome, _Fault):
                return outcome
            wait = outcome.retry_after_s or 0.0
            if attempt >= self.connection.max_retries or wait > LONGEST_RETRY_AFTER_S:
                raise self._gave_up(outcome, about, attempt + 1)
            self.repeated[outcome.kind] += 1
            self.pace.close(wait)
            backoff = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt, 20))
            await asyncio.sleep(wait + random.uniform(0, backoff))
        raise AssertionError("the loop above does not end")

    async def _attempt(
        self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T], about: str
    ) -> T | _Fault:
        import httpx2

        content = None if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(self.connection.timeout_s):
                method = "GET" if content is None else "POST"
                response = await self._http.request(method, f"{self.connection.base_url}{path}", content=content)
        except TimeoutError:
            return _Fault("too slow", f"no whole answer within timeout_s={self.connection.timeout_s:g}")
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            words = self._quotable(str(error)) or type(error).__name__
            return _Fault("no connection" if isinstance(error, httpx2.ConnectError) else "cut off", words)
        if not response.is_success:
            return self._judged(response, about)
        try:
            return read(json.loads(response.content))
        except (ValueError, RecursionError):  # not JSON, or not UTF-8
            return _Fault("not JSON", f"an answer that is not JSON: {self._quotable(response.text)!r}", 200)
        except Unusable as error:
            return _Fault("unusable", f"an answer that cannot be used: {self._quotable(str(error))}", 200)

    def _judged(self, response: httpx2.Response, about: str) -> _Fault:
        """A status that is worth another attempt, or the error that ends them."""
        status, message = response.status_code, self._quotable(_message(response))
        exhausted = status == 429 and "insufficient_quota" in response.text
        if (status in RETRIED or status >= 500) and status != 501 and not exhausted:
            return _Fault(str(status), f"{status}: {message!r}", status, _retry_after(response.headers))
        if response.is_redirect:
            message = f"moved to {self._quotable(response.headers.get('location', 'nowhere'))}"
        hints = {
            401: f"set the environment variable {self.connection.api_key_env} to a key of this server",
            403: f"use a key ({self.connection.api_key_env}) that may do this",
            404: "check the model's name, and that base_url ends where /models and /completions begin (often in /v1)",
            429: "the account has no credit left",
        }
        hint = hints.get(status, "change what it names, or leave the problem out")
        if response.is_redirect:
            hint = "give the address where it leads as base_url"
        raise Refused(
            f"{about}: the server at {self.connection.base_url} refuses with {status} ({message!r}): {hint}.", status
        )

    def _gave_up(self, fault: _Fault, about: str, attempts: int) -> GaveUp:
        times = "once" if attempts == 1 else f"{attempts} times"
        if (fault.retry_after_s or 0) > LONGEST_RETRY_AFTER_S:
            times += f" and is to be left alone for {fault.retry_after_s:.0f} s"
        return GaveUp(
            f"{about}: the server at {self.connection.base_url} was asked {times} in vain (the last time "
            f"{fault.reason}): see to the server, and repeat the command, which goes on where it stopped.",
            fault.status,
        )

    def _quotable(self, text: str) -> str:
        """One short line without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


@contextlib.asynccontextmanager
async def open_client(connection: Connection, *, concurrency: int) -> AsyncIterator[Client]:
    """A client with connections of its own, closed at the end."""
    httpx = package()
    key = os.environ.get(connection.api_key_env, "").strip() or None
    headers = {"content-type": "application/json", "accept": "application/json"}
    if key:
        if not re.fullmatch(r"[!-~]+", key):
            raise InputError(
                f"the environment variable {connection.api_key_env} holds characters that no key has: set it again."
            )
        headers["authorization"] = f"Bearer {key}"
    async with httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=min(CONNECT_S, connection.timeout_s)),
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        trust_env=not on_this_machine(connection.base_url),
        verify=connection.base_url.startswith("https:"),  # reading the certificates takes a while
    ) as http:
        pace = Pace(requests_per_minute=connection.requests_per_minute, tokens_per_minute=connection.tokens_per_minute)
        yield Client(connection=connection, pace=pace, repeated=Counter(), _http=http, _key=key)


def package() -> Any:
    """The module httpx2."""
    try:
        import httpx2
    except ImportError as error:
        raise MissingDependency("httpx2", "openai", "the sampler openai") from error
    return httpx2


def check_url(base_url: str) -> str:
    """The address without a slash at its end; nothing secret may be in it, for it is written into manifests."""
    url = urlsplit(base_url)
    if url.username or url.password or url.query or url.fragment:
        raise InputError(
            "base_url holds a user name, a password or a query: leave them out, and give a key by the environment."
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InputError(f"base_url {base_url!r} is no address: give one like http://localhost:8000/v1.")
    for ending in ("/chat/completions", "/completions", "/models"):
        if url.path.rstrip("/").endswith(ending):
            raise InputError(f"base_url {base_url!r} goes on after the part that all requests share: cut {ending}.")
    return base_url.rstrip("/")


def on_this_machine(base_url: str) -> bool:
    """Whether the host is a loopback address or localhost."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait, from the header Retry-After (RFC 9110, 10.2.3); None if there is none that can be read."""
    text = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _message(response: Any) -> str:
    """The server's own words: OpenAI's {"error": {"message"}}, {"message"}, FastAPI's {"detail"}, or plain text."""
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        return str(response.text)
    while isinstance(found, dict):
        found = next((found[name] for name in ("error", "message", "detail") if found.get(name)), str(found))
    return found if isinstance(found, str) else json.dumps(found)
