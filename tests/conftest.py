"""Where the real data is, for the tests that need it: `../shared/data` beside the checkout, or $HARNESS_DATA."""

import os
from pathlib import Path

import pytest


def _folder(name: str) -> Path:
    root = Path(os.environ.get("HARNESS_DATA", Path(__file__).resolve().parents[2] / "shared"))
    folder = root / name
    if not folder.is_dir():
        message = f"real data needed and {folder} is absent"
        if os.environ.get("HARNESS_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real completions and problems."""
    return _folder("data")


@pytest.fixture(scope="session")
def shared_attacks() -> Path:
    """Folder of programs that try to fool or harm the grader."""
    return _folder("attacks")
