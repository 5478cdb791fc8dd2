"""Everything an evaluation was made from, sources first."""

from collections.abc import Mapping

from components.contracts.manifest import Manifest
from components.storage import lineage


def origins(inputs: Mapping[str, Manifest], storage_root: str) -> list[tuple[str, Manifest]]:
    """Return (name, manifest) of the inputs and of all that they were made from, each once, after its own inputs.

    What is no longer stored is left out.

    Raises:
        StorageError: the storage refuses.
    """
    known: dict[str, tuple[str, Manifest]] = {}
    # In the order of the names, so that inputs read back from a stored manifest give the same list.
    given = dict(sorted(inputs.items()))
    for name, manifest in given.items():
        known[manifest.digest] = (name, manifest)
    for manifest in given.values():
        for ancestor in lineage(manifest, storage_root):
            if ancestor.manifest is not None:
                known.setdefault(ancestor.digest, (ancestor.name, ancestor.manifest))
    ordered: dict[str, tuple[str, Manifest]] = {}

    def visit(digest: str) -> None:
        if digest in ordered or digest not in known:
            return
        for source in known[digest][1].inputs.values():
            visit(source)
        name, manifest = known[digest]
        ordered[digest] = (name.replace("_", " "), manifest)

    for digest in list(known):
        visit(digest)
    return list(ordered.values())
