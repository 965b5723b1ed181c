"""What a call becomes on the wire, what an answer means, and when to try again."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from backhaul import __version__, _calls, _sending
from backhaul._sending import RetryPlan
from backhaul.errors import (
    ApiError,
    BackhaulError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    RateLimitedError,
    ServerFailedError,
    TimedOutError,
    UndecodableReplyError,
)
from backhaul.wire.fleet import UpdateHost
from backhaul.wire.problems import Problem
from tests.unit.sdk.builders import TOKEN, URL, refuse

GET = _calls.list_hosts()
PATCH = _calls.update_host("web-1", UpdateHost(name="web-2"))


def _rate_limited(retry_after_s: float | None) -> RateLimitedError:
    problem = Problem(type="about:blank", title="t", status=429, detail="d")
    return RateLimitedError(problem, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (401, NotAuthenticatedError),
        (403, NotAllowedError),
        (404, NotFoundError),
        (405, ApiError),
        (409, ConflictError),
        (410, NotFoundError),
        (413, InvalidRequestError),
        (422, InvalidRequestError),
        (426, ApiError),
        (429, RateLimitedError),
        (500, ServerFailedError),
        (503, ServerFailedError),
        (599, ServerFailedError),
    ],
)
def test_status_decides_the_error(status: int, expected: type[ApiError]) -> None:
    with pytest.raises(ApiError) as caught:
        _sending.read_reply(GET, refuse(status, detail="The reason."), URL)

    assert type(caught.value) is expected
    assert str(caught.value) == "The reason."
    assert caught.value.status == status


@pytest.mark.parametrize("status", [429, 502, 503, 504, 520])
def test_proxy_page_with_a_server_status_is_still_worth_another_try(status: int) -> None:
    page = httpx.Response(status, text="<html>Bad gateway</html>")

    with pytest.raises((RateLimitedError, ServerFailedError)) as caught:
        _sending.read_reply(GET, page, URL)

    assert str(status) in str(caught.value)
    assert "<html>" not in str(caught.value)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>Welcome to the hotel</html>"),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b""),
        httpx.Response(200, json={"items": [{"id": "no"}]}),
        httpx.Response(404, text="nginx"),
        httpx.Response(302, headers={"Location": "https://portal.test/login?for=you"}),
        httpx.Response(407, text="proxy"),
    ],
    ids=["page", "bytes", "empty", "other json", "not found page", "redirect", "proxy login"],
)
def test_answer_of_something_else_is_undecodable(response: httpx.Response) -> None:
    with pytest.raises(UndecodableReplyError, match=r"check the URL and any proxy"):
        _sending.read_reply(GET, response, URL)


def test_answer_without_content_is_none() -> None:
    assert _sending.read_reply(_calls.log_out(), httpx.Response(204), URL) is None


def test_headers_name_the_program_and_carry_the_token() -> None:
    headers = _sending.build_headers(PATCH, TOKEN)

    assert headers["User-Agent"].split()[0] == f"backhaul/{__version__}"
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Content-Type"] == "application/json"


def test_token_is_not_sent_where_none_is_needed() -> None:
    assert "Authorization" not in _sending.build_headers(_calls.get_health(), TOKEN)


def test_call_without_its_token_is_not_sent() -> None:
    with pytest.raises(ConfigurationError, match="Not signed in"):
        _sending.build_headers(GET, None)


def test_text_that_is_no_utf8_is_refused_without_repeating_it() -> None:
    """As Python has the name of a file that is in another encoding."""
    call = _calls.update_host("web1", UpdateHost(name="hunter\udc80"))

    with pytest.raises(InvalidRequestError, match=r"^name: must be UTF-8") as caught:
        _sending.build_body(call)

    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("host", _calls.get_host),
        ("host", lambda text: _calls.list_jobs(host=text)),
        ("label", lambda text: _calls.list_hosts(labels={"role": text})),
        ("path", lambda text: _calls.list_snapshot_files("nas", "latest", text)),
        ("snapshot", lambda text: _calls.list_snapshot_files("nas", text)),
    ],
)
def test_address_that_is_no_utf8_is_refused(field: str, build: Callable[[str], object]) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: .*UTF-8") as caught:
        build("web\udc80")

    assert "web" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("host", _calls.get_host),
        ("job_id", _calls.get_job),
        ("host", lambda text: _calls.list_jobs(host=text)),
        ("kind", lambda text: _calls.get_event_page(kinds=["job.finished", text])),
        ("label", lambda text: _calls.list_hosts(labels={"role": text, "tier": "1"})),
    ],
)
def test_address_that_is_too_long_is_refused(field: str, build: Callable[[str], object]) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: is too long") as caught:
        build("a" * 70_000)

    assert len(str(caught.value)) < 100


def test_long_path_in_a_snapshot_can_be_asked_for() -> None:
    path = "/\N{SNOWMAN}" * 1000

    assert ("path", path) in _calls.list_snapshot_files("nas", "latest", path).query


def test_client_waits_longer_than_the_server_holds() -> None:
    call = _calls.get_job("x", after_revision=3, wait_s=20.0)

    assert _sending.build_timeout(call, 30.0).read == 50.0
    assert _sending.build_timeout(call, 30.0).connect == 30.0


@pytest.mark.parametrize("name", ["", ".", "..", "web-1/schedules", "../users/ada"])
def test_name_that_would_change_the_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="host"):
        _calls.remove_host(name)


def test_only_a_forced_removal_says_so() -> None:
    assert _calls.remove_host("web-1").query == ()
    assert _calls.remove_host("web-1", force=True).query == (("force", "true"),)


def test_name_is_quoted_as_one_segment() -> None:
    assert _calls.get_host("a b?c").path == "/v1/hosts/a%20b%3Fc"


def test_next_page_keeps_the_filters() -> None:
    call = _calls.list_jobs(host="web-1", states=["failed", "lost"], limit=5).at("one").at("two")

    assert call.query == (
        ("host", "web-1"),
        ("state", "failed"),
        ("state", "lost"),
        ("limit", "5"),
        ("cursor", "two"),
    )


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 0.25), (2, 0.5), (3, 1.0), (4, None)])
def test_waits_grow_and_end(attempt: int, delay_s: float | None) -> None:
    plan = RetryPlan(attempts=4, random=lambda: 0.5)

    assert plan.delay_after(GET, TimedOutError(), attempt=attempt) == delay_s


def test_waits_are_capped() -> None:
    plan = RetryPlan(attempts=99, longest_s=8.0, random=lambda: 1.0)

    assert plan.delay_after(GET, TimedOutError(), attempt=50) == 8.0


@pytest.mark.parametrize(
    "error", [TimedOutError(), ConnectionFailedError(), _rate_limited(1.0)], ids=repr
)
def test_request_that_changes_something_is_never_repeated(error: BackhaulError) -> None:
    assert RetryPlan().delay_after(PATCH, error, attempt=1) is None


def test_retry_after_is_obeyed() -> None:
    assert RetryPlan().delay_after(GET, _rate_limited(7.0), attempt=1) == 7.0


def test_retry_after_beyond_our_patience_is_told_instead() -> None:
    assert RetryPlan(patience_s=30.0).delay_after(GET, _rate_limited(31.0), attempt=1) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12.0),
        ({"Retry-After": " 12 "}, 12.0),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        (
            {
                "Retry-After": "Mon, 23 Nov 2026 12:00:30 GMT",
                "Date": "Mon, 23 Nov 2026 12:00:00 GMT",
            },
            30.0,
        ),
        (
            {
                "Retry-After": "Mon, 23 Nov 2026 11:00:00 GMT",
                "Date": "Mon, 23 Nov 2026 12:00:00 GMT",
            },
            0.0,
        ),
        ({"Retry-After": "Mon, 23 Nov 2026 12:00:30 GMT"}, None),
    ],
    ids=["absent", "number", "spaces", "negative", "word", "moment", "past", "no date"],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert _sending.parse_retry_after(httpx.Headers(headers)) == seconds


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.test",
        "ftp://api.test",
        "http://",
        "http://a:b@api.test",
        "http://x/?a=b",
        "http://x:y",
        "http://a b",
        "http://x:99999",
    ],
)
def test_useless_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        _sending.check_url(url)


def test_url_may_have_a_path_and_loses_its_slash() -> None:
    assert _sending.check_url("https://x.test/backhaul/") == "https://x.test/backhaul"


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "grün"])
def test_token_that_fits_no_header_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _sending.check_token(token)

    assert not token or token not in str(caught.value)


def test_missing_ca_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"/nowhere/ca\.pem"):
        _sending.build_tls_context("/nowhere/ca.pem")


def test_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")

    with pytest.raises(ConfigurationError, match="cannot be used"):
        _sending.build_tls_context(tmp_path / "ca.pem")


def test_untrusted_certificate_is_told_with_its_remedy() -> None:
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError()

    assert "CA file" in str(_sending.translate(error, URL))
