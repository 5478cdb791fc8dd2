"""A local folder for a step's unfinished work."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.contracts.errors import UserError


@contextmanager
def work_folder(uri: str) -> Iterator[Path]:
    """Give a local folder for the work that belongs to `uri` (see `StepContext.work_uri`).

    Below a `file://` root it is the folder of that name, so that publishing from it moves files instead of
    copying them: it stays after a failure, for downloads to go on, and goes after a success or when it is
    empty. Below any other root it is a temporary folder.

    Raises:
        UserError: the folder cannot be written.
    """
    if not uri.startswith("file:///"):
        with tempfile.TemporaryDirectory(prefix="searchr1-") as temporary:
            yield Path(temporary)
        return
    folder = Path(uri.removeprefix("file://"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written ({error.strerror})",
            remedy="choose another storage root or mend its permissions",
        ) from None
    succeeded = False
    try:
        yield folder
        succeeded = True
    finally:
        if succeeded or not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
