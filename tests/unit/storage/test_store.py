"""Published folders come back verified, or the message says which file is wrong."""

import os
from pathlib import Path

import pytest

from components.contracts.errors import ManifestError, MissingError, UserError
from components.contracts.manifest import FileEntry, Manifest, ProducedBy, content_digest
from components.storage import check_stored, fetch, open_storage, publish, verify
from components.storage.store import MANIFEST_NAME

PRODUCED_BY = ProducedBy(step="corpus", version="1", git_commit="abc", config_sha256="0")


def folder_of(path: Path, **contents: str) -> Path:
    for name, text in (contents or {"a": "one", "b": "two"}).items():
        (path / "sub").mkdir(parents=True, exist_ok=True)
        (path / "sub" / f"{name}.txt").write_text(text)
    (path / "top.txt").write_text("top")
    return path


def published(folder: Path, storage_root: str, **changes: object) -> Manifest:
    return publish(folder, storage_root=storage_root, kind="corpus", **({"produced_by": PRODUCED_BY} | changes))


def test_publish_then_fetch(storage_root: str, tmp_path: Path) -> None:
    source = published(folder_of(tmp_path / "x", z="z"), storage_root)
    manifest = published(
        folder_of(tmp_path / "data"),
        storage_root,
        inputs={"source": source},
        counts={"passages": 2},
        metadata={"source": "world://"},
        mlflow={"run_id": "r"},
    )
    folder = fetch(manifest, tmp_path / "cache")
    assert {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.txt")} == {
        "sub/a.txt": "one",
        "sub/b.txt": "two",
        "top.txt": "top",
    }
    assert manifest.uri == f"{storage_root}/store/corpus/{manifest.digest[:16]}"
    assert manifest.inputs == {"source": source.digest}
    assert Manifest.from_json(open_storage(manifest.uri).get_bytes(MANIFEST_NAME).decode()) == manifest


def test_only_what_is_wanted_is_fetched_and_verified(storage_root: str, tmp_path: Path) -> None:
    manifest = published(folder_of(tmp_path / "data"), storage_root)
    open_storage(manifest.uri).put_bytes(b"damaged", "sub/b.txt")
    folder = fetch(manifest, tmp_path / "cache", wanted=lambda path: path != "sub/b.txt")
    assert (folder / "sub" / "a.txt").read_text() == "one" and (folder / "top.txt").read_text() == "top"
    with pytest.raises(ManifestError, match=r"sub/b\.txt"):
        fetch(manifest, tmp_path / "cache", wanted=lambda path: path == "sub/b.txt")


def test_equal_content_is_stored_once_and_the_manifest_renewed(storage_root: str, tmp_path: Path) -> None:
    first = published(folder_of(tmp_path / "one"), storage_root, counts={"passages": 1})
    before = {i.key: i.modified for i in open_storage(storage_root).list() if not i.key.endswith(MANIFEST_NAME)}
    second = published(folder_of(tmp_path / "two"), storage_root, counts={"passages": 2})
    after = open_storage(storage_root).list()
    assert (first.digest, first.uri) == (second.digest, second.uri)
    assert [i.key for i in after if not i.key.endswith(MANIFEST_NAME)] == list(before)
    assert Manifest.from_json(open_storage(second.uri).get_bytes(MANIFEST_NAME).decode()).counts == {"passages": 2}


def test_an_unfinished_publish_is_completed(storage_root: str, tmp_path: Path) -> None:
    manifest = published(folder_of(tmp_path / "one"), storage_root)
    storage = open_storage(manifest.uri)
    storage.delete(MANIFEST_NAME)
    storage.delete("sub/a.txt")
    assert published(folder_of(tmp_path / "two"), storage_root) == manifest
    assert storage.exists(MANIFEST_NAME)
    fetch(manifest, tmp_path / "cache")


def test_the_manifest_comes_last(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    root = tmp_path / "root"
    (root / "store" / "corpus").mkdir(parents=True)
    digest = published(folder_of(tmp_path / "again"), f"file://{tmp_path / 'elsewhere'}").digest
    (root / "store" / "corpus" / digest[:16] / "top.txt").mkdir(parents=True)
    with pytest.raises(UserError):
        published(folder, f"file://{root}")
    assert not list(root.rglob(MANIFEST_NAME))


def test_a_disk_moves_files_instead_of_copying(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    inode = (folder / "top.txt").stat().st_ino
    stored = fetch(published(folder, f"file://{tmp_path / 'root'}"))
    assert (stored / "top.txt").stat().st_ino == inode
    assert not (folder / "top.txt").exists()


@pytest.mark.parametrize(
    ("kind", "damaged"),
    [
        pytest.param("file", b"bad", id="a disk, of the same size"),
        # There only the size is looked at: to compare bytes they would have to be loaded.
        pytest.param("s3", b"to", id="a server, of another size"),
    ],
)
def test_publishing_again_mends_damage(tmp_path: Path, request, kind: str, damaged: bytes) -> None:
    root = f"file://{tmp_path / 'root'}" if kind == "file" else request.getfixturevalue("s3_root")
    manifest = published(folder_of(tmp_path / "one"), root)
    open_storage(manifest.uri).put_bytes(damaged, "top.txt")
    published(folder_of(tmp_path / "two"), root)
    assert (fetch(manifest, tmp_path / "cache") / "top.txt").read_text() == "top"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda s: s.delete("sub/a.txt"), r"sub/a\.txt is missing", id="deleted"),
        pytest.param(lambda s: s.put_bytes(b"onE", "sub/a.txt"), r"sub/a\.txt has changed", id="changed"),
        pytest.param(lambda s: s.put_bytes(b"long", "sub/a.txt"), r"sub/a\.txt has 4 bytes instead of 3", id="size"),
    ],
)
def test_damage_is_named(storage_root: str, tmp_path: Path, damage, says: str) -> None:
    manifest = published(folder_of(tmp_path / "data"), storage_root)
    damage(open_storage(manifest.uri))
    with pytest.raises(ManifestError, match=says) as raised:
        fetch(manifest, tmp_path / "cache")
    assert "run the step that makes it again" in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda s: s.delete("sub/a.txt"), r"sub/a\.txt is missing", id="deleted"),
        pytest.param(lambda s: s.put_bytes(b"long", "sub/a.txt"), r"sub/a\.txt has 4 bytes instead of 3", id="size"),
    ],
)
def test_presence_is_checked_without_reading(storage_root: str, tmp_path: Path, damage, says: str) -> None:
    manifest = published(folder_of(tmp_path / "data"), storage_root)
    open_storage(manifest.uri).put_bytes(b"more", "MLmodel")
    check_stored(manifest)
    damage(open_storage(manifest.uri))
    with pytest.raises(ManifestError, match=says):
        check_stored(manifest)


def test_many_damaged_files_are_counted(tmp_path: Path) -> None:
    contents = {f"f{i}": str(i) for i in range(9)}
    manifest = published(folder_of(tmp_path / "data", **contents), f"file://{tmp_path / 'root'}")
    open_storage(manifest.uri).delete_prefix("sub")
    with pytest.raises(ManifestError, match="and 4 more"):
        fetch(manifest)


@pytest.mark.parametrize("path", ["../../secret", "/etc/hostname", "sub/../../x", "a\\..\\b"])
def test_entries_that_leave_the_folder_are_refused(storage_root: str, tmp_path: Path, path: str) -> None:
    entries = (FileEntry(path=path, size=1, sha256="0"),)
    manifest = Manifest(
        kind="corpus",
        uri=f"{storage_root}/store/corpus/x",
        files=entries,
        digest=content_digest(entries),
        produced_by=PRODUCED_BY,
    )
    with pytest.raises(ManifestError, match="could point outside its folder"):
        fetch(manifest, tmp_path / "cache")


def test_a_stored_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    manifest = published(folder_of(tmp_path / "data"), f"file://{tmp_path / 'root'}")
    folder = fetch(manifest)
    os.replace(folder / "top.txt", tmp_path / "outside.txt")
    (folder / "top.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(ManifestError, match="link out of its folder"):
        fetch(manifest)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(lambda manifest, folder: fetch(manifest), id="fetch"),
        pytest.param(verify, id="verify"),
        pytest.param(lambda manifest, folder: check_stored(manifest), id="check stored"),
    ],
)
def test_a_manifest_whose_list_was_edited_is_refused(tmp_path: Path, check) -> None:
    manifest = published(folder_of(tmp_path / "data"), f"file://{tmp_path / 'root'}")
    with pytest.raises(ManifestError, match="lists other files"):
        check(manifest.model_copy(update={"files": manifest.files[1:]}), fetch(manifest))


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        pytest.param(lambda f: (f / "link").symlink_to("/etc/hostname"), UserError, "is a link", id="link"),
        pytest.param(lambda f: (f / MANIFEST_NAME).write_text("{}"), UserError, "kept for the storage", id="reserved"),
    ],
)
def test_folders_that_cannot_be_published(tmp_path: Path, spoil, error: type, says: str) -> None:
    folder = folder_of(tmp_path / "data")
    spoil(folder)
    with pytest.raises(error, match=says):
        published(folder, f"file://{tmp_path / 'root'}")
    assert not (tmp_path / "root").exists()


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="absent does not exist"):
        published(tmp_path / "absent", f"file://{tmp_path / 'root'}")


def test_downloads_are_kept_in_the_cache(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHR1_CACHE", str(tmp_path / "cache"))
    manifest = published(folder_of(tmp_path / "data"), s3_root)
    folder = fetch(manifest)
    assert folder == tmp_path / "cache" / "corpus" / manifest.digest[:16]
    open_storage(manifest.uri).delete("top.txt")
    assert fetch(manifest) == folder
    (folder / "sub" / "a.txt").write_text("spoilt")
    fetch(manifest)
    assert (folder / "sub" / "a.txt").read_text() == "one"
