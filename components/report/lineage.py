"""The chain from corpus to result: what each part is, what it was made from, its digest."""

from collections.abc import Sequence

from components.contracts.manifest import Manifest
from components.report.markup import Markup, element, escape


def lineage_list(entries: Sequence[tuple[str, Manifest]]) -> Markup:
    """Return one item per (name, manifest), in the order given; the full digest is under the short one."""
    return element("ol", *(_entry(name, manifest) for name, manifest in entries), class_="lineage")


def duration(seconds: float) -> str:
    """Return `4.2 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _entry(name: str, manifest: Manifest) -> Markup:
    made = manifest.produced_by
    counts = [
        f"{value:,.0f} {key}" if value == int(value) else f"{value:.3g} {key}" for key, value in manifest.counts.items()
    ]
    files = "file" if len(manifest.files) == 1 else "files"
    size_bytes = sum(entry.size for entry in manifest.files)
    facts = [*counts, f"{len(manifest.files)} {files}, {_size(size_bytes)}", f"made in {duration(made.seconds)}"]
    sources = [f"{source} {digest[:12]}" for source, digest in manifest.inputs.items()]
    return element(
        "li",
        element("div", element("b", name), element("code", manifest.digest[:12], title=manifest.digest), class_="name"),
        element("div", " \N{MIDDLE DOT} ".join(facts), class_="note"),
        element("div", f"from {', '.join(sources)}", class_="note") if sources else escape(""),
        element(
            "div",
            f"code {made.version[:12]}, commit {made.git_commit[:12]}, config {made.config_sha256[:12]}",
            class_="note",
        ),
        element("div", manifest.uri, class_="uri data"),
    )


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
