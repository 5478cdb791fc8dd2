"""Posts JSON to an address that is a secret: no message, log line or error of ours holds it."""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from components.contracts.errors import BoundaryError

URL_VARIABLE = "SEARCHR1_WEBHOOK_URL"
ATTEMPTS = 3
FIRST_BACK_OFF_S = 2.0
TIMEOUT_S = 10.0
_TRANSIENT_STATUS = (408, 425, 429)


class WebhookError(BoundaryError):
    """The webhook did not take the message."""

    boundary = "webhook"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address than the one that was configured gets nothing."""

    def redirect_request(self, *_: object) -> None:
        return None


def webhook_url() -> str:
    """Return the configured address, an empty text when there is none."""
    return os.environ.get(URL_VARIABLE, "").strip()


def post(url: str, body: str, wait: Callable[[float], None] = time.sleep) -> None:
    """Post the JSON text `body`; what may pass is tried again, at most `ATTEMPTS` times, each with a time limit.

    Raises:
        WebhookError: the other side refused, or could not be reached.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise WebhookError(f"{URL_VARIABLE} holds no http:// or https:// address")
    opener = urllib.request.build_opener(_NoRedirect)
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            wait(FIRST_BACK_OFF_S * 2 ** (attempt - 1))
        try:
            request = urllib.request.Request(
                url, body.encode(), {"Content-Type": "application/json; charset=utf-8"}, method="POST"
            )
            with opener.open(request, timeout=TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code < 500 and error.code not in _TRANSIENT_STATUS:
                break
        except (OSError, ValueError, http.client.HTTPException) as error:
            # The text of these errors may hold the address.
            reason = type(getattr(error, "reason", error)).__name__
    # Nor may the chain of causes.
    raise WebhookError(f"the message was not taken ({reason})") from None
