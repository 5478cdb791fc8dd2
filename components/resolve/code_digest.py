"""One digest per step over the code it can reach, so that a cache never serves the work of other code.

The unit is the package: a step reaches its own folder and, transitively, every shared package that any of
its files imports, wherever the import stands. A change of the report does not retrain a model.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from components.contracts.errors import ConfigError

COMPONENTS = Path(__file__).resolve().parent.parent


def code_digests(steps: Iterable[str], components: Path = COMPONENTS) -> dict[str, str]:
    """Return step folder -> hex digest over the source files of the packages it reaches, its own included.

    Raises:
        ConfigError: there is no such step folder.
    """
    source = _Source(components)
    digests = {}
    for step in steps:
        if not (components / step).is_dir():
            raise ConfigError(f"There is no step folder components/{step}")
        reached = sorted(source.reached(step))
        digests[step] = hashlib.sha256("".join(source.digest(package) for package in reached).encode()).hexdigest()
    return digests


class _Source:
    """What the packages below a folder import and hold, each read once."""

    def __init__(self, components: Path) -> None:
        self.components = components
        self._imported: dict[str, set[str]] = {}
        self._digests: dict[str, str] = {}

    def reached(self, step: str) -> set[str]:
        reached: set[str] = set()
        unseen = [step]
        while unseen:
            package = unseen.pop()
            if package not in reached:
                reached.add(package)
                unseen.extend(self.imported(package))
        return reached

    def imported(self, package: str) -> set[str]:
        if package not in self._imported:
            modules = {module for path in self._files(package, ".py") for module in _modules(path)}
            names = {parts[1] for module in modules if (parts := module.split("."))[0] == "components" and parts[1:]}
            self._imported[package] = {name for name in names if (self.components / name).is_dir()}
        return self._imported[package]

    def digest(self, package: str) -> str:
        if package not in self._digests:
            digest = hashlib.sha256()
            for path in self._files(package):
                digest.update(f"{path.relative_to(self.components)}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            self._digests[package] = digest.hexdigest()
        return self._digests[package]

    def _files(self, package: str, suffix: str = "") -> list[Path]:
        found = (self.components / package).rglob(f"*{suffix}")
        return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules
