"""`python -m manifests.validation`: render every overlay, check it, and write it to a folder."""

import argparse
import sys
from pathlib import Path

import yaml

from manifests.validation.launcher import launcher_complaints
from manifests.validation.objects import KubernetesObject
from manifests.validation.policies import policy_complaints
from manifests.validation.references import Surroundings, reference_complaints, surroundings
from manifests.validation.render import IMAGES, MANIFESTS, RenderError, find_kubectl, overlay_names, render
from manifests.validation.schemas import schema_complaints


def complaints(objects: list[KubernetesObject], around: Surroundings, deployable: bool = False) -> list[str]:
    """Return everything that is wrong with the objects of one overlay, one line each."""
    found = schema_complaints(objects) + reference_complaints(objects, around) + launcher_complaints(objects, around)
    return found + policy_complaints(objects, deployable)


def main() -> None:
    """Command line; the exit code is 1 when an overlay has complaints, 2 when it cannot be rendered."""
    parser = argparse.ArgumentParser(prog="python -m manifests.validation", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/manifests"), help="folder (%(default)s)")
    for name in IMAGES:
        parser.add_argument(f"--image-{name}", default="", metavar="REFERENCE", help=f"the {name} image")
    given = parser.parse_args()
    images = {name: reference for name in IMAGES if (reference := getattr(given, f"image_{name}"))}
    try:
        clean = _check_all(given.output, images)
    except RenderError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if not images:
        print("The images are placeholders. To apply: make manifests IMAGE_CPU=... IMAGE_GPU=... IMAGE_MLFLOW=...")
    raise SystemExit(0 if clean else 1)


def _check_all(output: Path, images: dict[str, str]) -> bool:
    kubectl = find_kubectl(output.parent)
    output.mkdir(parents=True, exist_ok=True)
    clean = True
    for name in overlay_names():
        folder = MANIFESTS / "overlays" / name
        objects = render(kubectl, folder, images)
        found = complaints(objects, surroundings(folder), deployable=bool(images))
        clean = clean and not found
        target = output / f"{name}.yaml"
        if found:
            target.unlink(missing_ok=True)
            print(f"{name}: {len(found)} complaints", *(f"  {line}" for line in found), sep="\n")
        else:
            target.write_text(yaml.safe_dump_all(objects, sort_keys=False), encoding="utf-8")
            print(f"{name}: {len(objects)} objects are valid: {target}")
    return clean


if __name__ == "__main__":
    main()
