"""Where a step finds its search engine."""

import ipaddress
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from components.contracts.config import StepConfig


class SearchConfig(StepConfig):
    """In this process or in a retriever service; passages and scores are the same, so results do not depend on it."""

    retriever_url: str = ""
    """Address of a retriever service (`http://searchr1-retriever:8000`), or several of equal ones separated by commas,
    which are asked in turn. Empty takes the address in the environment variable `SEARCHR1_RETRIEVER_URL`, which a pod
    that has a retriever beside it carries; without it the index is opened in this process."""
    request_timeout_s: float = Field(default=10.0, gt=0, le=300)
    """Longest wait of a retriever's client for the answer to one request."""
    retries: int = Field(default=16, ge=0, le=1000)
    """How often a request to a service that failed is sent again: sixteen times take a quarter of a minute, which a
    restart of the service may last."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Longest time of a search in a service, repetitions included; then it counts as failed."""
    ready_timeout_s: float = Field(default=1800.0, ge=0)
    """Longest wait at the start for a service that still fetches its index."""
    require_digest: bool = True
    """Refuse a service that does not say which index it serves. Search-R1's own server does not: set this to false to
    use it, and see to the index yourself. A service that names another index is refused in any case."""

    @field_validator("retriever_url")
    @classmethod
    def _is_a_list_of_addresses(cls, value: str) -> str:
        for url in retriever_urls(value):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{url!r} is not an address such as http://host:8000")
            if parts.username or parts.password:
                raise ValueError("an address with a password in it would end up in logs and manifests")
        return value

    @property
    def is_loopback(self) -> bool:
        """Whether an address means this machine, so that another one would ask itself."""
        return any(_is_loopback(urlsplit(url).hostname or "") for url in retriever_urls(self.retriever_url))


def retriever_urls(text: str) -> tuple[str, ...]:
    """Return the addresses in a list separated by commas, without slashes at their ends."""
    return tuple(url.strip().rstrip("/") for url in text.split(",") if url.strip())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
