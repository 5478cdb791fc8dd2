"""Which state of this source is running."""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Return the commit of the working tree, marked when it has changes; `unknown` outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
