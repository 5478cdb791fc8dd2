"""The code digest changes with the code a step can reach, and with no other."""

import pytest

from components.contracts.errors import ConfigError
from components.resolve.code_digest import code_digests

FILES = {
    "train/main.py": "def run():\n    from components.agent import rollout",
    "agent/rollout.py": "import components.search.protocol",
    "search/protocol.py": "",
    "report/page.py": "from components.contracts import errors",
    "contracts/errors.py": "",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        pytest.param("train/main.py", True, id="own code"),
        pytest.param("train/loss.py", True, id="a new file"),
        pytest.param("train/template.html", True, id="a file that is no code"),
        pytest.param("agent/rollout.py", True, id="code imported inside a function"),
        pytest.param("search/protocol.py", True, id="code reached through another package"),
        pytest.param("report/page.py", False, id="code it cannot reach"),
        pytest.param("train/__pycache__/main.pyc", False, id="compiled code"),
    ],
)
def test_digest_follows_reachable_code(tree, changed, differs):
    before = code_digests(["train"], tree)
    (tree / changed).parent.mkdir(exist_ok=True)
    (tree / changed).write_text(FILES.get(changed, "") + "\n# changed")
    assert (code_digests(["train"], tree) != before) is differs


def test_a_file_under_another_name_is_other_code(tree):
    before = code_digests(["train"], tree)
    (tree / "search" / "protocol.py").rename(tree / "search" / "renamed.py")
    assert code_digests(["train"], tree) != before


def test_same_code_elsewhere_has_the_same_digest(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "components"
    tree.rename(other)
    after = code_digests(["train", "report"], other)
    other.rename(tree)
    assert code_digests(["train", "report"], tree) == after
    assert after["train"] != after["report"]


def test_unknown_step_is_refused(tree):
    with pytest.raises(ConfigError, match="components/nothing"):
        code_digests(["nothing"], tree)
