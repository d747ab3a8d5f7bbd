"""What HTTP lets a client or a browser make of us, and does not get: pages, redirects, and bodies of two minds."""

from __future__ import annotations

import subprocess

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sluicegate.control.access import tokens
from sluicegate.control.cli.render import state_lines
from sluicegate.control.client.api import Client
from sluicegate.control.http.guard import _refuse_repetitions
from sluicegate.schemas.api.base import Asked
from sluicegate.schemas.errors import InvalidInput
from tests.integration.world import World

PATH = "/api/system/worker-pause"
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def test_every_answer_says_that_it_is_no_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors too, the unforeseen among them; and there is no page that loads a foreign script."""
    plane = world.start()
    client = world.client(plane)
    asked = [client.get(path) for path in (PATH, "/healthz", "/readyz", "/openapi.json", "/nope", "/docs", "/redoc")]
    asked += [client.post(PATH, json={}), httpx.get(plane.url + PATH), client.delete(PATH)]
    monkeypatch.setattr(plane.parts.reading, "state", lambda scope: 1 / 0)
    asked.append(client.get(PATH))
    assert [answer.status_code for answer in asked] == [200, 200, 200, 200, 404, 404, 404, 422, 401, 405, 500]
    for answer in asked:
        assert HEADERS.items() <= dict(answer.headers).items(), answer.url
        assert "text/html" not in answer.headers["content-type"]


@pytest.mark.parametrize("path", [f"{PATH}/", "/api/workers/", "/healthz/", "/api/audit/"])
def test_nobody_is_sent_to_a_host_that_the_request_names(world: World, path: str) -> None:
    """A path with a slash too many is not there."""
    client = world.client(world.start())
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"action":"resume","reason":"x","forceResume":0}', "forceResume"),
        ('{"action":"resume","reason":"x","forceResume":1}', "forceResume"),
        ('{"action":"resume","reason":"x","forceResume":"true"}', "forceResume"),
        ('{"action":"resume","reason":"x","forceResume":false,"forceResume":true}', "forceResume"),
        ('{"action":"resume","action":"pause","mode":"drain","reason":"x"}', "action"),
        ('{"action":"pause","mode":"drain","reason":"x","scope":"queue:a","sc\\u006fpe":"global"}', "scope"),
        ('{"action":"pause","mode":"drain","reason":"x","expiresInS":NaN}', "body"),
        ('{"action":"pause","mode":"drain","reason":{"a":1,"a":2}}', "a"),
    ],
)
def test_a_body_that_two_readers_could_read_differently_is_refused(world: World, body: str, field: str) -> None:
    """422 with the field, and nothing has changed."""
    plane = world.start()
    client = world.client(plane)
    client.get(PATH)
    before = world.dump()
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert world.dump() == before


def test_the_body_of_every_route_is_taken_strictly(world: World) -> None:
    """Also that of a route that is added later."""
    paths = httpx.get(f"{world.start().url}/openapi.json").json()["paths"]
    routes = [route for methods in paths.values() for route in methods.values() if "requestBody" in route]
    bodies = {
        route["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2] for route in routes
    }
    assert bodies == {strict.__name__ for strict in Asked.__subclasses__()}


def test_a_query_that_says_a_thing_twice_is_refused(world: World) -> None:
    """Whatever the route."""
    client = world.client(world.start())
    for path, name in ((PATH, "scope"), ("/api/audit", "limit"), (f"{PATH}/preview", "scope")):
        answer = client.get(path, params=[(name, "1"), (name, "global")])
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, name)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers())))
def test_a_name_that_stands_twice_is_found_and_no_other(pairs: list[tuple[str, object]]) -> None:
    """The error names one that does."""
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        assert _refuse_repetitions(pairs) == dict(pairs)
        return
    with pytest.raises(InvalidInput) as caught:
        _refuse_repetitions(pairs)
    assert names.count(caught.value.field) > 1


def test_a_silent_worker_of_any_name_can_be_forgotten(world: World) -> None:
    """Through the client and the route: with dots, slashes, line breaks, percents, and all that has to be quoted."""
    plane = world.start()
    token = tokens.create(world.database_url, "alice", "operator")
    with Client(plane.url, token) as client:

        @settings(max_examples=60)
        @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
        @example(".")
        @example("..")
        @example("../..")
        @example("a\nb")
        @example("\n")
        @example("a/forget")
        @example("/")
        @example("%2e%2e")
        @example("a b?c#d")
        def forget(nodename: str) -> None:
            world.beat(nodename, age_s=60)
            assert client.forget(nodename, reason="gone").body.nodename == nodename

        forget()
    assert world.events(action="worker_forgotten", outcome="applied")


@pytest.mark.parametrize("name", ["w@h", "..", "a b", "it's", "a\nb", "\x1b[0m'\\", "-rf", "$(x)", "é\u2028"])
def test_the_name_that_a_warning_tells_to_forget_can_be_pasted(name: str) -> None:
    """By bash, which reads it back as it was."""
    line = f"printf '%s' {state_lines.typed(name).removeprefix('-- ')}"
    assert line.isprintable()
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode() == name
    assert state_lines.typed(name).startswith("-- ") == name.startswith("-")
