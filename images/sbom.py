"""Print a software bill of materials (CycloneDX 1.6, JSON) of this Python environment; equal environments, equal bytes.

Standard library only: what describes an image adds nothing to it.
"""

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions
from urllib.parse import quote


def bill_of_materials() -> dict[str, object]:
    """Return the bill: the interpreter and every installed distribution, sorted by name."""
    found = {_normalized(item): item for item in distributions() if item.metadata["Name"]}
    interpreter = {
        "type": "platform",
        "name": platform.python_implementation(),
        "version": platform.python_version(),
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": [interpreter, *(_component(name, found[name]) for name in sorted(found))],
    }


def _normalized(item: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", item.metadata["Name"]).lower()


def _component(name: str, item: Distribution) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "library",
        "name": name,
        "version": item.version,
        "purl": f"pkg:pypi/{name}@{quote(item.version)}",
    }
    if expression := item.metadata.get("License-Expression"):
        component["licenses"] = [{"expression": expression}]
    return component


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=1)
