import pytest

from components.evaluate.predictions import Prediction


@pytest.fixture
def row():
    """Make a scored row; only what a test cares about is given."""

    def make(method: str = "search_r1", set_name: str = "nq", index: int = 0, em: float = 0.0, **changes) -> Prediction:
        given = {
            "method": method,
            "set_name": set_name,
            "question_id": f"{set_name}:{index}",
            "question": "Who?",
            "golden_answers": ("Ada",),
            "prediction": "Ada" if em else "Bob",
            "em": em,
            "f1": em,
            "num_searches": 1,
            "valid_action_frac": 1.0,
            "finished": True,
            "latency_s": 0.5,
            "num_model_tokens": 10,
            "stop_reason": "answered",
            "search_error": "",
        }
        return Prediction(**(given | changes))

    return make
