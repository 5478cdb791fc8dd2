"""One side of a comparison is a process of its own: started once, warmed up, then measured when asked.

Ours and a peer may live in different environments, share no memory and no cache, and are measured in turns.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent


class Side:
    """The process of `module`, run by `python` with `settings`; ready once it has answered the first time."""

    def __init__(self, python: Path | str, module: str, settings: dict[str, Any], *, threads: int) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        command = [str(python), "-m", module, json.dumps(settings | {"threads": threads})]
        self._module = module
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._read()

    def measure(self, repeat: int) -> dict[str, Any]:
        """Return what the side measured; `repeat` seeds what is random in it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeat}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process; one that does not end by itself when asked has nothing more to say."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with status {self._process.wait()}; its error is printed above")
        return json.loads(line)


def in_turns(sides: dict[str, Side], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Return `repeats` measurements of every side, taken in turns, every other round in reverse order."""
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        names = list(sides) if repeat % 2 == 0 else list(reversed(sides))
        for name in names:
            measured[name].append(sides[name].measure(repeat))
    return measured


def requests() -> Iterator[int]:
    """Yield the number of every repeat asked for, until the parent has enough (the child's end of a `Side`)."""
    for line in sys.stdin:
        yield int(line)


@contextlib.contextmanager
def answers() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that sends one answer; whatever libraries print goes to the error output meanwhile."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)

        def send(answer: dict[str, Any]) -> None:
            channel.write(json.dumps(answer) + "\n")
            channel.flush()

        yield send


def serve(prepare: Callable[[dict[str, Any]], Callable[[int], dict[str, Any]]]) -> None:
    """Run a side: prepare from the settings on the command line, warm up once, then measure on request."""
    with answers() as send:
        measure = prepare(json.loads(sys.argv[1]))
        measure(-1)
        send({"ready": True})
        for repeat in requests():
            send(measure(repeat))
