"""What `--help` says of commands that have others below them."""

import subprocess
import sys

import pytest

from service.__main__ import COMMANDS
from stack.process import ROOT
from workers.__main__ import CHOICES


def asked(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", package, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("package", "choices"), [("service", COMMANDS), ("workers", CHOICES)])
def test_help_has_a_line_for_each_choice_and_nothing_else_is_taken(package: str, choices: dict[str, str]) -> None:
    told = asked(package, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in told.stdout.splitlines() if line.startswith("  ") and line[2] != " "]
    assert [name for name, _ in lines] == list(choices)
    assert all("`" not in what for _, what in lines)
    refused = asked(package, "nothing")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"usage: python -m {package} ")
