"""A rank of a training job: `torchrun -m components.train.node s3://bucket/...`, the folder its launcher prepared.

The environment says which rank of how many it is: Kubeflow Trainer sets `PET_*`, torchrun the rest.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from components.contracts.errors import SearchR1Error
from components.contracts.step import ERROR_FILE_VARIABLE, failures_reported
from components.train.job_folder import JobFolder
from components.train.main import step


def main(arguments: list[str] | None = None) -> None:
    """Train as one rank; the first one leaves the step's outputs in the folder, whoever fails first its error.

    Raises:
        SystemExit: the step failed; carries the exit code of its error.
    """
    parser = argparse.ArgumentParser(prog="torchrun -m components.train.node", description=main.__doc__)
    parser.add_argument("uri", help="the job's folder: settings and inputs in, outputs or an error out")
    job = JobFolder(parser.parse_args(arguments).uri)
    is_first = os.environ.get("RANK", "0") == "0"
    with tempfile.TemporaryDirectory(prefix="train-node-") as scratch:
        folder = Path(scratch)
        os.environ[ERROR_FILE_VARIABLE] = str(folder / "error.json")
        try:
            with failures_reported("train"):
                if is_first:
                    job.forget_error()
                inputs = job.fetch_inputs(folder)
            step.main([*inputs, f"--output={folder / 'out'}"])
            if is_first:
                with failures_reported("train"):
                    job.write_result(folder / "out")
        except BaseException:
            _leave_error(job, folder / "error.json")
            raise


def _leave_error(job: JobFolder, record: Path) -> None:
    if not record.exists():
        return
    try:
        job.write_error(record.read_bytes())
    except SearchR1Error as error:
        print(f"the error could not be left for the launcher: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
