"""The work folder stays exactly when there is something to go on with."""

import pytest

from components.contracts.errors import UserError
from components.storage.work import work_folder


def test_below_a_disk_root_it_has_the_name_of_the_uri_and_goes_after_success(tmp_path):
    with work_folder(f"file://{tmp_path}/work/corpus/abc") as folder:
        assert folder == tmp_path / "work" / "corpus" / "abc"
        (folder / "part").write_text("x")
    assert not folder.exists()


@pytest.mark.parametrize("leaves", [True, False])
def test_after_a_failure_it_stays_unless_empty(tmp_path, leaves):
    with pytest.raises(KeyError), work_folder(f"file://{tmp_path}/work") as folder:
        if leaves:
            (folder / "part").write_text("x")
        raise KeyError
    assert folder.exists() == leaves


def test_elsewhere_it_is_temporary():
    with work_folder("s3://bucket/work/corpus/abc") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_the_users(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), work_folder(f"file://{tmp_path}/file/work"):
        pass
