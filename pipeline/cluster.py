"""A Kubeflow Pipelines server: versions of the pipeline, runs and schedules, through `kfp.Client`.

The client brings address, credentials and models; its calls are the generated ones, because its own print to stdout,
wait for ever on a cancelled run and cannot create a schedule that follows the latest version.
"""

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.contracts.config import nearest
from components.contracts.errors import ClusterError, ConfigError, MissingError
from pipeline.cluster_wire import Request, Wire

IN_CLUSTER_HOST = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
TOKEN_VARIABLE, TOKEN_PATH_VARIABLE = "KF_PIPELINES_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"
PROJECTED_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PAGE_SIZE = 100
FINAL_STATES = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Version:
    """A version of the pipeline on the server."""

    pipeline_id: str
    version_id: str
    name: str
    created: bool = False
    """This command made it."""
    spec: Mapping[str, Any] | None = None

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters it takes."""
        spec = (self.spec or {}).get("pipeline_spec", self.spec or {})
        return set(spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {}))


class Cluster:
    """The server, and what may be asked of it."""

    def __init__(
        self,
        host: str = "",
        *,
        namespace: str = "",
        ca_file: str = "",
        rehearse: bool = False,
        deadline_s: float = 15.0,
    ) -> None:
        """Connect; with `rehearse` nothing is written, and `rehearsed` holds the requests instead.

        For `deadline_s` a request is tried again before its error counts.

        Raises:
            ConfigError: no address is known, or it is none; several teams share the server and no namespace is known.
            AccessError: the server wants other credentials.
            ClusterError: it cannot be reached.
        """
        import kfp_server_api as api

        self.host = _host(host)
        self._client = api_client = _api_client(self.host, ca_file)
        self._wire = api_client.rest_client = Wire(api_client.configuration, rehearse, deadline_s)
        self._api = api
        self._runs, self._schedules = api.RunServiceApi(api_client), api.RecurringRunServiceApi(api_client)
        self._pipelines, self._uploads = api.PipelineServiceApi(api_client), api.PipelineUploadServiceApi(api_client)
        self._experiments = api.ExperimentServiceApi(api_client)
        multi_user = api.HealthzServiceApi(api_client).healthz_service_get_healthz().multi_user
        if multi_user is None:
            # The web interface answers for itself, and leaves out what it could not ask.
            raise ClusterError(f"The web interface at {self.host} does not reach Kubeflow Pipelines")
        # A server of one team refuses requests that name a namespace.
        self.namespace = _namespace(namespace) if multi_user else None
        self.pod_namespace = self.namespace or namespace or "kubeflow"

    @property
    def rehearsed(self) -> list[Request]:
        """The writes that were not sent."""
        return self._wire.rehearsed

    def patience(self, deadline_s: float) -> None:
        """Let every later request be tried again for so long before its error counts."""
        self._wire.deadline_s = deadline_s

    def link(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{os.environ.get('KF_PIPELINES_UI_ENDPOINT', self.host).rstrip('/')}/#/runs/details/{run_id}"

    # Versions of the pipeline

    def upload(self, package: Path, pipeline: str, description: str) -> Version:
        """Make the version of `pipeline` that is named after the content of `package`, or return the one there is.

        The pipeline is created alone when it is missing: uploading both at once would name the version after it.
        """
        content = package.read_bytes()
        name = f"sha-{hashlib.sha256(content).hexdigest()[:12]}"
        pipeline_id = self._pipeline_id(pipeline)
        if pipeline_id:
            found = self._version_named(pipeline_id, name)
            if found:
                return found
        else:
            body = self._api.V2beta1Pipeline(name=pipeline, display_name=pipeline, namespace=self.namespace)
            pipeline_id = self._pipelines.pipeline_service_create_pipeline(body).pipeline_id
        with tempfile.TemporaryDirectory() as folder:
            # The server unpacks by suffix.
            copy = Path(folder) / f"{name}.yaml"
            copy.write_bytes(content)
            made = self._uploads.upload_pipeline_version(
                str(copy), name=name, pipelineid=pipeline_id, description=description
            )
        return Version(pipeline_id, made.pipeline_version_id, name, created=True)

    def version(self, pipeline: str, name: str = "latest") -> Version:
        """Return the version of that name, or the one made last.

        Raises:
            MissingError: there is no such pipeline or version.
        """
        pipeline_id = self._pipeline_id(pipeline)
        if not pipeline_id:
            raise MissingError(f"There is no pipeline {pipeline!r} on {self.host}", remedy="searchr1 upload")
        if name != "latest":
            found = self._version_named(pipeline_id, name)
        else:
            answer = self._pipelines.pipeline_service_list_pipeline_versions(
                pipeline_id, page_size=1, sort_by="created_at desc"
            )
            found = next(iter(_versions(answer.pipeline_versions)), None)
        if not found:
            what = "no version yet" if name == "latest" else f"no version {name!r}"
            raise MissingError(f"Pipeline {pipeline!r} has {what}", remedy="searchr1 upload")
        return found

    def _pipeline_id(self, name: str) -> str | None:
        answer = self._pipelines.pipeline_service_list_pipelines(
            namespace=self.namespace, page_size=PAGE_SIZE, filter=self._named(name)
        )
        found = _only(answer.pipelines or [], f"pipeline {name!r}", lambda one: one.pipeline_id)
        return found and found.pipeline_id

    def _version_named(self, pipeline_id: str, name: str) -> Version | None:
        answer = self._pipelines.pipeline_service_list_pipeline_versions(
            pipeline_id, page_size=PAGE_SIZE, filter=self._named(name)
        )
        return _only(list(_versions(answer.pipeline_versions)), f"version {name!r}", lambda one: one.version_id)

    # Runs

    def submit(
        self, version: Version, parameters: Mapping[str, Any], name: str, experiment: str, service_account: str = ""
    ) -> Any:
        """Start a run and return the server's record of it (`V2beta1Run`)."""
        body = self._api.V2beta1Run(
            display_name=name,
            experiment_id=self._experiment_id(experiment, create=True),
            pipeline_version_reference=self._api.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            runtime_config=self._api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=service_account or None,
        )
        return self._runs.run_service_create_run(body)

    def run(self, what: str, experiment: str) -> Any:
        """Return the run with that id or name, or the newest of `experiment` for `latest`, with its tasks.

        Raises:
            MissingError: there is none.
            ConfigError: several runs have that name.
        """
        if _UUID.fullmatch(what):
            return self._runs.run_service_get_run(what)
        experiment_id = self._experiment_id(experiment)
        if not experiment_id:
            raise MissingError(f"There is no experiment {experiment!r}", remedy="--experiment, or the id of the run")
        listed = partial(self._runs.run_service_list_runs, experiment_id=experiment_id)
        newest_first = "created_at desc"
        if what == "latest":
            newest = listed(page_size=1, sort_by=newest_first).runs
            if not newest:
                raise MissingError(f"There is no run in {experiment!r} yet", remedy="searchr1 submit")
            return self._runs.run_service_get_run(newest[0].run_id)
        named = listed(page_size=PAGE_SIZE, filter=self._named(what)).runs or []
        found = _only(named, f"run {what!r}", lambda one: f"{one.run_id} of {one.created_at}")
        if not found:
            names = [one.display_name for one in listed(page_size=20, sort_by=newest_first).runs or []]
            raise MissingError(f"There is no run {what!r} in {experiment!r}{nearest(what, names)}", ", ".join(names))
        return self._runs.run_service_get_run(found.run_id)

    def get_run(self, run_id: str) -> Any:
        """Return the run as it is now."""
        return self._runs.run_service_get_run(run_id)

    def spec_of(self, run: Any) -> Mapping[str, Any]:
        """Return the pipeline that `run` runs, as it was compiled; empty when the server does not tell."""
        reference = run.pipeline_version_reference
        if run.pipeline_spec or not reference or not reference.pipeline_version_id:
            spec = run.pipeline_spec or {}
        else:
            spec = self._pipelines.pipeline_service_get_pipeline_version(
                reference.pipeline_id, reference.pipeline_version_id
            ).pipeline_spec
        return (spec or {}).get("pipeline_spec", spec or {})

    def cancel(self, run_id: str) -> None:
        """Ask for the end of a run."""
        self._runs.run_service_terminate_run(run_id)

    def _experiment_id(self, name: str, create: bool = False) -> str | None:
        answer = self._experiments.experiment_service_list_experiments(
            namespace=self.namespace, page_size=PAGE_SIZE, filter=self._named(name)
        )
        found = _only(answer.experiments or [], f"experiment {name!r}", lambda one: one.experiment_id)
        if not found and create:
            body = self._api.V2beta1Experiment(display_name=name, namespace=self.namespace)
            found = self._experiments.experiment_service_create_experiment(body)
        return found and found.experiment_id

    # Schedules

    def schedules(self, name: str = "") -> list[Any]:
        """Return all schedules, or those of one name (`V2beta1RecurringRun`)."""
        found, token = [], ""
        named = self._named(name) if name else None
        while True:
            answer = self._schedules.recurring_run_service_list_recurring_runs(
                namespace=self.namespace, page_size=PAGE_SIZE, page_token=token, filter=named
            )
            found += answer.recurring_runs or []
            token = answer.next_page_token
            if not token:
                return found

    def schedule(
        self,
        name: str,
        pipeline_id: str,
        trigger: Mapping[str, str],
        parameters: Mapping[str, Any],
        experiment: str,
        service_account: str = "",
    ) -> Any:
        """Make a schedule that runs whichever version of the pipeline is the latest then, one run at a time.

        `trigger` is `{"cron": six fields}` or `{"interval_second": text}`. Returns the server's record.
        """
        api = self._api
        cron, interval = trigger.get("cron"), trigger.get("interval_second")
        body = api.V2beta1RecurringRun(
            display_name=name,
            experiment_id=self._experiment_id(experiment, create=True),
            # Without the id of a version the server takes the latest one at every start.
            pipeline_version_reference=api.V2beta1PipelineVersionReference(pipeline_id=pipeline_id),
            runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            trigger=api.V2beta1Trigger(
                cron_schedule=api.V2beta1CronSchedule(cron=cron) if cron else None,
                periodic_schedule=api.V2beta1PeriodicSchedule(interval_second=interval) if interval else None,
            ),
            mode=api.RecurringRunMode.ENABLE,
            max_concurrency="1",
            no_catchup=True,
            service_account=service_account or None,
        )
        return self._schedules.recurring_run_service_create_recurring_run(body)

    def change_schedule(self, schedule_id: str, change: str) -> None:
        """Do `enable`, `disable` or `delete` to a schedule."""
        getattr(self._schedules, f"recurring_run_service_{change}_recurring_run")(schedule_id)

    @staticmethod
    def _named(name: str) -> str:
        predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
        return json.dumps({"predicates": [predicate]})


def _versions(records: list[Any] | None) -> Iterator[Version]:
    for one in records or []:
        yield Version(one.pipeline_id, one.pipeline_version_id, one.display_name, spec=one.pipeline_spec)


def _only(found: list[Any], what: str, identity: Callable[[Any], str]) -> Any | None:
    if len(found) > 1:
        identities = ", ".join(map(identity, found))
        raise ConfigError(f"There is more than one {what}", identities, "give the id, or rename one")
    return found[0] if found else None


def _host(given: str) -> str:
    host = given or os.environ.get("KF_PIPELINES_ENDPOINT", "")
    if not host and os.environ.get("KUBERNETES_SERVICE_HOST"):
        host = IN_CLUSTER_HOST
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", host):
        raise ConfigError(
            f"The address of Kubeflow Pipelines is {host!r}" if host else "No address of Kubeflow Pipelines is known",
            "http://host:port or https://host, without a user or password",
            "give --host or KF_PIPELINES_ENDPOINT; on a laptop first "
            "`kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80`, then --host http://localhost:8080",
        )
    return host.rstrip("/")


def _api_client(host: str, ca_file: str) -> Any:
    """Return the client's connection, with the token of the environment or of the pod."""
    import kfp
    from kfp.client import ServiceAccountTokenVolumeCredentials

    if ca_file and not Path(ca_file).is_file():
        raise MissingError(f"There is no file {ca_file}", remedy="--ca-file names a PEM file")
    token = os.environ.get(TOKEN_VARIABLE)
    path = Path(os.environ.get(TOKEN_PATH_VARIABLE) or PROJECTED_TOKEN)
    if not token and TOKEN_PATH_VARIABLE in os.environ and not path.is_file():
        raise MissingError(f"{TOKEN_PATH_VARIABLE} names {path}, which does not exist", remedy="mount the token there")
    credentials = ServiceAccountTokenVolumeCredentials(str(path)) if not token and path.is_file() else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # With any namespace but its default the client sends nothing yet; which one is right is found out here.
        client = kfp.Client(
            host, namespace="unknown", existing_token=token, credentials=credentials, ssl_ca_cert=ca_file or None
        )
    return client._run_api.api_client


def _namespace(given: str) -> str:
    namespace = given or (POD_NAMESPACE.read_text().strip() if POD_NAMESPACE.is_file() else "")
    if not namespace:
        raise ConfigError("Several teams share this Kubeflow Pipelines", remedy="--namespace, the one of your profile")
    return namespace
