"""The exception tree: what a person can mend is a `UserError`, what an operator must mend is a `BoundaryError`.

Every class is also the standard-library error it refines, pickles across processes, and carries the
exit code its step ends with: 2 for bad input, 3 for a training that its own rules ended, 75 for infrastructure (a retry
may help), 1 for the rest.
"""

FINAL_EXIT_CODES = (2, 3)
"""The same attempt once more would end the same way, at the same cost."""


class SearchR1Error(Exception):
    """Root of the tree."""

    exit_code = 1


class UserError(SearchR1Error, ValueError):
    """Something given is not acceptable: the message says what was given, what is allowed and what to do."""

    exit_code = 2

    def __init__(self, given: str, allowed: str = "", remedy: str = "") -> None:
        super().__init__(given, allowed, remedy)
        self.given, self.allowed, self.remedy = given, allowed, remedy

    def __str__(self) -> str:
        parts = [self.given]
        if self.allowed:
            parts.append(f"Allowed: {self.allowed}")
        if self.remedy:
            parts.append(f"What to do: {self.remedy}")
        return "\n".join(part if part.endswith((".", "?", ":")) else f"{part}." for part in parts)


class ConfigError(UserError):
    """A configuration key is unknown or its value is out of bounds."""


class CorpusError(UserError):
    """A corpus is empty, malformed or of an unknown format."""


class QuestionError(UserError):
    """A question file is malformed or a question lacks what it needs."""


class ManifestError(UserError):
    """A manifest is malformed, or the bytes it points to are missing or changed."""


class MissingError(UserError, FileNotFoundError):
    """A file, folder or registered name does not exist."""


class AccessError(UserError, PermissionError):
    """A server wants credentials, or refuses what the ones given may not do."""


class BoundaryError(SearchR1Error, OSError):
    """A system beside this one failed after its retries; `boundary` names it."""

    exit_code = 75
    boundary = "infrastructure"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.boundary}: {self.message}"


class StorageError(BoundaryError):
    """The object store or disk refused."""

    boundary = "storage"


class SearchError(BoundaryError):
    """The search engine failed; never to be confused with finding nothing."""

    boundary = "search"


class EngineError(BoundaryError):
    """The inference engine failed, or does not hold the weights it should."""

    boundary = "engine"


class TrackingError(BoundaryError):
    """The tracking server cannot be reached at start."""

    boundary = "tracking"


class ClusterError(BoundaryError):
    """The cluster failed to run what it was given, or cannot be reached."""

    boundary = "cluster"


class TrainingStopped(SearchR1Error, RuntimeError):
    """Training ended by one of its own rules (updates not fit to apply, nothing to imitate)."""

    exit_code = 3


class RunFailed(SearchR1Error, RuntimeError):
    """A run on a cluster was waited for and did not succeed."""


class StoppedBySignal(SearchR1Error, RuntimeError):
    """The process was asked to end and left its work in a state that can be continued."""

    exit_code = 143


class RanksFailed(SearchR1Error, RuntimeError):
    """A process of several that work together failed; carries the exit code of the one that failed first."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message
