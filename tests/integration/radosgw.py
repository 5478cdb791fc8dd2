"""A real S3 server of a test's own: Ceph's gateway over one monitor and one object store in memory, on loopback.

Needs Debian's packages radosgw, ceph-mon and ceph-osd; no root, and nothing outside its folder.
"""

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import daemon, free_ports

BINARIES = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
INSTALL = "apt-get install radosgw ceph-mon ceph-osd"
START_S = 120.0
ACCESS_KEY, SECRET_KEY = "reader-and-writer", "not-a-real-secret"
USERS = ("client.admin", "osd.0", "client.rgw.test")
MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Gateway:
    """A running server and its one user."""

    endpoint: str
    access_key: str
    secret_key: str

    def variables(self) -> dict[str, str]:
        """Return the environment in which boto3 speaks to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def missing() -> str:
    """Return why no server can be started here, or an empty string."""
    absent = [name for name in BINARIES if shutil.which(name) is None]
    return f"no {', '.join(absent)} on this machine: {INSTALL}" if absent else ""


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """Hold a server whose files lie in `folder`; it takes about fifteen seconds to start."""
    ports = free_ports(3)
    cluster = _Cluster(folder, ports[:2])
    with ExitStack() as daemons:
        cluster.prepare(gateway_port=ports[2])
        daemons.enter_context(cluster.daemon("ceph-mon", "-i", "a"))
        cluster.prepare_store()
        daemons.enter_context(cluster.daemon("ceph-osd", "-i", "0"))
        daemons.enter_context(cluster.daemon("radosgw", "-n", USERS[2]))
        _wait_until_open(ports[2])
        user = ("--uid=test", "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        cluster.run("radosgw-admin", "user", "create", *user)
        yield Gateway(f"http://127.0.0.1:{ports[2]}", ACCESS_KEY, SECRET_KEY)


class _Cluster:
    """One monitor and one store that keeps everything in memory."""

    def __init__(self, folder: Path, monitor_ports: list[int]) -> None:
        self._folder, self._settings, self._identity = folder, folder / "ceph.conf", str(uuid.uuid4())
        self._monitor = f"[v2:127.0.0.1:{monitor_ports[0]},v1:127.0.0.1:{monitor_ports[1]}]"

    def run(self, *command: str) -> str:
        """Run one of Ceph's commands to its end and return what it says."""
        options = [] if command[0] in ("monmaptool", "ceph-authtool") else ["-c", str(self._settings)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=START_S, cwd=self._folder)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def daemon(self, *command: str) -> AbstractContextManager[None]:
        """Hold one of Ceph's servers."""
        return daemon([*command, "-f", "-c", str(self._settings)], self._folder / f"{command[0]}.txt")

    def prepare(self, gateway_port: int) -> None:
        """Write settings, keys and the monitor's first map."""
        for name in ("mon", "osd", "run"):
            (self._folder / name).mkdir(parents=True)
        self._settings.write_text(self._text(gateway_port))
        self.run("monmaptool", "--create", "--fsid", self._identity, "--addv", "a", self._monitor, "monmap")
        self.run("ceph-authtool", "keyring", "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        rights = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
        for user in USERS:
            self.run("ceph-authtool", "keyring", "--gen-key", "-n", user, *rights)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")

    def prepare_store(self) -> None:
        """Tell the monitor of the store, and lay out the store itself."""
        store = str(uuid.uuid4())
        self.run("ceph", "osd", "new", store)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        self.run("ceph", "osd", "crush", "add", "0", "1", "root=default", "host=localhost")

    def _text(self, gateway_port: int) -> str:
        here = self._folder
        settings = {
            "fsid": self._identity,
            "mon_initial_members": "a",
            "mon_host": self._monitor,
            "public_addr": "127.0.0.1",
            "cluster_addr": "127.0.0.1",
            "ms_bind_ipv6": "false",
            "keyring": f"{here}/keyring",
            "run_dir": f"{here}/run",
            "admin_socket": f"{here}/run/$name.asok",
            "pid_file": f"{here}/run/$name.pid",
            "log_file": f"{here}/$name.log",
            "crash_dir": f"{here}/run",
            "mon_data": f"{here}/mon",
            "osd_data": f"{here}/osd",
            "mon_data_avail_crit": "1",
            # One copy in one place is all there is.
            "osd_pool_default_size": "1",
            "osd_pool_default_min_size": "1",
            "osd_pool_default_pg_num": "4",
            "osd_crush_chooseleaf_type": "0",
            "mon_allow_pool_size_one": "true",
            "osd_objectstore": "memstore",
            "memstore_device_bytes": str(MEMORY_BYTES),
            "rgw_frontends": f"beast endpoint=127.0.0.1:{gateway_port}",
        }
        return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _wait_until_open(port: int) -> None:
    limit_s = time.monotonic() + START_S
    while time.monotonic() < limit_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the gateway did not open its port within {START_S:.0f} s")
