"""What tests need of the machine: isolation tiers, Docker, and real data, which is `../shared/data` beside the checkout
or in $HARNESS_DATA. What is absent skips a test, unless $HARNESS_REQUIRE_DATA or $HARNESS_REQUIRE_DOCKER is 1. With
$HARNESS_FULL=1 the longest slow tests run at the sizes that they were first run at, which takes minutes longer."""

import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import SandboxUnavailable
from harness.sandbox.tiers import PROMISES, choose

# models here are tiny: threads cost more than they save, most of all on a busy machine. Read when torch is imported,
# here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

FULL = os.environ.get("HARNESS_FULL") == "1"

# whether this machine has user namespaces, another program than ours says
NO_NAMESPACES = subprocess.run(
    ["unshare", "--user", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
).stderr
QUICK = "landlock" if NO_NAMESPACES else "namespaces"
TIERS = [pytest.param(name, marks=[pytest.mark.slow] * (name != QUICK)) for name in PROMISES]


@pytest.fixture(scope="session", params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """Each tier that this machine has: quickly the one that runs choose here, slowly the others."""
    name = str(request.param)
    if name in ("namespaces", "docker"):
        request.getfixturevalue(f"{name}_here")
    return name


@pytest.fixture(scope="session")
def namespaces_here() -> None:
    """User namespaces."""
    if NO_NAMESPACES:
        pytest.skip(f"this machine has no user namespaces: {NO_NAMESPACES}")


@pytest.fixture(scope="session")
def docker_here() -> None:
    """A Docker daemon and the sandbox's image (tests/docker.sh)."""
    try:
        choose("docker")
    except SandboxUnavailable as error:
        if os.environ.get("HARNESS_REQUIRE_DOCKER") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


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
