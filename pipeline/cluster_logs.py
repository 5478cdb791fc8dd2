"""Logs of a run's steps, from their pods.

The API of Kubeflow Pipelines 2.17 offers no logs: its description has no such call, and the address that the server has
beside it (of v1alpha1) is not passed on by the web interface, through which most people come, and wants the names of
pods, which the records of a run leave out. The pods themselves are labelled with the run, and are there while a step
runs and until somebody deletes them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from components.contracts.errors import AccessError, ClusterError, MissingError
from pipeline.cluster_runs import EXECUTOR
from pipeline.cluster_wire import MAX_MESSAGE_CHARACTERS, printable

RUN_LABEL, NODE_ANNOTATION = "pipeline/runid", "workflows.argoproj.io/node-name"
CONTAINER = "main"
TIMEOUT_S = (5, 60)


@dataclass(frozen=True)
class StepPod:
    """A pod that ran, or runs, the program of a step."""

    step: str
    name: str
    phase: str
    reason: str
    """Why it waits or how it ended: `ImagePullBackOff ...`, `OOMKilled, exit code 137`; empty when all is well."""
    created_at: Any


class Pods:
    """The pods of one namespace, through the current kubeconfig or the account of this pod."""

    def __init__(self, namespace: str, context: str = "") -> None:
        """Connect.

        Raises:
            AccessError: neither a kubeconfig nor the account of a pod is at hand.
        """
        from kubernetes import client, config

        self.namespace = namespace
        configuration = client.Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST") and not context:
                config.load_incluster_config(configuration)
            else:
                config.load_kube_config(os.environ.get("KUBECONFIG"), context or None, configuration)
        except config.ConfigException as error:
            raise AccessError(
                f"Logs come from pods, and Kubernetes cannot be asked: {error}",
                remedy="set KUBECONFIG, or name a context of it with --context",
            ) from None
        configuration.retries = 2
        self._core = client.CoreV1Api(client.ApiClient(configuration))

    def of_run(self, run_id: str) -> list[StepPod]:
        """Return the pods of a run's steps, oldest first.

        Raises:
            AccessError: they may not be seen.
            ClusterError: Kubernetes cannot be reached.
        """
        with _errors_translated(f"list pods in {self.namespace}", "list", "pods"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{RUN_LABEL}={run_id}", _request_timeout=TIMEOUT_S
            ).items
        pods = []
        for pod in found:
            *_, step, node = ("", "", *(pod.metadata.annotations or {}).get(NODE_ANNOTATION, "").split("."))
            if EXECUTOR.fullmatch(node):
                name, created_at = pod.metadata.name, pod.metadata.creation_timestamp
                pods.append(StepPod(step, name, pod.status.phase, _reason(pod.status), created_at))
        return sorted(pods, key=lambda pod: pod.created_at)

    def lines(self, pod: StepPod, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a pod's log without characters that steer a terminal; with `follow` until it ends.

        Raises:
            MissingError: the pod has gone.
            AccessError: its log may not be seen.
            ClusterError: Kubernetes cannot be reached, or the container has not started.
        """
        timeout = (TIMEOUT_S[0], None) if follow else TIMEOUT_S
        with _errors_translated(f"read the log of pod {pod.name}", "get", "pods/log"):
            answer = self._core.read_namespaced_pod_log(
                pod.name,
                self.namespace,
                container=CONTAINER,
                follow=follow,
                _preload_content=False,
                _request_timeout=timeout,
                **({"tail_lines": tail} if tail else {}),
            )
            rest = b""
            for chunk in answer.stream(decode_content=True):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from map(_line, whole)
            if rest:
                yield _line(rest)


def _reason(status: Any) -> str:
    parts = [status.reason, status.message]
    for container in status.container_statuses or []:
        if container.name != CONTAINER or not container.state:
            continue
        if container.state.waiting:
            parts += [container.state.waiting.reason, container.state.waiting.message]
        if container.state.terminated and container.state.terminated.exit_code:
            parts += [container.state.terminated.reason, f"exit code {container.state.terminated.exit_code}"]
    return printable(", ".join(part for part in parts if part))[:MAX_MESSAGE_CHARACTERS]


def _line(text: bytes) -> str:
    # Of a progress bar that draws over itself, the last state.
    return printable(text.decode(errors="replace").rstrip("\r").rpartition("\r")[2])


@contextmanager
def _errors_translated(what: str, verb: str, resource: str) -> Iterator[None]:
    """Turn what the Kubernetes client raises into our errors."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except HTTPError as error:
        raise ClusterError(f"Kubernetes does not answer: {error}") from error
    except ApiException as error:
        body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body or ""
        said = printable(body or str(error.reason))[:MAX_MESSAGE_CHARACTERS]
        if error.status in (401, 403):
            remedy = f"give the account a Role with verb {verb!r} on {resource!r} in that namespace"
            raise AccessError(f"Not allowed to {what}: {said}", remedy=remedy) from error
        if error.status == 404:
            raise MissingError(f"Cannot {what}: it has gone") from error
        raise ClusterError(f"Cannot {what}: HTTP {error.status}, {said}") from error
