"""Addresses of worlds."""

import pytest

from components.contracts.errors import ConfigError
from components.fictional_world.uri import world_of_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("world://small?seed=7", ("small", 7)),
        ("world://small", ("small", 0)),
        ("world://mini?seed=0", ("mini", 0)),
    ],
)
def test_address_of_a_world(uri, expected):
    assert world_of_uri(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "small",
        "world://",
        "world://?seed=1",
        "world://small?seed=x",
        "world://small?seed=-1",
        "world://small?sed=1",
        "world://small?seed=1&size=2",
        "world://small?seed",
        "world://small/more",
        "world://small#seed=1",
        "worlds://small",
        "hf://small?seed=1",
    ],
)
def test_anything_else_is_an_error_with_an_example(uri):
    with pytest.raises(ConfigError, match="world://small"):
        world_of_uri(uri)
