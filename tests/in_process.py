"""The command `harness` in the process of the tests, where a process of its own, which takes a second, shows no more.

`run` is the main function. What is not an error of ours is raised instead of printed with a traceback. Not handled:
signals, what another process prints, and how the command starts, which test_cli.py looks at in processes of their own.
"""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from harness import cli


def run(*arguments: object, cwd: Path | None = None, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """What `harness` printed, given these arguments in the folder `cwd`; `status` None: whichever it ends with."""
    words = ["harness", *map(str, arguments)]
    printed, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(errors):
        patch.setattr(sys, "argv", words)
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert code is None or isinstance(code, int), code
    done = subprocess.CompletedProcess(words, code or 0, printed.getvalue(), errors.getvalue())
    assert status is None or done.returncode == status, done.stderr + done.stdout
    return done
