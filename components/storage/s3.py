"""Storage in an S3 bucket of any provider (`s3://bucket/prefix`).

Credentials, region and endpoint come from where boto3 looks for them (`AWS_ENDPOINT_URL` names a server
other than Amazon's). Transient failures are retried by boto3, `AWS_MAX_ATTEMPTS` times (8 unless set).
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from components.contracts.errors import MissingError, StorageError, UserError
from components.storage.local import disk
from components.storage.progress import ByteProgress
from components.storage.protocol import ObjectInfo, checked_key, folder_key

_MISSING = {"404", "NoSuchKey"}
_KEY_TAKEN = "PreconditionFailed"
_CUT_SHORT = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
"""Failures in the middle of an answer's body, which boto3 retries for files and not for bytes."""

# Kubeflow's executor lets every library speak at INFO; two lines a client would bury those of the step.
logging.getLogger("botocore").setLevel(logging.WARNING)


class S3Storage:
    """Implements `Storage`; S3 makes every single write atomic by itself."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix.strip("/")
        with self._boundary("open"):
            self._client = boto3.client("s3", config=_client_config())

    def put_file(self, local: Path, key: str) -> None:
        """See `Storage`."""
        with disk(local):
            size = local.stat().st_size
        with ByteProgress(f"upload {local.name}", size) as progress, self._boundary(key), disk(local):
            self._client.upload_file(str(local), self.bucket, self._full(key), Callback=progress.advance)

    def take_file(self, local: Path, key: str) -> None:
        """See `Storage`; the local file stays."""
        self.put_file(local, key)

    def put_bytes(self, data: bytes, key: str, if_absent: bool = False) -> bool:
        """See `Storage`."""
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            with self._boundary(key):
                self._client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data, **condition)
        except _KeyTaken as taken:
            # The answer to an earlier attempt may have been lost after the server had done as it was told.
            return taken.was_retried and self.get_bytes(key) == data
        return True

    def get_file(self, key: str, local: Path) -> None:
        """See `Storage`."""
        with self._boundary(key):
            size = self._client.head_object(Bucket=self.bucket, Key=self._full(key))["ContentLength"]
        with ByteProgress(f"download {local.name}", size) as progress, self._boundary(key), disk(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            self._client.download_file(self.bucket, self._full(key), str(local), Callback=progress.advance)

    def get_bytes(self, key: str) -> bytes:
        """See `Storage`."""
        with self._boundary(key):
            for _ in range(_attempts() - 1):
                try:
                    return self._read(key)
                except _CUT_SHORT:
                    continue
            return self._read(key)

    def _read(self, key: str) -> bytes:
        return self._client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `Storage`."""
        folder = folder_key(prefix) if prefix else ""
        root = f"{self.prefix}/" if self.prefix else ""
        with self._boundary(folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + folder)
            found = [entry for page in pages for entry in page.get("Contents", [])]
        return sorted(
            (
                ObjectInfo(e["Key"].removeprefix(root), e["Size"], e["ETag"].strip('"'), e["LastModified"].timestamp())
                for e in found
            ),
            key=lambda info: info.key,
        )

    def info(self, key: str) -> ObjectInfo:
        """See `Storage`."""
        with self._boundary(key):
            found = self._client.head_object(Bucket=self.bucket, Key=self._full(key))
        return ObjectInfo(key, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def exists(self, key: str) -> bool:
        """See `Storage`."""
        try:
            self.info(key)
        except MissingError:
            return False
        return True

    def delete(self, key: str) -> None:
        """See `Storage`."""
        with self._boundary(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def delete_prefix(self, prefix: str) -> None:
        """See `Storage`."""
        keys = [{"Key": self._full(info.key)} for info in self.list(folder_key(prefix))]
        for start in range(0, len(keys), 1000):
            with self._boundary(prefix):
                batch = {"Objects": keys[start : start + 1000], "Quiet": True}
                failed = self._client.delete_objects(Bucket=self.bucket, Delete=batch).get("Errors", [])
            if failed:
                raise StorageError(f"{self.uri(prefix)}: {len(failed)} objects not deleted ({failed[0].get('Code')})")

    def uri(self, key: str = "") -> str:
        """See `Storage`."""
        return "s3://" + "/".join(part for part in (self.bucket, self.prefix, key) if part)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(key)}" if self.prefix else checked_key(key)

    @contextmanager
    def _boundary(self, key: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, Boto3Error, BotoCoreError) as error:
            raise _ours(error, self.bucket, self.uri(key)) from error


class _KeyTaken(StorageError):
    """The key of a write with `if_absent` exists."""

    was_retried = False
    """Whether the server was asked more than once."""


def _attempts() -> int:
    return int(os.environ.get("AWS_MAX_ATTEMPTS", "8"))


def _client_config() -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": _attempts()},
        connect_timeout=10,
        read_timeout=60,
        # Many S3-compatible servers reject the newer default checksums; manifests carry SHA-256 anyway.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _ours(error: Exception, bucket: str, uri: str) -> Exception:
    # boto3's transfer errors carry the server's answer as their context only.
    cause = error if isinstance(error, ClientError) else error.__context__
    if not isinstance(cause, ClientError):
        return StorageError(f"{uri}: {error}")
    code = cause.response.get("Error", {}).get("Code", "unknown")
    if code == "NoSuchBucket":
        return MissingError(f"The bucket s3://{bucket} does not exist", remedy="create it or correct the storage root")
    if code in _MISSING:
        return MissingError(f"{uri} does not exist", remedy="run the step that makes it")
    if code == "InvalidBucketName":
        return UserError(f"{bucket!r} is not a bucket name", remedy="correct the storage root")
    if code == _KEY_TAKEN:
        taken = _KeyTaken(f"{uri} exists")
        taken.was_retried = cause.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        return taken
    return StorageError(f"{uri}: {cause.operation_name} was refused with {code}; check credentials and permissions")
