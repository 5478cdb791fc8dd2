"""The HTTP below `kfp.Client`: time limits, retries, our errors, and a rehearsal of everything that writes.

The generated client has none of these: it waits for ever, takes the login page of a proxy for an empty answer, and
lets errors of its HTTP library through.
"""

import json
import re
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from kfp_server_api import ApiException
from kfp_server_api.rest import RESTClientObject
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from components.contracts.errors import AccessError, ClusterError, ConfigError, MissingError, SearchR1Error

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 60
PASSING = {429, 502, 503, 504}
"""Statuses of a server or proxy that may answer in a moment."""
MAX_MESSAGE_CHARACTERS = 500
_RESOURCE = re.compile(r"/apis/v2beta1/(?P<kind>\w+)(?:/(?P<id>[^/:]+))?(?:/(?P<below>\w+))?(?::(?P<verb>\w+))?")
_PERMISSIONS = {"recurringruns": "jobs"}
"""Kind in an address -> resource in a Role, where they differ."""
_SINGULAR = {"runs": "run", "recurringruns": "recurring run", "pipelines": "pipeline", "experiments": "experiment"}
_ID = {
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
    "pipelines": "pipeline_id",
    "experiments": "experiment_id",
}


@dataclass(frozen=True)
class Request:
    """A write that a rehearsal did not send."""

    method: str
    url: str
    body: Any
    """The JSON, or for a file its name and size."""

    def as_json(self) -> dict[str, Any]:
        """Return the three fields by name."""
        return {"method": self.method, "url": self.url, "body": self.body}


class Wire(RESTClientObject):
    """Sends the requests of the generated client."""

    def __init__(self, configuration: Any, rehearse: bool, deadline_s: float) -> None:
        """Take the place of the client's own; with `rehearse` writes are kept in `rehearsed` instead of sent."""
        # The retries are ours; without any, redirects (to a login page) come back as such.
        configuration.retries = False
        super().__init__(configuration)
        self.host = configuration.host
        self.rehearse, self.rehearsed = rehearse, list[Request]()
        self.deadline_s = deadline_s
        """How long a request is tried again before its error counts."""

    def request(
        self,
        method: str,
        url: str,
        query_params: Any = None,
        headers: Any = None,
        body: Any = None,
        post_params: Any = None,
        _preload_content: bool = True,
        _request_timeout: Any = None,
    ) -> Any:
        """Return the answer.

        Raises:
            AccessError: credentials are missing, refused, or may not do this.
            MissingError: what the address names does not exist.
            ConfigError: the server calls the request wrong.
            ClusterError: no answer before the deadline, or the server failed.
        """
        if self.rehearse and method != "GET":
            return self._rehearsed(method, url, query_params, body, post_params)
        timeout = _request_timeout or (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        deadline_s, pause_s = time.monotonic() + self.deadline_s, 0.5
        while True:
            try:
                answer = super().request(
                    method, url, query_params, dict(headers or {}), body, post_params, _preload_content, timeout
                )
            except (ApiException, HTTPError) as error:
                if not _may_pass(method, error) or time.monotonic() + pause_s > deadline_s:
                    raise self._translated(method, url, error) from error
                if pause_s > 1:
                    left_s = deadline_s - time.monotonic()
                    print(f"{self.host} does not answer; trying for {left_s:.0f} s more", file=sys.stderr, flush=True)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 15)
                continue
            if _preload_content and "json" not in (answer.getheader("content-type") or "json"):
                raise _login_page(self.host)
            return answer

    def _rehearsed(self, method: str, url: str, query: Any, body: Any, form: Any) -> "_Invented":
        if query:
            url += f"?{urlencode(query)}"
        sent = {name: {"file": part[0], "bytes": len(part[1])} for name, part in form} if form else body
        self.rehearsed.append(Request(method, url, sent))
        what = "pipeline version" if "upload_version" in url else _SINGULAR[_RESOURCE.search(url)["kind"]]
        return _Invented({**(body or {}), f"{what.replace(' ', '_')}_id": f"<id of the new {what}>"})

    def _translated(self, method: str, url: str, error: Exception) -> SearchR1Error:
        status = getattr(error, "status", None)
        said = _message(error)
        match status:
            case 401:
                return AccessError(f"{self.host} refuses the token: {said}", remedy=TOKEN_REMEDY)
            case 403:
                verb, resource, what = _permission(method, url)
                return AccessError(
                    f"Not allowed to {verb} {what}: {said}",
                    remedy=f"give the account a Role with verb {verb!r} on {resource!r} of the API group "
                    "pipelines.kubeflow.org in that namespace (the ClusterRole kubeflow-pipelines-edit has it)",
                )
            case 404:
                return MissingError(f"{self.host} knows no {_permission(method, url)[2]}: {said}")
            case 301 | 302 | 303 | 307 | 308:
                return _login_page(self.host)
            case 400 | 409 | 412 | 422:
                return ConfigError(f"Kubeflow Pipelines refuses the request: {said}")
        said = f"HTTP {status}, {said}" if status else said
        arrived = "" if method == "GET" or _never_sent(error) else "; whether the request arrived is not known"
        return ClusterError(f"Kubeflow Pipelines at {self.host} does not answer as it should{arrived}: {said}")


TOKEN_REMEDY = (
    "outside the cluster put a token into the environment variable KF_PIPELINES_TOKEN; "
    "in a pod mount the projected one and let KF_PIPELINES_SA_TOKEN_PATH name its file"
)


class _Invented:
    """The answer that a rehearsed write would have got, as far as later requests need it."""

    status = 200

    def __init__(self, content: dict[str, Any]) -> None:
        self.data = json.dumps(content).encode()

    def getheader(self, name: str, default: str | None = None) -> str | None:
        return default

    def getheaders(self) -> dict[str, str]:
        return {}


def _may_pass(method: str, error: Exception) -> bool:
    if isinstance(error, ApiException):
        return method == "GET" and error.status in PASSING
    return method == "GET" or _never_sent(error)


def _never_sent(error: Exception) -> bool:
    return isinstance(error, NewConnectionError | ConnectTimeoutError | NameResolutionError)


def _message(error: Exception) -> str:
    """Return what the server said, cut: its text is not ours."""
    body = getattr(error, "body", None)
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    text = body or getattr(error, "reason", "") or str(error)
    try:
        said = json.loads(text)
        text = said.get("message") or said.get("error") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(printable(str(text)).split())[:MAX_MESSAGE_CHARACTERS]


def printable(text: str) -> str:
    """Return `text` without characters that steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def _permission(method: str, url: str) -> tuple[str, str, str]:
    """Return the verb and resource that a Role must allow, and what they are about in words."""
    found = _RESOURCE.search(urlsplit(url).path)
    if not found:
        return method.lower(), "pipelines", f"address {urlsplit(url).path}"
    kind, identity = found["kind"], found["id"]
    named = identity if identity not in ("upload", "upload_version", "create") else None
    verb = found["verb"] or {"GET": "get" if named and not found["below"] else "list", "DELETE": "delete"}.get(
        method, "create"
    )
    return verb, _PERMISSIONS.get(kind, kind), f"{_SINGULAR.get(kind, kind)} {named}" if named else kind


def _login_page(host: str) -> AccessError:
    return AccessError(f"{host} answers with a page instead of data: it wants a login", remedy=TOKEN_REMEDY)
