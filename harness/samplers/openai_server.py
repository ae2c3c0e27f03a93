"""What a server says of itself before anything is sampled: `meet` finds which API it speaks and which model it serves.

The identity of a model is a hash of its name, the API, the system message, the extra fields and the server's entry for
it in `/models`: `IDENTIFYING`, the fields that stay the same while the model does. (`created` does not: vLLM, SGLang
and llama.cpp put the present time there.) Where the entry names a folder on this machine as the model's `root`, the
folder's files are hashed in its place, so that a checkpoint that is saved again is another model. The address is not in
it: a run goes on when the server has moved.

No answer can guarantee that the weights behind a name stay the same; a folder of them, given with `weights`, can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import HarnessError, InputError
from harness.samplers import hf_model
from harness.samplers.background import Worker, stream
from harness.samplers.http_client import Client, Connection, GaveUp, Refused, Unusable, on_this_machine, open_client
from harness.samplers.openai_api import Api, read_answer

IDENTIFYING = ("id", "root", "parent", "owned_by", "object")
MEASURES = ("n_params", "size", "n_vocab", "n_embd", "n_ctx_train", "vocab_type")
"""Of llama.cpp's `meta`."""
FIRST_RETRIES = 3
"""At the first contact: nobody is to wait minutes to be told that the port is wrong."""
NO_SUCH_API = frozenset({400, 404, 405, 422, 501})


@dataclass(frozen=True, kw_only=True)
class Met:
    """What was found out."""

    api: Api
    entry: dict[str, Any] | None
    """The server's entry for the model; None: it has none."""

    @property
    def vendor(self) -> str:
        """`owned_by`, "" where the server says nothing."""
        return str((self.entry or {}).get("owned_by") or "").lower()


def meet(connection: Connection, model: str, api: str, max_tokens_field: str) -> Met:
    """Asks the server; `api` "auto" is chat where a chat request succeeds, as it does where there is a template."""
    connection = replace(connection, max_retries=min(FIRST_RETRIES, connection.max_retries))

    @asynccontextmanager
    async def start() -> AsyncIterator[Worker[str, Met]]:
        async with open_client(connection, concurrency=1) as client:

            async def first_contact(name: str) -> AsyncIterator[Met]:
                entry = await _entry(client, name)
                yield Met(api=await _which(client, name, api, max_tokens_field), entry=entry)

            yield first_contact

    (met,) = stream([model], start, concurrency=1)
    return met


async def _entry(client: Client, model: str) -> dict[str, Any] | None:
    def listed(found: Any) -> list[dict[str, Any]]:
        rows = found.get("data") if isinstance(found, dict) else None
        if not isinstance(rows, list):
            raise Unusable(f"no list of models in {found!r:.200}")
        return [row for row in rows if isinstance(row, dict)]

    def one(found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise Unusable(f"no model in {found!r:.200}")
        return found

    try:
        rows = await client.ask("/models", read=listed, about="the list of models")
        for row in rows:
            if row.get("id") == model:
                return row
        found = await client.ask(f"/models/{quote(model, safe='')}", read=one, about=f"the model {model}")
    except Refused as error:
        if error.status in (401, 403):
            raise
        return None
    except GaveUp as error:
        if error.status is None:
            raise  # there is no server; one that stumbles over this question may still answer others
        return None
    return found if found.get("id") == model else None


async def _which(client: Client, model: str, api: str, max_tokens_field: str) -> Api:
    """The API to use; only "auto" costs requests, of a few tokens each."""
    if api == "chat" or api == "completions":
        return "chat" if api == "chat" else "completions"
    chat = {"messages": [{"role": "user", "content": "Hi"}], max_tokens_field: 16}
    plain = {"prompt": "Hi", "max_tokens": 16}

    async def answers(kind: Api, body: dict[str, Any]) -> HarnessError | None:
        path = "/chat/completions" if kind == "chat" else "/completions"
        body = {"model": model, **body}
        try:
            await client.ask(
                path, body, read=lambda found: read_answer(found, kind, 1), about=f"a first {kind} request"
            )
        except Refused as error:
            if error.status not in NO_SUCH_API:
                raise
            return error
        except GaveUp as error:
            if error.status is None:
                raise
            return error
        return None

    refusal = await answers("chat", chat)
    if refusal is None:
        return "chat"
    if await answers("completions", plain) is None:
        return "completions"
    raise refusal


def identity(model: str, met: Met, connection: Connection, *, weights: str | None, parts: dict[str, Any]) -> str:
    """SHA-256 over what is known of the model and over `parts`, what else changes its completions."""
    entry = met.entry or {}
    known: dict[str, Any] = {name: entry[name] for name in IDENTIFYING if isinstance(entry.get(name), str)}
    if isinstance(entry.get("meta"), dict):
        known["meta"] = {name: entry["meta"][name] for name in MEASURES if name in entry["meta"]}
    folder = _folder(known.get("root"), connection, weights)
    if folder is not None:
        known.pop("root", None)
        known["weights"] = hf_model.identity(folder, "served", None, None)
    text = json.dumps({"model": model, "api": met.api, "server": known, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _folder(root: str | None, connection: Connection, weights: str | None) -> Path | None:
    """The folder of the weights: the user's word, or where a server on this machine says that they are."""
    if weights is not None:
        folder = Path(weights).expanduser()
        if not (folder / "config.json").is_file():
            raise InputError(f"weights={weights} is not a model's folder: it has no config.json.")
        return folder
    if root and on_this_machine(connection.base_url) and (Path(root) / "config.json").is_file():
        return Path(root)
    return None
