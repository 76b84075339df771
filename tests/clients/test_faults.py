import datetime
import email.utils

import pytest

from tenner.clients.faults import EVIDENCE_CHARS, FAULTS, from_status, retry_after_seconds


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, '{"error": {"message": "no"}}', "bad_request"),
        (400, '{"error": {"code": "model_not_found"}}', "unknown_model"),
        (401, "", "bad_key"),
        (402, "", "billing"),
        (403, "", "refused"),
        (404, "", "unknown_model"),
        (408, "", "server_error"),
        (413, "", "bad_request"),
        (422, "", "bad_request"),
        (429, "", "rate_limited"),
        (429, '{"error": {"code": "insufficient_quota"}}', "billing"),
        (429, '{"error": {"type": "insufficient_quota", "code": null}}', "billing"),
        (500, "", "server_error"),
        (502, "<html>", "server_error"),
        (503, "", "overloaded"),
        (529, "", "overloaded"),
    ],
)
def test_every_status_has_a_name(status, body, kind):
    assert from_status(status, {}, body).kind == kind


@pytest.mark.parametrize(
    "body", ['{"error": "said so"}', '{"error": {"message": "said so"}}', '{"message": "said so"}']
)
def test_what_the_server_says_is_kept_in_one_line(body):
    assert from_status(400, {}, body).evidence == "HTTP 400: said so"
    assert from_status(500, {}, "a\n b" + "x" * 1000).evidence.startswith("HTTP 500: a b")
    key = "sk-0123456789"
    long = from_status(500, {}, "x" * (EVIDENCE_CHARS - 15) + key)  # cut first, half of the key would be left
    assert key[:8] not in long.redacted(key)
    assert len(long.redacted(key)) == EVIDENCE_CHARS


def test_retry_after_is_seconds_or_a_date_or_nothing():
    assert retry_after_seconds({"retry-after": "1.5"}) == 1.5
    assert retry_after_seconds({"retry-after": "-3"}) == 0
    assert retry_after_seconds({}) is None
    assert retry_after_seconds({"retry-after": "soon"}) is None
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    assert 28 < retry_after_seconds({"retry-after": email.utils.format_datetime(then, usegmt=True)}) < 31


def test_no_fatal_fault_is_retried_and_every_retried_one_is_transient():
    for rule in FAULTS.values():
        assert not (rule.stops_the_run and (rule.retried or rule.transient))
        assert rule.transient or not rule.retried
        assert bool(rule.hint) == rule.stops_the_run
