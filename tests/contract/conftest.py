"""A cluster to talk to: the stub of Kubeflow Pipelines, and no trace of a real one in the environment."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.kfp_stub import KfpStub


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in [name for name in os.environ if name.startswith(("KF_PIPELINES_", "KUBE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def kfp_server(no_cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator["KfpStub"]:
    """The stub; the test fails when a request or an answer leaves the official description."""
    # The tests of the manifests are beside this file, in an environment without kfp.
    from tests.contract.kfp_stub import KfpStub, handler, serve

    stub = KfpStub()
    server, stub.url = serve(handler(stub))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", stub.url)
    yield stub
    server.shutdown()
    server.server_close()
    assert stub.problems == []
