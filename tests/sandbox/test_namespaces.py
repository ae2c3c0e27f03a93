"""What is true of the tier "namespaces" alone: files of a program's own, which nobody else ever sees."""

from typing import Any

import pytest

from harness.sandbox import namespaces
from harness.types import Job, Status
from harness.types import Test as Case

KEEPS_FILES = """
import os, shutil, sqlite3, sys, tempfile
assert os.listdir('.') == os.listdir('/tmp') == [], os.listdir('.')
with open('numbers.txt', 'w') as file: file.write('1 2 3')
os.mkdir('/tmp/folder')
os.replace('numbers.txt', '/tmp/folder/moved.txt')
with tempfile.TemporaryFile() as file: file.write(b'x' * 100_000)
base = sqlite3.connect('numbers.db')
base.execute('create table numbers (n)')
base.commit()
print(sum(map(int, open('folder/moved.txt').read().split())))
"""


@pytest.fixture
def only_namespaces(tier: str) -> None:
    if tier != "namespaces":
        pytest.skip("of another tier")


@pytest.mark.usefixtures("only_namespaces")
def test_each_program_has_files_of_its_own(box: Any, make_job: Any) -> None:
    test = Case(id="0", kind="stdio", input="", expected="6")
    jobs: list[Job] = [make_job(f"{KEEPS_FILES}# {n}", test, index=n) for n in range(3)]
    assert [(one.status, one.detail) for _, (one,) in box.run(jobs)] == [(Status.passed, "")] * 3


@pytest.mark.usefixtures("only_namespaces")
@pytest.mark.parametrize(
    "program",
    [
        f"for n in range({namespaces.MAX_FILES + 1}): open(f'/tmp/{{n}}', 'w')",
        f"for n in range(9): open(f'/tmp/{{n}}', 'wb').write(bytes({namespaces.QUOTA_BYTES // 8}))",
        "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) < 0: raise OSError",
        "import ctypes\nif ctypes.CDLL(None).umount2(b'/var/tmp', 2) < 0: raise OSError",
        "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'/var/tmp', b'tmpfs', 0, None) < 0: raise OSError",
        "import ctypes\nif ctypes.CDLL(None).syscall(169, 0, 0, 0, 0) < 0: raise OSError",  # reboot
        "import os\nos.symlink('/etc', '/tmp/etc')",
        "import os\nos.mkfifo('/tmp/pipe')",
        "import os\nos.chmod('/tmp', 0)",
        "open('/dev/zero')",
    ],
)
def test_no_program_gets_beyond_its_files(stdio: Any, program: str) -> None:
    execution = stdio(program, "", "")
    assert execution.status == Status.runtime_error
    assert "Error" in execution.detail
    assert stdio("import os\nprint(os.listdir('/tmp'))", "", "[]").status == Status.passed
