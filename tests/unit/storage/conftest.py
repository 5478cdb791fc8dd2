"""Storage roots of both kinds, and a bad line to the one that is a server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.storage.faulty_proxy import FaultyProxy, faulty_proxy


@pytest.fixture(params=["file", "s3"])
def storage_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path / 'root'}" if request.param == "file" else request.getfixturevalue("s3_root")


@pytest.fixture
def proxy(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Stands between boto3 and the server of `s3_root` from here on."""
    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"]) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running
