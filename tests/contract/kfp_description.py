"""The OpenAPI description of the Kubeflow Pipelines API, as the official client of the installed version carries it.

`kfp_server_api` is generated from that description by its makers, and keeps all of it that matters here: paths,
methods, parameters, models with the types of their fields, choices. Read back out of the package it is always that of
the server the pins mean; only numeric formats are lost (int64 travels as a string, and is one here).
"""

import inspect
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import kfp_server_api
from kfp_server_api import api, models

PRIMITIVES = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
    "object": {},
    "file": {},
}


@dataclass(frozen=True)
class Operation:
    """One call of the API."""

    name: str
    method: str
    path: str
    query: frozenset[str]
    form: frozenset[str]
    body: str
    """Name of the model of the body, or empty."""
    answer: str


def schema(type_name: str) -> dict:
    """The JSON schema of a type as the package writes it: `V2beta1Run`, `list[str]`, `dict(str, object)`."""
    if found := re.fullmatch(r"list\[(.+)]", type_name):
        return {"type": "array", "items": schema(found[1])}
    if found := re.fullmatch(r"dict\(str, (.+)\)", type_name):
        return {"type": "object", "additionalProperties": schema(found[1])}
    return PRIMITIVES.get(type_name, {"$ref": f"#/definitions/{type_name}"})


def _definition(model: type) -> dict:
    choices = getattr(model, "allowable_values", None)
    if choices:
        return {"type": "string", "enum": choices}
    properties = {model.attribute_map[name]: schema(kind) for name, kind in model.openapi_types.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


DEFINITIONS = {name: _definition(model) for name, model in inspect.getmembers(models, inspect.isclass)}
# A status lists whatever its server likes.
DEFINITIONS["ProtobufAny"] = {"type": "object"}


def _operations() -> list[Operation]:
    found = []
    for service in vars(api).values():
        if not inspect.isclass(service):
            continue
        for name, function in inspect.getmembers(service, inspect.isfunction):
            if name.endswith("_with_http_info"):
                found.append(_operation(name.removesuffix("_with_http_info"), inspect.getsource(function)))
    return found


def _operation(name: str, source: str) -> Operation:
    path, method = re.search(r"call_api\(\s*'([^']+)', '([A-Z]+)'", source).groups()
    body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
    return Operation(
        name,
        method,
        path,
        frozenset(re.findall(r"query_params\.append\(\('(\w+)'", source)),
        frozenset(re.findall(r"local_var_files\['(\w+)'\]", source)),
        re.search(rf":type {body[1]}: (\S+)", source)[1] if body else "",
        re.search(r"response_type='([^']*)'", source)[1],
    )


OPERATIONS = {operation.name: operation for operation in _operations()}
VERSION = kfp_server_api.__version__


def operation_at(method: str, path: str) -> Operation | None:
    """The call that a request means: of several templates the one with the fewest blanks."""
    matching = [one for one in OPERATIONS.values() if one.method == method and _template(one.path).fullmatch(path)]
    return min(matching, key=lambda one: one.path.count("{"), default=None)


def _template(path: str) -> re.Pattern:
    return re.compile(re.sub(r"\\{[^}]+\\}", "[^/:]+", re.escape(path)))


def complaints(type_name: str, content: object) -> list[str]:
    """Where `content` leaves the type."""
    validator = jsonschema.Draft202012Validator({**schema(type_name), "definitions": DEFINITIONS})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


def request_complaints(method: str, url: str, body: object = None, form: frozenset[str] = frozenset()) -> list[str]:
    """What the API would not understand about a request."""
    parts = urlsplit(url)
    operation = operation_at(method, parts.path)
    if operation is None:
        return [f"no call {method} {parts.path}"]
    found = [f"no query parameter {name}" for name, _ in parse_qsl(parts.query) if name not in operation.query]
    found += [f"no form field {name}" for name in form - operation.form]
    found += [f"form field {name} is missing" for name in operation.form - form]
    if operation.body and body is None:
        found.append(f"a {operation.body} is missing")
    if body is not None:
        found += complaints(operation.body, body) if operation.body else ["no body expected"]
    return found
