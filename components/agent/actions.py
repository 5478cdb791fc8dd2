"""Reads the action of a turn from the text the model itself wrote in that turn, and from nothing else."""

import re

from components.contracts.episode import Action

STOP_STRINGS: tuple[str, ...] = ("</search>", "</answer>")
"""A turn ends with the first of these that the model completes."""
_FIRST_PAIR = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)


def parse_action(turn_text: str, *, search_enabled: bool) -> tuple[Action, str]:
    """Return the action of a turn and its stripped text: the first complete tag pair decides.

    An empty query, a search where searching is off, and a turn without a complete pair are invalid and
    come with the whole turn text. An empty answer is an answer, and a wrong one.
    """
    found = _FIRST_PAIR.search(turn_text)
    if found is None:
        return Action.INVALID, turn_text
    action, content = Action(found.group(1)), found.group(2).strip()
    if action is Action.SEARCH and not (search_enabled and content):
        return Action.INVALID, turn_text
    return action, content
