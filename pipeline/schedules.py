"""When schedules run: what may be asked for, and what the server says there is."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.contracts.errors import ConfigError
from pipeline.result_view import aligned

FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 6),
)
"""Of a cron line as Kubeflow Pipelines reads it: name, lowest and highest number."""
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MIN_INTERVAL_S = 60
_PART = re.compile(r"(\*|\?|[a-z]{3}|\d+)(?:-([a-z]{3}|\d+))?(?:/([1-9]\d*))?", re.IGNORECASE)


def trigger_of(cron: str | None, every: str | None) -> dict[str, str]:
    """Return `{"cron": six fields}` or `{"interval_second": seconds}`.

    Raises:
        ConfigError: it is neither.
    """
    return {"cron": _cron(cron)} if cron else {"interval_second": str(_interval_s(every or ""))}


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) == 5:
        raise ConfigError(f"--cron {text!r} has five fields", "six, seconds first", f"--cron '0 {text}'")
    if len(fields) != len(FIELDS):
        raise ConfigError(f"--cron {text!r} has {len(fields)} fields", ", ".join(name for name, _, _ in FIELDS))
    for field, (name, lowest, highest) in zip(fields, FIELDS, strict=True):
        parts = [_PART.fullmatch(part) for part in field.split(",")]
        numbers = [int(n) for part in parts if part for n in part.groups()[:2] if n and n.isdigit()]
        if not all(parts) or any(not lowest <= number <= highest for number in numbers):
            raise ConfigError(f"--cron: {field!r} is no {name}", f"{lowest} to {highest}, *, a-b, a,b, */n")
    return " ".join(fields)


def _interval_s(text: str) -> int:
    found = re.fullmatch(r"([1-9]\d{0,6})([smhd])", text)
    interval_s = int(found[1]) * SECONDS[found[2]] if found else 0
    if interval_s < MIN_INTERVAL_S:
        raise ConfigError(f"--every {text}", f"a number and s, m, h or d, {MIN_INTERVAL_S} seconds or more: 6h")
    return interval_s


def schedule_as_json(one: Any) -> dict[str, Any]:
    """Return what `schedule --json` prints of one schedule (`V2beta1RecurringRun`)."""
    trigger = one.trigger
    cron = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else None
    periodic = trigger.periodic_schedule.interval_second if trigger and trigger.periodic_schedule else None
    return {
        "schedule_id": one.recurring_run_id,
        "name": one.display_name,
        "cron": cron,
        "every_s": int(periodic) if periodic else None,
        "enabled": one.status == "ENABLED" or (one.status is None and one.mode == "ENABLE"),
    }


def schedules_as_text(told: Sequence[Mapping[str, Any]]) -> str:
    """Return the same for people."""
    rows = [["name", "when", "", "id"]]
    for one in told:
        when = one["cron"] or f"every {one['every_s']} s"
        rows.append([one["name"], when, "enabled" if one["enabled"] else "disabled", one["schedule_id"]])
    return aligned(rows) if told else "There is no schedule"
