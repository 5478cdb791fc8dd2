"""Our side of the update on several ranks of this machine: `python -m benchmarks.update_ranks '<settings>'`."""

import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch.multiprocessing

from benchmarks import update_side
from benchmarks.sides import serve
from components.train.config import ParallelConfig
from components.train.ranks import barrier, joined


def prepare(settings: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Return the measurement of one optimizer update that `settings["ranks"]` processes make together.

    `seconds` are those of the slowest, `cpu_seconds` those of all of them.
    """
    context = torch.multiprocessing.get_context("spawn")
    port, ends = _free_port(), []
    for number in range(settings["ranks"]):
        ours, theirs = context.Pipe()
        # Daemons: whatever ends this process ends them.
        context.Process(target=_rank, args=(number, port, settings, theirs), daemon=True).start()
        theirs.close()
        ends.append(ours)

    def measure(repeat: int) -> dict[str, Any]:
        for end in ends:
            end.send(repeat)
        found = [end.recv() for end in ends]
        return found[0] | {
            "seconds": max(one["seconds"] for one in found),
            "cpu_seconds": sum(one["cpu_seconds"] for one in found),
        }

    return measure


def _rank(number: int, port: int, settings: dict[str, Any], parent: Connection) -> None:
    world = settings["ranks"]
    if world > 1:
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(ParallelConfig(cpu_ranks=world)):
        measure = update_side.prepare(settings)
        while True:
            try:
                repeat = parent.recv()
            except EOFError:
                return
            barrier()
            started_s = time.process_time()
            found = measure(repeat)
            parent.send(found | {"cpu_seconds": time.process_time() - started_s})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    serve(prepare)
