"""MLflow as the view, `metrics.jsonl` as the truth."""

from components.tracking.client import open_client, run_url, tracking_boundary, ui_url, without_credentials
from components.tracking.metrics_file import METRICS_NAME, read_metrics
from components.tracking.run import RUN_FILE
from components.tracking.tracker import NONFINITE_METRIC, Tracker, open_tracker, silent_tracker

__all__ = [
    "METRICS_NAME",
    "NONFINITE_METRIC",
    "RUN_FILE",
    "Tracker",
    "open_client",
    "open_tracker",
    "read_metrics",
    "run_url",
    "silent_tracker",
    "tracking_boundary",
    "ui_url",
    "without_credentials",
]
