"""Progress of a training as part of its TrainJob's status: `kubectl get trainjob -o yaml`, the Kubeflow UI.

The Trainer offers it behind the alpha gate `TrainJobStatus`: it then puts an address, a certificate and a token into
the pods (`KUBEFLOW_TRAINER_SERVER_*`) and takes one POST. Without these variables nothing is sent. The Kubeflow SDK has
a function for it; it would be a large dependency of every training pod for one request.
"""

import json
import os
import ssl
import sys
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from components.train.checkpoint import TrainState

URL_VARIABLE = "KUBEFLOW_TRAINER_SERVER_URL"
CERTIFICATE_VARIABLE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
TOKEN_VARIABLE = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""Both name files."""
SHOWN = ("em/dev", "reward/mean", "rollout/num_searches/mean", "loss/imitation")
_TIMEOUT_S = 5.0


class ProgressReport:
    """Reports after a step, at most every `every_s`; never raises: one that fails is left alone for `silence_s`."""

    def __init__(self, steps: int, done: int, every_s: float = 5.0, silence_s: float = 60.0) -> None:
        self._steps, self._first = steps, done
        self._every_s, self._silence_s = every_s, silence_s
        self._began_s = time.monotonic()
        self._next_s = 0.0

    def announce(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Report that `state.step` steps are done."""
        url = os.environ.get(URL_VARIABLE, "")
        now_s = time.monotonic()
        if not url or (now_s < self._next_s and state.step < self._steps):
            return
        pace_s = (now_s - self._began_s) / max(1, state.step - self._first)
        status = {
            "lastUpdatedTime": datetime.now(UTC).isoformat(),
            "progressPercentage": 100 * state.step // self._steps,
            "estimatedRemainingSeconds": int(pace_s * (self._steps - state.step)),
            "metrics": [{"name": name, "value": f"{metrics[name]:.6g}"} for name in SHOWN if name in metrics],
        }
        try:
            _post(url, {"trainerStatus": status})
            self._next_s = now_s + self._every_s
        except (OSError, ValueError) as error:
            self._next_s = now_s + self._silence_s
            print(f"the progress could not be reported to the TrainJob: {error}", file=sys.stderr, flush=True)


def _post(url: str, body: Mapping[str, object]) -> None:
    token = Path(os.environ.get(TOKEN_VARIABLE, "")).read_text(encoding="utf-8").strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    certificate = os.environ.get(CERTIFICATE_VARIABLE)
    context = ssl.create_default_context(cafile=certificate) if url.startswith("https") else None
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context):
        pass
