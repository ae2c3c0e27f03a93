"""`harness doctor`: what it says of this machine, and of one where a promise does not hold."""

import pytest

from harness import doctor
from harness.sandbox import pool
from harness.sandbox.tiers import PROMISES, probe
from tests.in_process import run


def test_every_promise_is_in_the_table() -> None:
    done = run("doctor")
    for promises in PROMISES.values():
        for promise in promises:
            assert f"{promise}  " in done.stdout
    assert "holds" in done.stdout
    assert "Programs are run in " in done.stdout.splitlines()[-1]


def test_docker_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    found = doctor.examine()
    assert not found["landlock"]
    text = doctor.describe(found)
    assert "not here" in text
    assert "docker cannot be used here: no Docker daemon answers at /nowhere (" in text
    assert "Programs are run in docker" not in text


def test_a_broken_promise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "probe", lambda tier: "print('no_network')" if tier == "namespaces" else probe(tier))
    found = doctor.examine()
    assert "no_network" in found["namespaces"] or "did not start" in found["namespaces"]
    assert not found["landlock"]
    text = doctor.describe(found)
    assert "BROKEN" in text or "did not start" in found["namespaces"]
    assert "not here" in text
    assert text.endswith("Programs are run in landlock.")
