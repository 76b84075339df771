import datetime
import email.utils
import json
import random
from collections import Counter

import pytest
from chat_server import completion
from mangled import mangled

from tenner.clients.error_body import read_error
from tenner.clients.faults import EVIDENCE_CHARS, FAULTS, from_status, from_success, retry_after_seconds


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
        (504, "", "gateway_timeout"),
        (524, "<html><title>A timeout occurred</title></html>", "gateway_timeout"),
        (500, "Request timed out", "gateway_timeout"),
        (500, '{"error": "boom"}', "server_error"),
        (502, "upstream prematurely closed connection", "gateway_timeout"),
        (429, "Rate limit reached for accounts without credits, try again later", "rate_limited"),
        (412, "Account x is suspended, possibly due to reaching the monthly spending limit", "billing"),
        (402, "You have exceeded your monthly included credits for Inference Providers", "billing"),
        (403, '{"code": "AllocationQuota.FreeTierOnly", "message": "The free tier is exhausted"}', "billing"),
        (400, '{"error": {"code": "token_limit_exceeded", "message": "the prompt is too long"}}', "bad_request"),
        (429, "Too many in-progress batches", "batch_limit"),
        (429, "Maximum number of concurrent batch jobs reached", "batch_limit"),
        (429, "Batch requests are limited: 20 pending batches", "batch_limit"),
        (403, "Exceeded the quota of batch tokens in queue", "batch_limit"),
        (400, "The batch contains 60000 requests, more than the maximum of 50000", "batch_limit"),
        (413, "The batch file is too large", "batch_limit"),
        (400, '{"error": {"type": "budget_exceeded", "message": "Budget has been exceeded! Max: 10.0"}}', "billing"),
        (429, "Organization has exceeded its monthly budget", "billing"),
        (429, '{"error": {"type": "no_credits", "message": "You have no credits remaining."}}', "billing"),
        (429, '{"detail": {"error": "trial credits exhausted"}}', "billing"),
        (403, "You've used up your points!", "billing"),
        (403, '{"code": "Throttling.AllocationQuota", "message": "Free allocated quota exceeded."}', "billing"),
        (403, '{"error": {"code": "pre_consume_token_quota_failed", "message": "too little"}}', "billing"),
        (401, '{"error": {"message": "该令牌额度已用尽", "type": "new_api_error"}}', "billing"),
        (400, "You have reached your specified API usage limits. You will regain access on 2026-12-01.", "billing"),
        (429, '{"error": {"code": "1309", "message": "Your plan has expired"}}', "billing"),
        (429, '{"error": {"code": "1308", "message": "Usage limit reached for 5 hour."}}', "quota_used_up"),
        (429, '{"error": {"code": "1310", "message": "Weekly limit reached"}}', "quota_used_up"),
        (429, '{"error": {"code": "1302", "message": "Your account has too many requests at once"}}', "rate_limited"),
        (429, "Rate limit exceeded: 20 a minute. Add credits to raise your limit", "rate_limited"),
        (429, "Allocated quota exceeded for tokens per minute", "rate_limited"),
        (500, "Internal error in the billing of the shard", "server_error"),
        (403, '{"error": {"code": "invalid_api_key", "message": "no"}}', "bad_key"),
        (429, "Rate limit reached on tokens per day (TPD). Please try again in 1h2m3s.", "quota_used_up"),
        (429, "Rate limit reached on requests per day (RPD). Please try again in 7m12s.", "rate_limited"),
        (
            429,
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000. Visit the page to add a payment "
            "method to your account.",
            "rate_limited",
        ),
        (
            429,
            "This request would exceed your organization's rate limit of 40,000 input tokens per minute",
            "rate_limited",
        ),
        (
            429,
            "You have exceeded the token rate limit of your current S0 pricing tier. Please retry after 24 seconds.",
            "rate_limited",
        ),
        (429, "Your account reached organization max RPM: 3, please try again after 1 seconds", "rate_limited"),
        (
            429,
            '{"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "status: '
            'RESOURCE_EXHAUSTED. You exceeded your current quota, please check your plan and billing details"}}}',
            "rate_limited",
        ),
        (400, "This model's maximum context length is 32768 tokens. However, you requested 40000", "bad_request"),
        (
            422,
            '{"detail": [{"loc": ["body"], "msg": "Field required", "input": "He ran out of funds: recharge!"}]}',
            "bad_request",
        ),
        (402, "This would exceed your available credits given your current in-flight requests.", "rate_limited"),
        (403, "Organization has been disabled due to unpaid invoices.", "billing"),
        (412, "Account x is suspended, or you did not pay past invoices", "billing"),
        (429, "ExceededTokenBudget: Current spend for token: 7.2e-05; Max Budget for Token: 2e-07", "billing"),
        (429, '{"error": {"code": "SetLimitExceeded", "message": "the set inference limit"}}', "billing"),
        (400, '{"error": {"message": "x/y is not a valid model ID"}}', "unknown_model"),
        (400, '{"error": {"message": "The model `x` has been decommissioned."}}', "unknown_model"),
        (400, "The model x does not support this parameter", "bad_request"),
        (400, '{"error": {"message": "no", "details": [{"reason": "API_KEY_INVALID"}]}}', "bad_key"),
        (429, "You have reached your weekly usage limit", "quota_used_up"),
        (429, "Monthly token quota exceeded", "quota_used_up"),
        (429, "Too many requests. A monthly plan has higher limits.", "rate_limited"),
        (429, "you (user) have reached your session usage limit, upgrade for higher limits", "quota_used_up"),
        (400, "Enqueued token limit reached for m in organization o. Limit: 90,000 enqueued tokens.", "batch_limit"),
        (400, json.dumps({"error": {"code": "9" * 5000, "message": "m"}}), "bad_request"),
    ],
)
def test_every_status_has_a_name(status, body, kind):
    assert from_status(status, {}, body).kind == kind


@pytest.mark.parametrize(
    "fields",
    [
        {"hello": "world"}, {"choices": []}, {"choices": [], "usage": {"prompt_tokens": 1}}, [], None, 3, "text",
        {"code": 200, "message": "ok", "data": {}},
        {"choices": [{"finish_reason": "stop", "message": {}}], "error": None},
        {"choices": [{"finish_reason": "length", "message": {}}], "base_resp": {"status_code": 0}},
        {"choices": [{"finish_reason": "stop", "message": {}}], "error": {"message": "", "code": None}},
        {"candidates": [{"content": {}}]}, {"promptFeedback": {"blockReason": "OTHER"}},
    ],
)  # fmt: skip
def test_what_is_no_error_is_none(fields):
    assert from_success(fields) is None


def test_no_body_makes_the_reader_of_errors_stumble():
    draw = random.Random(0)
    kinds: Counter[object] = Counter()
    bodies = [
        {"error": {"code": 429, "message": "m", "details": [{"violations": [{"quotaId": "q"}], "reason": "r"}]}},
        {"base_resp": {"status_code": 1008, "status_msg": "m"}, "usage": {"completion_tokens": 3}, "choices": None},
        {"success": False, "errors": [{"code": 7, "message": "m"}], "detail": [{"msg": "m"}]},
        [{"error": {"code": "c", "message": "m", "metadata": {"raw": "r"}}}],
        completion("1+2?", finish_reason="error"),
    ]
    for _ in range(3000):
        fields = draw.choice(bodies)
        for _ in range(draw.randint(0, 3)):
            fields = mangled(fields, draw)
        fault = from_success(fields)
        kinds[fault and fault.kind] += 1
        assert from_status(400, {}, json.dumps(fields)).kind in FAULTS
    assert {None, "error_in_response", "billing", "rate_limited"} <= kinds.keys()


@pytest.mark.parametrize(
    ("message", "is_missing"),
    [
        ("Input file not found", True), ("The file file-a is not ready", True), ("No such File object: file-1", True),
        ("file file-a has not finished uploading", True), ("input_file_id file-x was not found", True),
        ("Resource not found: file-x", True), ("File is being processed, try later", True),
        ("File status is 'pending', must be 'processed'", True), ("Uploaded file is still validating", True),
        ("Could not find file with id file-x", True), ("The model `x` does not exist", False),
        ("line 3 of the file is no request", False), ("not found", False), ("profile not found", False),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_yet_is_known_by_the_message(message, is_missing):
    assert read_error(json.dumps({"error": {"message": message}})).is_about_missing_file == is_missing


def test_a_page_is_told_by_its_title_and_a_router_by_what_it_was_told():
    assert (
        from_status(524, {}, "<title>A timeout\n occurred</title>").evidence
        == "HTTP 524: a web page: A timeout occurred"
    )
    routed = {"error": {"message": "Provider returned error", "metadata": {"raw": "too hot"}}}
    assert from_status(500, {}, json.dumps(routed)).evidence == "HTTP 500: Provider returned error: too hot"


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
    for none in ("soon", "inf", "nan", "1e3", "0x10", "9" * 40, "30, 60", ""):
        assert retry_after_seconds({"retry-after": none}) is None
    for said, asked in {"30s": 30, "1m30s": 90, "2 minutes": 120, "500ms": 0.5, "1 hour": 3600}.items():
        assert retry_after_seconds({"retry-after": said}) == asked
    assert retry_after_seconds({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after_seconds({"retry-after-ms": "", "retry-after": "9"}) == 9
    assert retry_after_seconds({"retry-after": "Mon, 01 Jan 2026 00:00:00 +" + "9" * 30}) is None
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    seconds = retry_after_seconds({"retry-after": email.utils.format_datetime(then, usegmt=True)})
    assert seconds is not None
    assert 28 < seconds < 31


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"details": [{"retryDelay": "17s"}]}, 17), ({"metadata": {"retry_after_seconds": 12}}, 12),
        ({"retry_after": 2.5}, 2.5), ({"retry_after_ms": 250}, 0.25), ({"retry_after": "soon"}, None),
        ({"message": "Please retry in 34.07s."}, 34.07), ({"message": "try again in 250ms"}, 0.25),
        ({"message": "Try again in 2 minutes"}, 120), ({"message": "wait 12 seconds"}, 12),
        ({"message": "Please try again in 1 days"}, 86400), ({"message": "try again in 1h2m3.5s"}, 3723.5),
        ({"message": "Retry your request: try again in 6m0s"}, 360), ({"message": "Please retry shortly"}, None),
    ],
)  # fmt: skip
def test_the_wait_stands_in_a_field_or_in_the_message(error, seconds):
    assert from_status(429, {}, json.dumps({"error": {"message": "m"} | error})).retry_after_seconds == seconds


def test_no_fatal_fault_is_retried_and_every_retried_one_is_transient():
    for rule in FAULTS.values():
        assert not (rule.stops_the_run and (rule.retried or rule.transient))
        assert rule.transient or not rule.retried
        assert bool(rule.hint) == rule.stops_the_run
