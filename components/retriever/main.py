"""`python -m components.retriever --config retriever.toml`: serve the index that a manifest points to."""

import argparse
import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from components.contracts.config import merge, parse_overrides, read_config_file
from components.contracts.errors import ConfigError, UserError
from components.contracts.step import failures_reported
from components.retriever.app import retriever_app
from components.retriever.config import RetrieverConfig
from components.retriever.service import RetrieverService
from components.search.open import open_searcher
from components.storage import read_manifest

MANIFEST_VARIABLE = "SEARCHR1_INDEX_MANIFEST_URI"
"""Environment variable with the address of the manifest of the index to serve; stronger than the file."""
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


def serve(config: RetrieverConfig) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Raises:
        ConfigError: no index is named.
        UserError: the address cannot be listened on.
        ManifestError: the manifest or the index is damaged or of an unknown kind.
        MissingError: there is no manifest there, or no Java.
        StorageError: the storage refuses.
        SearchError: the engine does not start, or the index does not answer as its manifest says.
    """
    uri = index_manifest_uri(config)
    service = RetrieverService(config, lambda: read_manifest(uri), open_searcher, lambda: stop())
    server = uvicorn.Server(
        uvicorn.Config(
            retriever_app(service, config),
            # A line for each request would cost more time than the search.
            access_log=False,
            log_level="warning",
            lifespan="on",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=config.shutdown_s,
        )
    )

    def stop() -> None:
        server.should_exit = True

    listening = _listen(config)
    print(f"retriever on http://{config.host}:{listening.getsockname()[1]}", flush=True)
    # uvicorn sends itself the signal again once it has stopped: the default would end the process by it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    server.run(sockets=[listening])
    if service.failure is not None:
        raise service.failure
    print("stopped", flush=True)


def index_manifest_uri(config: RetrieverConfig) -> str:
    """Return the address of the manifest to serve: the environment's, else the configured one.

    Raises:
        ConfigError: neither names one.
    """
    uri = os.environ.get(MANIFEST_VARIABLE) or config.index_manifest_uri
    if not uri:
        raise ConfigError(
            "No index is named",
            "the URI of the manifest of an index, for example s3://bucket/runs/store/index/0123456789abcdef",
            f"set index_manifest_uri, or the environment variable {MANIFEST_VARIABLE}",
        )
    return uri


def main(arguments: list[str] | None = None) -> None:
    """Command line: config file, overrides; ends with the exit code of the error, or of a stop that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m components.retriever", description=serve.__doc__)
    parser.add_argument("--config", type=Path, help="TOML or JSON file with the settings")
    parser.add_argument("--set", default="", help="overrides: key=value, separated by commas")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and stop")
    given = parser.parse_args(arguments)
    with failures_reported("retriever"):
        values = merge(read_config_file(given.config) if given.config else {}, parse_overrides(given.set))
        config = RetrieverConfig.parse(values, where="retriever")
        if given.print_config:
            print(json.dumps(config.model_dump(mode="json"), indent=1))
            return
        serve(config)
    sys.exit(config.exit_code_when_stopped)


def _listen(config: RetrieverConfig) -> socket.socket:
    try:
        return socket.create_server((config.host, config.port), backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"Cannot listen on {config.host}:{config.port} ({error.strerror or error})",
            remedy="choose another host or port",
        ) from None
