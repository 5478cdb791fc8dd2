"""The Kubernetes API as the launcher needs it: answers as plain dictionaries, transient failures waited out.

What a person must mend (a missing Role, an uninstalled Trainer, a refused object) is a `ConfigError`; a server that
does not answer for `Patience.lost_contact_s` is a `ClusterError`.
"""

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch

from components.contracts.errors import ClusterError, ConfigError
from components.train.trainjob import GROUP, VERSION, owners

NAMESPACE_VARIABLE = "SEARCHR1_POD_NAMESPACE"
KUEUE_VERSIONS = ("v1beta2", "v1beta1")
_ROLE = "manifests/base/launcher-role.yaml"
_TRANSIENT = {0, 401, 408, 429, 500, 502, 503, 504}
"""0 is a broken TLS connection; 401 an account's token that was renewed a moment ago."""
_PODS_OF = "jobset.sigs.k8s.io/jobset-name={}"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the launcher waits for what."""

    watch_s: int = 15
    """For news of the job, before pods are looked at again."""
    request_s: float = 30.0
    first_back_off_s: float = 0.5
    longest_back_off_s: float = 30.0
    lost_contact_s: float = 900.0
    fewest_tries: int = 5
    """Before contact is lost: time that passed while this machine itself was halted says nothing of the server."""
    deletion_s: float = 900.0
    """For an earlier job to go: its pods have ten minutes to save a checkpoint."""
    log_silence_s: float = 300.0
    """Before a log that says nothing is asked for again: the connection may be gone without a word."""
    last_log_s: float = 10.0
    """For the end of the log of a job that is over."""


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, api: client.ApiClient, namespace: str, patience: Patience) -> None:
        self.namespace, self.patience = namespace, patience
        self._custom, self._core, self._api = client.CustomObjectsApi(api), client.CoreV1Api(api), api
        self._drops = 0
        self._kueue_versions = list(KUEUE_VERSIONS)

    @classmethod
    def connect(cls, patience: Patience) -> "Cluster":
        """Return the namespace of this pod; outside a cluster that of the current context of `KUBECONFIG`.

        Raises:
            ConfigError: there is neither.
        """
        settings = client.Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(settings)
                namespace = os.environ.get(NAMESPACE_VARIABLE, "")
            else:
                # The client reads the variable once, when it is imported.
                file = os.environ.get("KUBECONFIG")
                config.load_kube_config(file, client_configuration=settings)
                context = config.list_kube_config_contexts(file)[1]["context"]
                namespace = os.environ.get(NAMESPACE_VARIABLE) or context.get("namespace", "default")
        except config.ConfigException as error:
            raise ConfigError(
                f'train.launch.backend = "trainjob" finds no cluster: {error}',
                "a pod with a service account's token, or a kubeconfig file",
                "run the step on a cluster, or set KUBECONFIG",
            ) from None
        if not namespace:
            raise ConfigError(
                f"{NAMESPACE_VARIABLE} is not set in this pod",
                remedy="compile and upload the pipeline again: it gives the train tasks their pod's name",
            )
        return cls(client.ApiClient(settings), namespace, patience)

    def check_runtime(self, name: str) -> None:
        """Check that the runtime a job refers to exists.

        Raises:
            ConfigError: it does not, Kubeflow Trainer is not installed, or this account may not look.
        """
        try:
            self._custom_call(self._custom.get_namespaced_custom_object, "trainingruntimes", name)
        except ApiException as error:
            if error.status == 404 and _status(error).get("details"):
                raise ConfigError(
                    f"The namespace {self.namespace} has no TrainingRuntime {name!r} (train.launch.runtime)",
                    remedy="apply an overlay of manifests/ in this namespace, or name the runtime that is there",
                ) from None
            raise self._explained(error, "get trainingruntimes") from None

    def create(self, body: Object) -> bool:
        """Create the job and return True; False when one of its name is there."""
        try:
            self._custom_call(self._custom.create_namespaced_custom_object, "trainjobs", body)
        except ApiException as error:
            if error.status == 409:
                return False
            raise self._explained(error, "create trainjobs") from None
        return True

    def job(self, name: str) -> tuple[Object | None, str]:
        """Return the job, or None when there is none, and the version of the list it was read from, to watch from."""
        try:
            found = self._custom_call(
                self._custom.list_namespaced_custom_object, "trainjobs", field_selector=f"metadata.name={name}"
            )
        except ApiException as error:
            raise self._explained(error, "list trainjobs") from None
        return next(iter(found["items"]), None), found["metadata"]["resourceVersion"]

    def wait_for_news(self, name: str, version: str) -> None:
        """Return when the job has changed since `version`, and after `patience.watch_s` at the latest.

        It is only a bell: the caller reads the job again. So nothing is lost with a dropped connection, nor when the
        server no longer knows the version (410); a watch that breaks again and again is tried more and more rarely.
        """
        began_s = time.monotonic()
        news = self._listen(
            self._custom.list_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, "trainjobs"),
            field_selector=f"metadata.name={name}",
            resource_version=version,
        )
        heard = next(news, None) is not None
        news.close()
        if heard or time.monotonic() - began_s >= self.patience.watch_s / 2:
            self._drops = 0
            return
        self._drops += 1
        time.sleep(self.back_off_s(self._drops))

    def adopt(self, name: str) -> None:
        """Make this step's pod the owner of a job that another pod made: the job would go with that one."""
        try:
            self._custom_call(
                self._custom.patch_namespaced_custom_object,
                "trainjobs",
                name,
                {"metadata": {"ownerReferences": owners()}},
            )
        except ApiException as error:
            if error.status != 404:
                raise self._explained(error, "patch trainjobs") from None

    def delete(self, name: str) -> None:
        """Ask for the end of the job and its pods; it keeps its name until they are gone."""
        try:
            self._custom_call(
                self._custom.delete_namespaced_custom_object, "trainjobs", name, propagation_policy="Foreground"
            )
        except ApiException as error:
            if error.status != 404:
                raise self._explained(error, "delete trainjobs") from None

    def pods(self, name: str) -> list[Object]:
        """Return the pods of the job."""
        return self._list(self._core.list_namespaced_pod, "list pods", label_selector=_PODS_OF.format(name))["items"]

    def pod_changes(self, name: str) -> Iterator[Object]:
        """Yield the pods of the job as they are, then each as it changes or goes, for `patience.watch_s` at most."""
        selector = _PODS_OF.format(name)
        found = self._list(self._core.list_namespaced_pod, "list pods", label_selector=selector)
        yield from found["items"]
        yield from self._listen(
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
            resource_version=found["metadata"]["resourceVersion"],
        )

    def warnings(self) -> list[Object]:
        """Return the namespace's events of type Warning."""
        return self._list(self._core.list_namespaced_event, "list events", field_selector="type=Warning")["items"]

    def workloads(self) -> list[Object]:
        """Return Kueue's workloads; none where Kueue is not installed or may not be asked: it only explains waiting."""
        while self._kueue_versions:
            try:
                found = self._call(
                    self._custom.list_namespaced_custom_object,
                    "kueue.x-k8s.io",
                    self._kueue_versions[0],
                    self.namespace,
                    "workloads",
                )
                return found["items"]
            except ApiException:
                self._kueue_versions.pop(0)
        return []

    def log_lines(self, pod: str, since_time: str) -> Iterator[str]:
        """Yield the lines of a pod's log as they come, each behind its time stamp, from `since_time` on (all if empty).

        Raises:
            ApiException, urllib3.exceptions.HTTPError: there is no log yet, or the connection broke.
        """
        # The generated method does not know sinceTime.
        response = self._api.call_api(
            f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log",
            "GET",
            query_params=[("container", "node"), ("follow", "true"), ("timestamps", "true")]
            + ([("sinceTime", since_time)] if since_time else []),
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(self.patience.request_s, self.patience.log_silence_s),
        )
        rest = b""
        try:
            for part in response.stream(decode_content=False):
                *lines, rest = (rest + part).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        finally:
            response.close()
            response.release_conn()

    def last_lines(self, pod: str, container: str, count: int) -> list[str]:
        """Return the last lines of a pod's log, without time stamps; one that says why when it is gone."""
        try:
            text = self._call(
                self._core.read_namespaced_pod_log, pod, self.namespace, container=container, tail_lines=count
            )
        except ApiException as error:
            return [f"(no log: {_message(error)})"]
        return (text or "").splitlines()

    def back_off_s(self, tries: int) -> float:
        """Return how long to wait after so many failed tries, a little at random."""
        longest_s = min(self.patience.longest_back_off_s, self.patience.first_back_off_s * 2 ** min(tries - 1, 20))
        return longest_s * random.uniform(0.5, 1.0)

    def _listen(self, function: Callable[..., Any], *arguments: str, **selectors: str) -> Iterator[Object]:
        """Yield objects as they change; a broken connection or an expired version is an early end."""
        limits_s = (self.patience.request_s, self.patience.watch_s + self.patience.request_s)
        try:
            for event in Watch(return_type=object).stream(
                function,
                *arguments,
                timeout_seconds=self.patience.watch_s,
                _request_timeout=limits_s,
                **selectors,
            ):
                yield event["raw_object"]
        except (ApiException, urllib3.exceptions.HTTPError, ValueError, KeyError):
            return

    def _list(self, function: Callable[..., Any], what: str, **selectors: str) -> Object:
        try:
            answer = self._call(function, self.namespace, _preload_content=False, **selectors)
        except ApiException as error:
            raise self._explained(error, what) from None
        return json.loads(answer.data)

    def _custom_call(self, function: Callable[..., Any], plural: str, *arguments: Any, **named: Any) -> Any:
        return self._call(function, GROUP, VERSION, self.namespace, plural, *arguments, **named)

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call until the server answers; its refusals are the caller's to judge.

        Raises:
            ClusterError: it has not answered for `patience.lost_contact_s`, asked `patience.fewest_tries` times.
        """
        limit_s, tries = time.monotonic() + self.patience.lost_contact_s, 0
        while True:
            try:
                return function(*arguments, _request_timeout=self.patience.request_s, **named)
            except ApiException as error:
                if error.status not in _TRANSIENT:
                    raise
                reason = _message(error)
            except urllib3.exceptions.HTTPError as error:
                reason = str(error)
            tries += 1
            delay_s = self.back_off_s(tries)
            if tries >= self.patience.fewest_tries and time.monotonic() + delay_s > limit_s:
                raise ClusterError(
                    f"the API server has not answered for {self.patience.lost_contact_s:.0f} s: {reason}. "
                    "The job goes on; a retry finds it again"
                )
            if tries == 1:
                print(f"the API server does not answer, trying again: {reason}", flush=True)
            time.sleep(delay_s)

    def _explained(self, error: ApiException, what: str) -> ConfigError | ClusterError:
        """Return what a refusal means to a person."""
        message = _message(error)
        if error.status == 403 and "admission webhook" not in message:
            return ConfigError(
                f"This step's account may not {what} in namespace {self.namespace}: {message}",
                f"what the Role of {_ROLE} allows",
                f"apply {_ROLE} and bind it to the account of the run (launcher-binding.yaml of the overlay)",
            )
        if error.status == 404:
            return ConfigError(
                f"This cluster does not know {GROUP}/{VERSION}: Kubeflow Trainer is not installed",
                "Kubeflow Trainer 2.3",
                "let an administrator install it (docs/guides/kubernetes.md), or choose another train.launch.backend",
            )
        if error.status in (400, 403, 422):
            return ConfigError(
                f"The cluster refuses the job: {message}", remedy="correct train.launch or the TrainingRuntime"
            )
        return ClusterError(f"{what} failed: {message}")


def _status(error: ApiException) -> Object:
    try:
        status = json.loads(error.body or "")
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def _message(error: ApiException) -> str:
    text = _status(error).get("message") or error.body or error.reason
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return f"{text.strip()[:500]} (HTTP {error.status})"
