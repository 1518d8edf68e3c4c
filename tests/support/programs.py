# SPDX-License-Identifier: Apache-2.0
"""Python programs in processes of their own: modules of this folder, `-m mlayers`, or `-c` text.

Each has tests/ on its path, so that `-m support.X` is found, and the environment of the test with
the variables that are named. One that does not end with 0 fails the test and shows what it wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def start(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    """`python -P ARGUMENTS`, which runs on while the test does; for `finish`."""
    path = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float | None = None) -> str:
    """What the program printed on its standard output; after `timeout` seconds it is killed."""
    with process:
        try:
            printed, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, errors = process.communicate()
    assert process.returncode == 0, (
        f"{process.args} ended with {process.returncode}\n"
        f"--- stdout\n{printed[-3000:]}\n--- stderr\n{errors[-3000:]}"
    )
    return printed.strip()


def output(*arguments: Any, **environment: str) -> str:
    """What `python -P ARGUMENTS` prints on its standard output."""
    return finish(start(*arguments, **environment))


def result(*arguments: Any, **environment: str) -> Any:
    """The JSON in the last line that `python -P ARGUMENTS` prints."""
    return json.loads(output(*arguments, **environment).splitlines()[-1])
