"""Manifests round-trip, refuse other shapes, and digest content alone."""

from pathlib import Path

import pytest

from components.contracts.errors import ManifestError, MissingError
from components.contracts.manifest import FileEntry, Manifest, ProducedBy, content_digest

ENTRIES = (FileEntry(path="a.txt", size=1, sha256="aa"), FileEntry(path="b/c.txt", size=2, sha256="bb"))


def manifest(**changes: object) -> Manifest:
    values = {
        "kind": "corpus",
        "uri": "s3://bucket/store/corpus/x",
        "files": ENTRIES,
        "digest": content_digest(ENTRIES),
        "produced_by": ProducedBy(step="corpus", version="1", git_commit="c", config_sha256="0"),
    }
    return Manifest(**(values | changes))


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    written = manifest(inputs={"corpus": "d"}, counts={"passages": 3}, metadata={"title": "Zürich"})
    written.write(tmp_path / "deep" / "manifest.json")
    assert Manifest.read(tmp_path / "deep" / "manifest.json") == written


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{}", id="no fields"),
        pytest.param(manifest().to_json().replace('"schema_version": 1', '"schema_version": 2'), id="other schema"),
        pytest.param(manifest().to_json().replace('"corpus"', '"virus"'), id="unknown kind"),
        pytest.param(manifest().to_json().replace('"uri"', '"url"'), id="unknown key"),
        pytest.param(manifest().to_json().replace('"uri"', '"more": 1, "uri"'), id="one key too many"),
    ],
)
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"answer\.json is not a manifest of schema 1"):
        Manifest.from_json(text, "answer.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist"):
        Manifest.read(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("entries", "equal"),
    [
        pytest.param(ENTRIES[::-1], True, id="order does not matter"),
        pytest.param((ENTRIES[0],), False, id="missing file"),
        pytest.param((ENTRIES[0], FileEntry(path="b/d.txt", size=2, sha256="bb")), False, id="other name"),
        pytest.param((ENTRIES[0], FileEntry(path="b/c.txt", size=2, sha256="bc")), False, id="other bytes"),
        pytest.param((ENTRIES[0], FileEntry(path="b/c.txt", size=3, sha256="bb")), False, id="other size"),
    ],
)
def test_content_digest(entries: tuple[FileEntry, ...], equal: bool) -> None:
    assert (content_digest(entries) == content_digest(ENTRIES)) is equal
