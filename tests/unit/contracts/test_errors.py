"""The exception tree survives a process boundary and says what to do."""

import inspect
import pickle

import pytest

from components.contracts import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


def example(error_class: type[Exception]) -> Exception:
    if issubclass(error_class, errors.UserError):
        return error_class("k = 0", allowed="k >= 1", remedy="set k")
    return error_class("it broke")


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_every_class_pickles(error_class: type[Exception]) -> None:
    error = example(error_class)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert str(copy) == str(error)
    assert copy.exit_code == error.exit_code
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_every_class_below_the_root_is_a_standard_error_too(error_class: type[Exception]) -> None:
    standard = (ValueError, OSError, RuntimeError)
    assert error_class is errors.SearchR1Error or issubclass(error_class, standard)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        pytest.param(errors.MissingError("x"), 2, id="bad input"),
        pytest.param(errors.StorageError("x"), 75, id="infrastructure"),
        pytest.param(errors.TrainingStopped("x"), 3, id="rule of training"),
        pytest.param(errors.RunFailed("x"), 1, id="the rest"),
    ],
)
def test_exit_codes(error: errors.SearchR1Error, exit_code: int) -> None:
    assert error.exit_code == exit_code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(errors.UserError("k = 0"), "k = 0.", id="given alone"),
        pytest.param(
            errors.UserError("k = 0", "k >= 1", "set k"), "k = 0.\nAllowed: k >= 1.\nWhat to do: set k.", id="all three"
        ),
        pytest.param(errors.MissingError("No x", remedy="make x"), "No x.\nWhat to do: make x.", id="also OSError"),
        pytest.param(errors.StorageError("no disk"), "storage: no disk", id="boundary named"),
    ],
)
def test_messages(error: errors.SearchR1Error, text: str) -> None:
    assert str(error) == text
