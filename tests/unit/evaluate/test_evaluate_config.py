import json

import pytest

from components.contracts.errors import ConfigError
from components.evaluate.config import EvaluateConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"methods": ["search_r1", "raag"]}, "raag", id="unknown-method"),
        pytest.param({"methods": ["base"]}, "search_r1 is missing", id="nothing-to-report-on"),
        pytest.param({"methods": ["search_r1", "base", "base"]}, "named twice", id="method-twice"),
        pytest.param({"max_questions_per_set": 0}, "greater than", id="no-questions"),
        pytest.param({"max_search_failure_frac": 1.5}, "less than", id="fraction-above-one"),
        pytest.param({"budgets": {"react": {"max_steps": 0}}}, "react.max_steps", id="no-steps"),
        pytest.param({"budgets": {"ircot": {"max_thoughts": 3}}}, "ircot.max_thoughts", id="unknown-budget"),
        pytest.param({"temperature": 1.0}, "Unknown key", id="decoding-is-not-a-setting"),
    ],
)
def test_what_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig.parse(values)


def test_a_config_survives_json():
    config = EvaluateConfig(methods=("search_r1", "rag"), seed=3)
    assert EvaluateConfig.parse(json.loads(config.to_json())) == config
