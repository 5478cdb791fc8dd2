"""One digest per step over the code it can reach, so that a cache never serves the work of other code.

The unit is the package: a step reaches its own folder and, transitively, every shared package that any of
its files imports, wherever the import stands. A change of the report does not retrain a model.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from components.contracts.errors import ConfigError

COMPONENTS = Path(__file__).resolve().parent.parent


def code_sha256(step: str) -> str:
    """Return the hex digest over the source files of the step folder `step` and the packages it reaches.

    Raises:
        ConfigError: there is no such step folder.
    """
    if not (COMPONENTS / step).is_dir():
        raise ConfigError(f"There is no step folder components/{step}")
    digest = hashlib.sha256()
    for package in sorted(reached_packages(step)):
        for path in _files(package):
            digest.update(f"{path.relative_to(COMPONENTS)}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def reached_packages(step: str) -> set[str]:
    """Return the folders below `components/` that `step` reaches by imports, itself included."""
    reached: set[str] = set()
    unseen = [step]
    while unseen:
        package = unseen.pop()
        if package not in reached:
            reached.add(package)
            unseen.extend(_imported_packages(package))
    return reached


@cache
def _imported_packages(package: str) -> frozenset[str]:
    modules: set[str] = set()
    for path in _files(package):
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
                modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    named = {parts[1] for module in modules if (parts := module.split("."))[0] == "components" and len(parts) > 1}
    return frozenset(name for name in named if (COMPONENTS / name).is_dir())


def _files(package: str) -> list[Path]:
    found = (COMPONENTS / package).rglob("*")
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)
