"""Presets: found by name or path, laid over each other, and every bundled one fits the steps it configures."""

import pytest

from components.contracts.errors import ConfigError, MissingError
from components.resolve.main import resolve
from components.resolve.presets import load_preset, preset_names


def test_a_preset_extends_another(tmp_path):
    (tmp_path / "base.toml").write_text("[train]\nsteps = 1\nseed = 2\n[corpus]\nuri = 'a'\n")
    (tmp_path / "top.toml").write_text(f"extends = '{tmp_path}/base.toml'\n[train]\nsteps = 3\n")
    assert load_preset(f"{tmp_path}/top.toml") == {"train": {"steps": 3, "seed": 2}, "corpus": {"uri": "a"}}


def test_a_preset_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text(f"extends = '{tmp_path}/b.toml'")
    (tmp_path / "b.toml").write_text(f"extends = '{tmp_path}/a.toml'")
    with pytest.raises(ConfigError, match=r"extends itself: .*a.toml -> .*b.toml -> .*a.toml"):
        load_preset(f"{tmp_path}/a.toml")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown preset 'smal-world'; did you mean 'small-world'"):
        load_preset("smal-world")


def test_a_missing_file_is_named():
    with pytest.raises(MissingError, match=r"nowhere\.toml"):
        load_preset("nowhere.toml")


@pytest.mark.parametrize("name", preset_names())
def test_every_bundled_preset_resolves(name):
    settings = resolve(preset=name, storage_root="file:///tmp/runs")
    assert all(settings.values())
