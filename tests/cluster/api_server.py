"""An API server without a cluster: etcd and kube-apiserver on loopback, as a controller's tests start them.

It stores, validates and decides who may do what; nothing runs on it, and no controller does anything.
"""

import csv
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers import daemon, free_ports

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
BINARIES = ("etcd", "kube-apiserver")
START_S = 120.0
TOKEN = "administrator-of-a-test"


def missing(assets: Path) -> str:
    """Return why no server can be started from the folder, or an empty string."""
    absent = [name for name in BINARIES if not os.access(assets / name, os.X_OK)]
    return f"{ASSETS_VARIABLE}={assets} holds no {' and no '.join(absent)}" if absent else ""


@contextmanager
def api_server(assets: Path, folder: Path) -> Iterator[Path]:
    """Hold a server and yield the kubeconfig of its administrator."""
    store_port, peer_port, port = free_ports(3)
    folder.mkdir(parents=True)
    store, peers = f"http://127.0.0.1:{store_port}", f"http://127.0.0.1:{peer_port}"
    etcd = [str(assets / "etcd"), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"]
    etcd += ["--listen-client-urls", store, "--advertise-client-urls", store, "--listen-peer-urls", peers]
    etcd += ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
    with ExitStack() as daemons:
        daemons.enter_context(daemon(_accepted(etcd), folder / "etcd.txt"))
        _wait_for(f"{store}/health", folder / "etcd.txt")
        daemons.enter_context(daemon(_server(assets, folder, store, port), folder / "kube-apiserver.txt"))
        _wait_for(f"https://127.0.0.1:{port}/readyz", folder / "kube-apiserver.txt")
        yield _kubeconfig(folder, port)


def _server(assets: Path, folder: Path, store: str, port: int) -> list[str]:
    with (folder / "tokens.csv").open("w", newline="") as stream:
        csv.writer(stream).writerow([TOKEN, "administrator", "1", "system:masters"])
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL)
    (folder / "accounts.key").write_bytes(key.private_bytes(*encoding, serialization.NoEncryption()))
    options = {
        "etcd-servers": store,
        "cert-dir": folder / "certificates",
        "bind-address": "127.0.0.1",
        "secure-port": port,
        "authorization-mode": "RBAC",
        "token-auth-file": folder / "tokens.csv",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": folder / "accounts.key",
        "service-account-signing-key-file": folder / "accounts.key",
        "service-cluster-ip-range": "10.0.0.0/24",
    }
    return [str(assets / "kube-apiserver"), *(f"--{name}={value}" for name, value in options.items())]


def _accepted(etcd: list[str]) -> list[str]:
    """Return the command without the option that older versions of etcd do not know."""
    known = subprocess.run([etcd[0], "--help"], capture_output=True, text=True)
    return [word for word in etcd if word != "--unsafe-no-fsync" or word.strip("-") in known.stdout + known.stderr]


def _kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig.json"
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    written = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "administrator", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "administrator"}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(written))
    return path


def _wait_for(url: str, output: Path) -> None:
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    # Loopback only: no proxy of the environment may come between.
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified))
    opener, limit_s = urllib.request.build_opener(*handlers), time.monotonic() + START_S
    while True:
        try:
            opener.open(request, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > limit_s:
                raise RuntimeError(f"{url} does not answer ({error}); {output}: {output.read_text()[-2000:]}") from None
        time.sleep(0.2)


def find_kubectl() -> Path | None:
    """Return the kubectl beside the server's binaries, or the machine's own."""
    beside = Path(os.environ.get(ASSETS_VARIABLE, "/nonexistent"), "kubectl")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("kubectl")
    return Path(found) if found else None
