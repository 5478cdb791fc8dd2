"""What a client asks for, read from the body of its request."""

import json
from dataclasses import dataclass
from typing import Any

from components.contracts.errors import UserError
from components.retriever.config import RetrieverConfig


@dataclass(frozen=True, slots=True)
class Asked:
    """A request within the limits."""

    queries: list[str]
    top_k: int
    return_scores: bool


def read_body(data: bytes, config: RetrieverConfig) -> Asked:
    """Return what the JSON in `data` asks for; keys that mean nothing here are ignored, as Search-R1's server does.

    Raises:
        UserError: it is not JSON, a value has the wrong type, or a limit is exceeded.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"The body is not JSON ({type(error).__name__})", '{"queries": ["..."], "topk": 3}') from None
    if not isinstance(content, dict) or "queries" not in content:
        raise UserError("The body has no 'queries'", '{"queries": ["..."], "topk": 3, "return_scores": true}')
    return_scores = content.get("return_scores", True)
    if not isinstance(return_scores, bool):
        raise UserError(f"return_scores is {_kind(return_scores)}", "true, false")
    return Asked(_queries(content["queries"], config), _top_k(content.get("topk"), config), return_scores)


def _queries(given: Any, config: RetrieverConfig) -> list[str]:
    if not isinstance(given, list):
        raise UserError(f"queries is {_kind(given)}", "a list of texts")
    if len(given) > config.max_queries:
        raise UserError(
            f"{len(given)} queries in one request", f"at most {config.max_queries}", "send several requests"
        )
    for number, query in enumerate(given):
        if not isinstance(query, str):
            raise UserError(f"Query {number} is {_kind(query)}", "a text")
        if len(query) > config.max_query_characters:
            raise UserError(f"Query {number} has {len(query)} characters", f"at most {config.max_query_characters}")
    return given


def _top_k(given: Any, config: RetrieverConfig) -> int:
    if given is None:
        return config.default_top_k
    if not isinstance(given, int) or isinstance(given, bool):
        raise UserError(f"topk is {_kind(given)}", f"a whole number from 1 to {config.max_top_k}")
    if not 1 <= given <= config.max_top_k:
        raise UserError(f"topk is {given if abs(given) < 10**9 else 'huge'}", f"1 to {config.max_top_k}")
    return given


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "a mapping")
