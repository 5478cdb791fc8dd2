"""Every overlay, applied on a server's side: fields, types, rules and pod security as the server itself judges them."""

import copy

import pytest

from manifests.validation.render import overlay_names
from tests.cluster.kubernetes import moved

pytestmark = pytest.mark.cluster
TEMPLATES = ("Deployment", "StatefulSet")


@pytest.fixture(params=overlay_names())
def objects(request, cluster, overlays, namespace):
    """The objects of an overlay, in the tests' namespace."""
    found = moved(overlays[request.param], namespace)
    known = cluster.served_kinds()
    lacking = {f"{i['apiVersion']} {i['kind']}" for i in found if (i["apiVersion"], i["kind"]) not in known}
    if lacking:
        pytest.skip(f"the cluster does not know {', '.join(sorted(lacking))}")
    return found


def options(cluster) -> tuple[str, ...]:
    return () if cluster.is_alone else ("--dry-run=server",)


def test_overlay_is_accepted_and_its_pods_are_restricted(cluster, objects):
    applied = cluster.apply(objects, *options(cluster))
    assert applied.returncode == 0, applied.stderr
    assert len(applied.stdout.splitlines()) == len(objects)
    assert "Warning" not in applied.stderr


def test_applying_an_overlay_again_changes_nothing(cluster, objects, namespace):
    if not cluster.is_alone:
        pytest.skip("a dry run leaves nothing to apply again to")
    versions = []
    for _ in range(2):
        assert cluster.apply(objects).returncode == 0
        versions.append(
            [cluster.get(i["kind"], i["metadata"]["name"], namespace)["metadata"]["resourceVersion"] for i in objects]
        )
    assert versions[0] == versions[1]


def test_what_an_overlay_must_not_say_is_refused(cluster, overlays, namespace):
    """The server looks at what it is given: without this, acceptance would mean nothing."""
    objects = moved(overlays["standalone-kfp"], namespace)
    deployment = next(copy.deepcopy(item) for item in objects if item["kind"] == "Deployment")
    deployment["spec"]["replica"] = 2
    refused = cluster.apply([deployment], "--dry-run=server")
    assert refused.returncode != 0
    assert "replica" in refused.stderr


def test_pod_security_speaks_up_about_a_loose_pod(cluster, overlays, namespace):
    objects = moved(overlays["standalone-kfp"], namespace)
    deployment = next(copy.deepcopy(item) for item in objects if item["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    said = cluster.apply([deployment], "--dry-run=server")
    assert "would violate PodSecurity" in said.stderr
