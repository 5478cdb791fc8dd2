"""A line to the object store on which answers are lost or cut short."""

import pytest

from components.contracts.errors import StorageError
from components.storage import open_storage
from tests.unit.storage.faulty_proxy import FaultyProxy


def reads(request: str) -> bool:
    return request.startswith("GET")


def writes(request: str) -> bool:
    return request.startswith(("PUT", "POST"))


@pytest.mark.parametrize("times", [1, 2])
def test_bytes_that_were_cut_short_are_read_again(times: int, s3_root: str, proxy: FaultyProxy) -> None:
    storage = open_storage(s3_root)
    storage.put_bytes(b"twelve bytes", "small")
    proxy.fail("cut", times, reads)
    assert storage.get_bytes("small") == b"twelve bytes"
    assert len(list(filter(reads, proxy.requests))) == times + 1


def test_bytes_that_are_always_cut_short_are_never_half_a_result(
    s3_root: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    storage = open_storage(s3_root)
    storage.put_bytes(b"twelve bytes", "small")
    proxy.fail("cut", 100, reads)
    with pytest.raises(StorageError, match=f"storage: {s3_root}/small"):
        storage.get_bytes("small")
    assert len(list(filter(reads, proxy.requests))) == 3


def test_a_write_whose_answer_was_lost_is_still_ours(s3_root: str, proxy: FaultyProxy) -> None:
    """The client repeats it and hears that the key exists: its own, of a moment ago."""
    storage = open_storage(s3_root)
    proxy.fail("lose the answer", 1, writes)
    assert storage.put_bytes(b"mine", "pointer", if_absent=True)
    assert not storage.put_bytes(b"mine", "pointer", if_absent=True)
    proxy.fail("lose the answer", 1, writes)
    assert not storage.put_bytes(b"theirs", "pointer", if_absent=True)
    assert storage.get_bytes("pointer") == b"mine"
