"""Two machines on this one: each a network and a process namespace of its own, joined by a cable nobody else sees.

Namespaces take root. Without it the machines share this one's loopback, and pulling a plug ends the processes that
carry the machine's mark instead of a namespace.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MARK = "SEARCHR1_TEST_MACHINE"
INTERFACE = "eth0"
PORT = 29500
"""Free in a namespace: nobody else is there."""
_NUMBERS = itertools.count()


@dataclass
class Machine:
    """Where one node runs."""

    address: str
    port: int
    prefix: list[str] = field(default_factory=list)
    """What goes before a command to run it there; empty on loopback."""
    environment: dict[str, str] = field(default_factory=dict)


class Node:
    """The processes of one machine, started as a pod of a training job starts them."""

    def __init__(self, machine: Machine, command: list[str], variables: Mapping[str, str], output: Path) -> None:
        self.machine, self.output = machine, output
        self._mark = f"{output}:{time.monotonic_ns()}"
        environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: self._mark} | machine.environment | dict(variables)
        with output.open("a") as stream:
            self._process = subprocess.Popen(
                [*machine.prefix, *command], stdout=stream, stderr=stream, cwd=REPOSITORY, env=environment
            )

    def running(self) -> bool:
        """Whether the node's first process has not ended."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Return the exit code."""
        return self._process.wait(timeout=timeout_s)

    def pull_the_plug(self) -> None:
        """End every process of the machine at once, without a chance to say good-bye."""
        if not self.machine.prefix:
            for pid in self._marked():
                os.kill(pid, signal.SIGKILL)
        # In a namespace everything else dies with its first process.
        self._process.kill()
        self._process.wait()

    def _marked(self) -> list[int]:
        wanted, found = f"{MARK}={self._mark}".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if wanted in environment:
                    found.append(int(entry.name))
        return found


def trainer_variables(machines: list[Machine], rank: int, processes_per_node: int = 1) -> dict[str, str]:
    """Return what Kubeflow Trainer's torch plugin puts into the pod of a node."""
    return {
        "PET_NNODES": str(len(machines)),
        "PET_NPROC_PER_NODE": str(processes_per_node),
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": machines[0].address,
        "PET_MASTER_PORT": str(machines[0].port),
    }


def torchrun(module: str, *arguments: str) -> list[str]:
    """Return the command of a pod: no flag of the rendezvous, which is the Trainer's business."""
    return [sys.executable, "-m", "torch.distributed.run", "-m", module, *arguments]


@contextmanager
def two_machines(isolated: bool = True) -> Iterator[list[Machine]]:
    """Hold two machines that reach each other, in namespaces where wanted and allowed and on loopback otherwise."""
    names = [f"searchr1-{os.getpid()}-{next(_NUMBERS)}" for _ in range(2)]
    if not (isolated and _cabled(names)):
        _remove(names)
        port = _free_port()
        yield [Machine("127.0.0.1", port) for _ in names]
        return
    try:
        yield [
            Machine(
                _address(number),
                PORT,
                ["ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--kill-child"],
                # The host's name is that of another network here; in a pod it is the pod's own.
                {"GLOO_SOCKET_IFNAME": INTERFACE},
            )
            for number, name in enumerate(names)
        ]
    finally:
        _remove(names)


def _address(number: int) -> str:
    return f"192.0.2.{number + 1}"  # addresses set aside for examples


def _cabled(names: list[str]) -> bool:
    first, second = names
    commands = [["netns", "add", name] for name in names]
    commands.append(
        ["link", "add", INTERFACE, "netns", first, "type", "veth", "peer", "name", INTERFACE, "netns", second]
    )
    for number, name in enumerate(names):
        commands.append(["-n", name, "address", "add", f"{_address(number)}/24", "dev", INTERFACE])
        commands += [["-n", name, "link", "set", device, "up"] for device in ("lo", INTERFACE)]
    try:
        for command in commands:
            subprocess.run(["ip", *command], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _remove(names: list[str]) -> None:
    for name in names:
        if Path("/run/netns", name).exists():
            subprocess.run(["ip", "netns", "delete", name], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
