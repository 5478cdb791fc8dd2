"""Runs Pyserini's index builder as a child process that never outlives this one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from components.contracts.child_process import ended_with_parent
from components.contracts.errors import SearchError
from components.index.config import IndexConfig
from components.search.jvm import child_environment

_KEPT_LOG_LINES = 30
_PROGRESS_EVERY_S = 10.0
_INDEXED = re.compile(r"([\d,]+) (?:docs|documents) (?:indexed|added)")


def build_lucene_index(corpus_folder: Path, index_folder: Path, config: IndexConfig) -> None:
    """Index every `.jsonl` file of `corpus_folder` into the new folder `index_folder`, raw documents stored.

    Raises:
        MissingError: Java or Anserini is not installed.
        SearchError: the builder failed; the message holds its exit code and the end of its log.
    """
    exit_code, last_lines = run_child(
        builder_command(corpus_folder, index_folder, config), child_environment(config.heap)
    )
    if exit_code != 0:
        raise SearchError(f"the index builder ended with exit code {exit_code}; its last words:\n{last_lines}")
    # Lucene leaves an empty lock behind; readers need none.
    (index_folder / "write.lock").unlink(missing_ok=True)


def run_child(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Return exit code and last lines of output of `command`, killed when this process is interrupted or dies."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=ended_with_parent(signal.SIGKILL),
    )
    try:
        last_lines = _follow(process.stdout)
        return process.wait(), "\n".join(last_lines)
    finally:
        _end(process)


def builder_command(corpus_folder: Path, index_folder: Path, config: IndexConfig) -> list[str]:
    """Return the command that builds the index; the builder takes whole files per thread."""
    threads = len(os.sched_getaffinity(0)) if config.threads == "all" else config.threads
    command = [sys.executable, "-m", "pyserini.index.lucene"]
    command += ["--collection", "JsonCollection", "--generator", "DefaultLuceneDocumentGenerator"]
    command += ["--input", str(corpus_folder), "--index", str(index_folder), "--threads", str(threads), "--storeRaw"]
    chosen = {
        "--optimize": config.optimize,
        "--storePositions": config.store_positions,
        "--storeDocvectors": config.store_docvectors,
    }
    return command + [option for option, wanted in chosen.items() if wanted]


def _follow(log: Iterator[str]) -> deque[str]:
    """Return the last lines of `log`, having printed now and then how far the builder is."""
    tail: deque[str] = deque(maxlen=_KEPT_LOG_LINES)
    last_s = time.monotonic()
    for line in log:
        tail.append(line.rstrip())
        progress = _INDEXED.search(line)
        if progress and time.monotonic() - last_s > _PROGRESS_EVERY_S:
            last_s = time.monotonic()
            print(f"index: {progress.group(1)} passages indexed", flush=True)
    return tail


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()
