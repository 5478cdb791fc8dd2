"""When a schedule may run, and how lengths of time are told."""

from types import SimpleNamespace

import pytest

from components.contracts.errors import ConfigError
from pipeline.cluster_runs import duration_text
from pipeline.schedules import schedule_as_json, trigger_of


@pytest.mark.parametrize(
    "cron", ["0 0 2 * * *", "0 */15 8-18 * * MON-FRI", "0 0 0 1,15 * ?", "30 59 23 31 12 0", "0 0 2/6 * JAN *"]
)
def test_six_fields(cron):
    assert trigger_of(cron, None) == {"cron": cron}


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        pytest.param("0 2 * * *", r"--cron '0 0 2 \* \* \*'", id="five fields, the usual slip"),
        pytest.param("0 0 2 * * * *", "has 7 fields", id="seven"),
        pytest.param("0 0 24 * * *", "'24' is no hour", id="hour"),
        pytest.param("0 60 2 * * *", "'60' is no minute", id="minute"),
        pytest.param("0 0 2 0 * *", "'0' is no day of month", id="day"),
        pytest.param("0 0 2 * 13 *", "'13' is no month", id="month"),
        pytest.param("0 0 2 * * 7", "'7' is no day of week", id="weekday"),
        pytest.param("0 0 */0 * * *", "is no hour", id="step of nothing"),
        pytest.param("0 0 2;rm * * *", "is no hour", id="something else"),
    ],
)
def test_no_cron(cron, words):
    with pytest.raises(ConfigError, match=words):
        trigger_of(cron, None)


@pytest.mark.parametrize(("every", "seconds"), [("6h", "21600"), ("90m", "5400"), ("1d", "86400"), ("60s", "60")])
def test_intervals(every, seconds):
    assert trigger_of(None, every) == {"interval_second": seconds}


@pytest.mark.parametrize("every", ["59s", "6", "h", "-6h", "0h", "1.5h", "6 h", "1w"])
def test_no_interval(every):
    with pytest.raises(ConfigError, match="6h"):
        trigger_of(None, every)


@pytest.mark.parametrize(
    ("status", "mode", "enabled"),
    [
        pytest.param("ENABLED", "ENABLE", True, id="enabled"),
        pytest.param("DISABLED", "ENABLE", False, id="disabled after it was made"),
        pytest.param(None, "ENABLE", True, id="as it was asked for"),
        pytest.param(None, "DISABLE", False, id="asked for as disabled"),
    ],
)
def test_a_schedule_is_told_as_the_server_has_it(status, mode, enabled):
    one = SimpleNamespace(recurring_run_id="1", display_name="nightly", trigger=None, status=status, mode=mode)
    assert schedule_as_json(one)["enabled"] is enabled


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0 s"), (59, "59 s"), (125, "2 min 05 s"), (7380, "2 h 03 min")]
)
def test_lengths_of_time(seconds, text):
    assert duration_text(seconds) == text
