"""MLflow's model registry, reduced to what the gate and a person need.

Three aliases: `champion` answers users, `previous` is the one before it, `challenger` the latest that did
not pass. MLflow's aliases know no compare-and-set: whoever moves the champion reads it again first.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from components.contracts.errors import MissingError, TrackingError, UserError
from components.tracking import open_client, tracking_boundary, ui_url, without_credentials
from components.tracking.registered import CHALLENGER, CHAMPION, PREVIOUS, registry_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHECKPOINT_TAG = "checkpoint.sha256"
DECISION_TAG = "gate.decision"
_REGISTRATION_RETRIES = 7


class Registry:
    """One registered model of the server that `MLFLOW_TRACKING_URI` names; every method may raise `TrackingError`."""

    def __init__(self, client: "MlflowClient", tracking_uri: str, name: str) -> None:
        self._client, self._tracking_uri, self.name = client, tracking_uri, name

    @classmethod
    def open(cls, name: str) -> Self:
        """Return the registry of the model `name`, which need not exist yet.

        Raises:
            UserError: no tracking server is configured.
        """
        tracking_uri = registry_uri()
        return cls(open_client(tracking_uri, _REGISTRATION_RETRIES), tracking_uri, name)

    def url(self, version: str) -> str:
        """Return where a person sees the version; for a database it only names the place."""
        return f"{ui_url(self._tracking_uri)}/#/models/{self.name}/versions/{version}"

    def aliases(self) -> dict[str, str]:
        """Return alias -> version; empty for a model that does not exist yet."""
        from mlflow.exceptions import MlflowException

        with tracking_boundary(self._tracking_uri):
            try:
                return {a: str(v) for a, v in self._client.get_registered_model(self.name).aliases.items()}
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise

    def versions_of(self, checkpoint_digest: str) -> list["ModelVersion"]:
        """Return the versions made from a checkpoint, oldest first."""
        with tracking_boundary(self._tracking_uri):
            # Names and digests hold no quotes: the config's pattern and SHA-256 see to it.
            filter_string = f"name = '{self.name}' and tags.`{CHECKPOINT_TAG}` = '{checkpoint_digest}'"
            found = self._client.search_model_versions(filter_string)
        return sorted(found, key=lambda version: int(version.version))

    def version(self, version: str) -> "ModelVersion":
        """Return one version.

        Raises:
            MissingError: there is none of that number.
        """
        from mlflow.exceptions import MlflowException

        with tracking_boundary(self._tracking_uri):
            try:
                return self._client.get_model_version(self.name, version)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        raise MissingError(f"{self.name} has no version {version!r}", remedy="look at its versions in MLflow")

    def create(self, source: str, tags: Mapping[str, str], description: str, run_id: str) -> "ModelVersion":
        """Return a new version that points to `source`; nothing is copied.

        Raises:
            UserError: the server takes no sources from a disk.
        """
        from mlflow.exceptions import MlflowException

        with tracking_boundary(self._tracking_uri):
            try:
                self._client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            try:
                return self._client.create_model_version(
                    self.name, source, run_id=run_id or None, tags=dict(tags), description=description
                )
            except MlflowException as error:
                if not (source.startswith("file:") and error.error_code == "INVALID_PARAMETER_VALUE"):
                    raise
        raise UserError(
            f"{without_credentials(self._tracking_uri)} takes no model from {source}",
            "a storage root that the server can reach",
            "use an s3:// storage root, or a sqlite:/// tracking URI",
        )

    def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with tracking_boundary(self._tracking_uri):
            for name, value in tags.items():
                self._client.set_model_version_tag(self.name, version, name, value)

    def challenge(self, version: str) -> None:
        """Point `challenger` to the version."""
        self._point(CHALLENGER, version)

    def crown(self, version: str, expected_champion: str) -> bool:
        """Make the version champion and the champion `previous`; return False if another is champion by now.

        `expected_champion` is the version the decision was made against, empty for none.
        """
        aliases = self.aliases()
        champion = aliases.get(CHAMPION, "")
        if champion != expected_champion:
            return False
        if champion and champion != version:
            self._point(PREVIOUS, champion)
        self._point(CHAMPION, version)
        if aliases.get(CHALLENGER) == version:
            with tracking_boundary(self._tracking_uri):
                self._client.delete_registered_model_alias(self.name, CHALLENGER)
        return True

    def alias_of(self, version: str) -> str:
        """Return the alias the version holds, `champion` before the others; empty when it holds none."""
        aliases = self.aliases()
        return next((alias for alias in (CHAMPION, CHALLENGER, PREVIOUS) if aliases.get(alias) == version), "")

    def _point(self, alias: str, version: str) -> None:
        with tracking_boundary(self._tracking_uri):
            self._client.set_registered_model_alias(self.name, alias, version)


def promote(name: str, version: str) -> str:
    """Make a version champion by hand, without the gate, and return the version it replaced (empty: none).

    Raises:
        UserError: no tracking server is configured.
        MissingError: there is no such version.
        TrackingError: somebody else moved the champion at the same moment.
    """
    registry = Registry.open(name)
    registry.version(version)
    champion = registry.aliases().get(CHAMPION, "")
    if not registry.crown(version, champion):
        raise TrackingError(f"the champion of {name} was changed at the same moment; look at it and try again")
    registry.set_tags(version, {"gate.by_hand": f"replaced version {champion}" if champion else "first champion"})
    return champion


def rollback(name: str) -> str:
    """Make the previous champion champion again and return its version; a second call undoes the first.

    Raises:
        UserError: no tracking server is configured.
        MissingError: there is no previous champion.
        TrackingError: somebody else moved the champion at the same moment.
    """
    previous = Registry.open(name).aliases().get(PREVIOUS, "")
    if not previous:
        raise MissingError(f"{name} has no version with the alias {PREVIOUS!r}", remedy="promote a version by number")
    promote(name, previous)
    return previous
