"""Addresses of worlds: `world://small?seed=7`."""

from urllib.parse import parse_qsl, urlsplit

from components.contracts.errors import ConfigError

SCHEME = "world://"


def world_of_uri(uri: str) -> tuple[str, int]:
    """Return size and seed of the world at `uri`; the seed is 0 unless given.

    Raises:
        ConfigError: the URI is no world's.
    """
    try:
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        seed = int(query.pop("seed", "0"))
    except ValueError:
        query, seed = {"?": ""}, -1
    if not uri.startswith(SCHEME) or query or seed < 0 or not parts.netloc or parts.path or parts.fragment:
        raise ConfigError(f"{uri!r} names no world", "world://<size>?seed=<number>, for example world://small?seed=7")
    return parts.netloc, seed
