"""The chain of inputs is read back from storage, gaps included."""

from pathlib import Path

from components.contracts.manifest import Manifest, ProducedBy
from components.storage import lineage, open_storage, publish, render_lineage


def made(tmp_path: Path, root: str, kind: str, **inputs: Manifest) -> Manifest:
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "data").write_text(kind)
    produced_by = ProducedBy(step=kind, version="1", git_commit="c0ffee", config_sha256="0")
    return publish(tmp_path / kind, storage_root=root, kind=kind, produced_by=produced_by, inputs=inputs)


def test_lineage_walks_inputs_once(storage_root: str, tmp_path: Path) -> None:
    corpus = made(tmp_path, storage_root, "corpus")
    index = made(tmp_path, storage_root, "index", corpus=corpus)
    checkpoint = made(tmp_path, storage_root, "checkpoint", index=index)
    evaluation = made(tmp_path, storage_root, "evaluation", checkpoint=checkpoint, index=index)
    chain = lineage(evaluation, storage_root)
    assert [(link.depth, link.name, link.repeated) for link in chain] == [
        (0, "evaluation", False),
        (1, "checkpoint", False),
        (2, "index", False),
        (3, "corpus", False),
        (1, "index", True),
    ]
    assert chain[3].manifest == corpus
    text = render_lineage(chain)
    assert f"      corpus {corpus.digest[:16]}  corpus at commit c0ffee  {corpus.uri}" in text
    assert text.splitlines()[-1].endswith("(see above)")


def test_a_manifest_no_longer_stored_is_shown_as_such(storage_root: str, tmp_path: Path) -> None:
    corpus = made(tmp_path, storage_root, "corpus")
    index = made(tmp_path, storage_root, "index", corpus=corpus)
    open_storage(corpus.uri).delete("manifest.json")
    chain = lineage(index, storage_root)
    assert chain[1].manifest is None
    assert "no longer stored" in render_lineage(chain)
