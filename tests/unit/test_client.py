"""The client turns every answer, and every failure to get one, into a value or an error of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sluicegate.control.client import Client, InputRejected
from sluicegate.schemas.errors import (
    DatabaseTooNew,
    InvalidSetting,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotMigrated,
    Refused,
    SluicegateError,
    Unavailable,
)
from tests.unit import answers

URL = "http://127.0.0.1:8321"
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> Client:
    return Client(URL, answers.TOKEN, transport=httpx.MockTransport(handler))


def always(status: int, body: Any) -> Handler:
    return lambda request: httpx.Response(status, json=body)


def test_a_pause_sends_the_token_and_an_idempotency_key() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=answers.change())

    with client(handler) as control:
        reply = control.pause(mode="drain", reason="deploying")
    assert reply.body.system.version == 7
    assert reply.raw == answers.change()
    body = json.loads(seen[0].content)
    assert len(body.pop("idempotencyKey")) == 36
    assert body == {"action": "pause", "mode": "drain", "reason": "deploying"}
    assert seen[0].headers["authorization"] == f"Bearer {answers.TOKEN}"


def test_a_dropped_connection_is_tried_once_more_under_the_same_key() -> None:
    """The first try may have been carried out: the key makes the second one the same order."""
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(json.loads(request.content)["idempotencyKey"])
        if len(keys) == 1:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        return httpx.Response(200, json=answers.change())

    with client(handler) as control:
        control.resume(reason="done")
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_connection_that_keeps_dropping_is_unavailable_and_says_that_the_outcome_is_unknown() -> None:
    tries = []

    def handler(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        raise httpx.ReadError("reset")

    with client(handler) as control, pytest.raises(Unavailable, match=r"whether the change was made is unknown"):
        control.pause(mode="drain", reason="x")
    assert len(tries) == 2


def test_forget_is_never_tried_twice() -> None:
    """A second try would find the worker forgotten, and report the success as a failure."""
    tries = []

    def handler(request: httpx.Request) -> httpx.Response:
        tries.append(str(request.url))
        raise httpx.ReadError("reset")

    with client(handler) as control, pytest.raises(Unavailable):
        control.forget("a b/c?d@host", reason="x")
    assert tries == [f"{URL}/api/workers/a%20b%2Fc%3Fd@host/forget"]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "not_authenticated", NotAuthenticated),
        (429, "not_authenticated", NotAuthenticated),
        (403, "not_allowed", NotAllowed),
        (404, "not_found", NotFound),
        (409, "refused", Refused),
        (422, "invalid_input", InputRejected),
        (503, "unavailable", Unavailable),
        (503, "not_migrated", NotMigrated),
        (503, "database_too_new", DatabaseTooNew),
        (400, "a code of tomorrow", InputRejected),
        (500, "error", Unavailable),
    ],
)
def test_each_error_answer_is_the_error_of_its_code(status: int, code: str, kind: type[SluicegateError]) -> None:
    with client(always(status, answers.error(code, "what went wrong"))) as control:
        with pytest.raises(kind, match="what went wrong") as caught:
            control.read()
        assert type(caught.value) is kind


def test_a_refusal_carries_what_stands_in_the_way() -> None:
    body = answers.error("refused", "not drained", metrics={"running": 3}, remaining=["budget"])
    with client(always(409, body)) as control, pytest.raises(Refused) as caught:
        control.resume(reason="x")
    assert caught.value.details == {"metrics": {"running": 3}, "remaining": ["budget"]}


def test_the_field_is_named_once() -> None:
    body = answers.error("invalid_input", "mode: 'x' is not a mode", "mode")
    with client(always(422, body)) as control, pytest.raises(InputRejected) as caught:
        control.pause(mode="x", reason="x")
    assert str(caught.value) == "mode: 'x' is not a mode"


@pytest.mark.parametrize("status", [200, 302, 404, 502])
def test_an_answer_of_something_else_is_unavailable_and_names_the_url(status: int) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, text="<html>", headers={"location": "http://elsewhere/"})

    with client(handler) as control, pytest.raises(Unavailable, match=URL):
        control.read()


def test_an_answer_of_another_shape_is_unavailable_and_names_the_field() -> None:
    body = answers.state()
    del body["system"]["version"]
    with client(always(200, body)) as control, pytest.raises(Unavailable, match=r"system\.version"):
        control.read()


def test_a_field_of_tomorrow_is_ignored() -> None:
    body = answers.state()
    body["metrics"]["isPausedByCapacity"] = True
    with client(always(200, body)) as control:
        assert control.read().raw["metrics"]["isPausedByCapacity"] is True


def test_nobody_there_is_unavailable_and_names_the_url() -> None:
    with Client("http://127.0.0.1:1", "sg_x") as control, pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1"):
        control.read()


@pytest.mark.parametrize("url", ["", "localhost", "ftp://host", "http://", "http://me:secret@host", "http://host:port"])
def test_what_is_no_address_is_refused_without_a_call(url: str) -> None:
    with pytest.raises(InvalidSetting, match="SLUICEGATE_URL") as caught:
        Client(url, "sg_x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["sg_\n", "sg x", "sg_\u00e4"])
def test_what_is_no_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(InvalidSetting, match="SLUICEGATE_TOKEN") as caught:
        Client(URL, token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("url", [URL, "http://localhost:1", "http://[::1]:1"])
def test_a_proxy_is_not_asked_for_this_very_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(url, "sg_x") as control:
        assert not control._http._mounts
    with Client("http://control.example", "sg_x") as control:
        assert control._http._mounts


def test_audit_sends_the_filters_as_they_are_called() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == {"actor": "alice", "limit": "5"}
        return httpx.Response(200, json={"events": [answers.event()], "total": 1, "limit": 5, "offset": 0})

    with client(handler) as control:
        assert control.audit({"actor": "alice", "limit": 5}).body.events[0].actor == "alice"
