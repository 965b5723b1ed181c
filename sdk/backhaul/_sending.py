"""How a call goes out and what its answer means. Nothing here waits; both clients ask.

Status to error is one table; whether and when to try again is a `RetryPlan`.
"""

from __future__ import annotations

import dataclasses
import email.utils
import platform
import random
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from backhaul import __version__
from backhaul._calls import Call
from backhaul._decoding import decode
from backhaul.errors import (
    ApiError,
    BackhaulError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NoAnswerError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    PreconditionFailedError,
    RateLimitedError,
    ServerFailedError,
    TimedOutError,
    UndecodableReplyError,
    refuse,
)
from backhaul.wire.problems import Problem, decode_problem
from backhaul.wire.utf8 import NO_UTF8, find_no_utf8

T = TypeVar("T")

USER_AGENT = f"backhaul/{__version__} python/{platform.python_version()}"

LIMITS = httpx.Limits(keepalive_expiry=4.0)
"""Idle connections go before the server's 5 s are over, so that none is dead when it is reused."""

LONGEST_URL = 2000
"""Of the API, so that what comes after it still fits into what httpx takes."""

ERRORS: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: NotAuthenticatedError,
    403: NotAllowedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    412: PreconditionFailedError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
}
"""What a status becomes; all of 5xx is ServerFailedError, what is not listed is ApiError."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPlan:
    """Full-jitter exponential backoff for what may be repeated. Times in seconds."""

    attempts: int = 4
    first_s: float = 0.5
    longest_s: float = 8.0
    patience_s: float = 30.0
    """A server that asks for a longer pause than this gets no further attempt: who called may
    rather hear of it than hang."""
    random: Callable[[], float] = random.random

    def delay_after(self, call: Call[T], error: BackhaulError, *, attempt: int) -> float | None:
        """Tell how long to wait after attempt number `attempt` (from 1); None to give up."""
        if not (call.is_idempotent and error.may_retry) or attempt >= self.attempts:
            return None
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        if asked_s is None:
            return self.random() * min(self.longest_s, self.first_s * 2.0 ** (attempt - 1))
        return asked_s if asked_s <= self.patience_s else None


RETRIES = RetryPlan()

HELD_RETRIES = RetryPlan(attempts=12)
"""For calls that wait for news, about half a minute: a server that restarts ends no wait."""


def choose_retries(call: Call[T]) -> RetryPlan:
    """Choose the plan of a call."""
    return HELD_RETRIES if call.held_s else RETRIES


def check_url(url: str) -> str:
    """Normalise the address of an API.

    Raises:
        ConfigurationError: not http or https, no host, or with a password in it.
    """
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
        is_clean = url.isprintable() and " " not in url and len(url) <= LONGEST_URL
        httpx.URL(url)  # stricter than the standard library about some hosts
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"The URL {url!r} is not valid: {error}.") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("The URL must not hold a user or a password: sign in instead.")
    is_plain = is_clean and not (parts.query or parts.fragment)
    if parts.scheme not in {"http", "https"} or not has_host or not is_plain:
        raise ConfigurationError(f"The URL {url!r} is not like https://backhaul.example.com.")
    return url.rstrip("/")


def check_token(token: str) -> str:
    """Refuse a token that cannot stand in a header. The message never repeats it.

    Raises:
        ConfigurationError: it is empty, or has spaces, line ends or letters outside of ASCII.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError("The token is empty or has characters that no token has.")
    return token


def build_tls_context(ca_file: str | Path | None) -> ssl.SSLContext | bool:
    """Trust a CA of one's own besides the usual ones.

    Raises:
        ConfigurationError: the file is missing or holds no certificate.
    """
    if ca_file is None:
        return True
    context = httpx.create_ssl_context()
    try:
        context.load_verify_locations(cafile=str(Path(ca_file).expanduser()))
    except OSError as error:  # ssl.SSLError is one too
        raise ConfigurationError(f"The CA file {ca_file} cannot be used: {error}.") from error
    return context


def build_headers(call: Call[T], token: str | None) -> dict[str, str]:
    """Build the headers of a call.

    Raises:
        ConfigurationError: the call needs a token and there is none.
    """
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    if call.idempotency_key is not None:
        headers["Idempotency-Key"] = call.idempotency_key
    if call.if_revision is not None:
        headers["If-Match"] = f'"{call.if_revision}"'
    if call.needs_token:
        if token is None:
            raise ConfigurationError("Not signed in: this request needs a token.")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def build_body(call: Call[T]) -> bytes | None:
    """Build the JSON of a call.

    Raises:
        InvalidRequestError: a text in it is not UTF-8, as the name of a file need not be.
    """
    try:
        return None if call.body is None else msgspec.json.encode(call.body)
    except UnicodeEncodeError:
        raise refuse(find_no_utf8(call.body) or "", NO_UTF8) from None


def build_timeout(call: Call[T], timeout_s: float) -> httpx.Timeout:
    """Build the timeout of a call: the client waits longer than the server holds."""
    return httpx.Timeout(timeout_s, read=timeout_s + call.held_s)


def translate(error: httpx.HTTPError, url: str) -> NoAnswerError:
    """Say in the SDK's words why no answer came."""
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError(f"{url} did not answer in time.")
    if _is_certificate_error(error):
        return ConnectionFailedError(
            f"The certificate of {url} is not trusted: {error}. "
            "Give the CA that signed it as the CA file."
        )
    reason = str(error) or type(error).__name__
    return ConnectionFailedError(f"Cannot reach {url}: {reason}.")


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def read_reply(call: Call[T], response: httpx.Response, url: str) -> T:
    """Read an answer.

    Raises:
        ApiError: the server said no.
        UndecodableReplyError: what came is not from a Backhaul API.
    """
    if not response.is_success:
        raise _build_error(response, url)
    try:
        return decode(response.content or b"null", call.reply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableReplyError(
            f"{url} answered {call.method} {call.path} with something that is not from a Backhaul "
            f"API of this version ({_media_type(response)}): check the URL and any proxy."
        ) from error


def _build_error(response: httpx.Response, url: str) -> BackhaulError:
    status = response.status_code
    retry_after_s = parse_retry_after(response.headers)
    problem = decode_problem(response.content)
    if problem is None:
        if status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
            return UndecodableReplyError(
                f"{url} answered {status}{_redirect(response)} and not as a Backhaul API would "
                f"({_media_type(response)}): check the URL and any proxy."
            )
        detail = f"{url} answered {status} {response.reason_phrase}; perhaps from a proxy before it"
        problem = Problem(
            type="about:blank", title=response.reason_phrase, status=status, detail=detail
        )
    error = ServerFailedError if status >= 500 else ERRORS.get(status, ApiError)
    return error(problem, retry_after_s=retry_after_s)


def _redirect(response: httpx.Response) -> str:
    # A redirect is not followed: the token would go wherever it points.
    target = response.headers.get("Location")
    return f", a redirect to {target.partition('?')[0]}," if target else ""


def _media_type(response: httpx.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0] or "no media type"


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After in seconds: a number, or a moment that is compared with the server's Date.

    None when it is missing or cannot be read.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
        return max(
            0.0, (until - email.utils.parsedate_to_datetime(headers["Date"])).total_seconds()
        )
    except (KeyError, TypeError, ValueError):
        return None
