"""Storage roots of both kinds."""

from pathlib import Path

import pytest


@pytest.fixture(params=["file", "s3"])
def storage_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path / 'root'}" if request.param == "file" else request.getfixturevalue("s3_root")
