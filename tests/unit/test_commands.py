"""The verbs, against a stand-in for the control plane: what they send, print and exit with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sluicegate.control.cli import wait
from sluicegate.control.cli.root import sluicegate
from sluicegate.schemas.exits import Exit
from tests.unit import answers
from tests.unit.stub import Stub, stub

SYSTEM = "/api/system/worker-pause"
PAUSE = ("pause", "--reason", "deploying")
RESUME = ("resume", "--reason", "done")


@pytest.fixture
def control() -> Iterator[Stub]:
    with stub() as prepared:
        prepared.answer(f"GET {SYSTEM}", answers.state())
        prepared.answer(f"POST {SYSTEM}", answers.change())
        prepared.answer("GET /api/workers", {"workers": [answers.worker()]})
        prepared.answer("GET /api/audit", {"events": [answers.event()], "total": 9, "limit": 100, "offset": 0})
        prepared.answer(f"GET /api/holds/{answers.hold()['id']}", answers.story())
        prepared.answer(f"GET {SYSTEM}/preview", answers.preview())
        prepared.answer("POST /api/workers/w1@host/forget", answers.forgotten())
        yield prepared


def call(control: Stub | None, *args: str, **environ: str | None) -> Result:
    settings: dict[str, str | None] = {
        "SLUICEGATE_URL": control.url if control else None,
        "SLUICEGATE_TOKEN": answers.TOKEN,
        "SLUICEGATE_DATABASE_URL": None,
        "SLUICEGATE_SIGNING_KEY_FILE": None,
    }
    result = CliRunner().invoke(sluicegate, args, env=settings | environ)
    assert answers.TOKEN not in result.output, "a token was shown"
    assert "Traceback" not in result.output
    return result


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr, nothing on stdout, and the exit code."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("sluicegate: ")
    for word in words:
        assert word in result.stderr


def test_pause_says_what_holds_by_whom_since_when_and_why(control: Stub) -> None:
    result = call(control, *PAUSE)
    assert result.exit_code == Exit.OK
    assert result.stdout == "PAUSED drain — version 7 — by alice since 2026-01-31 09:30:00Z: deploying\n"
    route, body, token = control.asked[0]
    assert route == f"POST {SYSTEM}"
    assert body | {"idempotencyKey": ""} == {
        "action": "pause",
        "mode": "drain",
        "reason": "deploying",
        "idempotencyKey": "",
    }
    assert token == f"Bearer {answers.TOKEN}"


def test_a_span_is_sent_as_it_is_and_a_time_in_utc(control: Stub) -> None:
    call(control, *PAUSE, "--for", "2h")
    assert control.asked[0][1]["expiresInS"] == 7200
    assert "expiresAt" not in control.asked[0][1]
    for option in ("--until", "--expires-at"):
        call(control, *PAUSE, option, "2030-01-01T01:00:00+01:00")
        assert control.asked[-1][1]["expiresAt"] == "2030-01-01T00:00:00.000000Z"


def test_a_deadline_is_sent_with_what_follows_it_and_told(control: Stub) -> None:
    held = answers.hold(deadline="2026-01-31T10:00:00.000000Z", then="quiesce")
    control.answer(f"POST {SYSTEM}", answers.change(holds=[held]))
    result = call(control, *PAUSE, "--deadline", "30m", "--then", "quiesce")
    body = control.asked[0][1]
    assert (body["deadlineInS"], body["then"]) == (1800, "quiesce")
    assert "deadline 2026-01-31 10:00:00Z: then quiesce, if work is left\n" in result.stdout


def test_a_repeat_is_told_to_have_changed_nothing(control: Stub) -> None:
    control.answer(f"POST {SYSTEM}", answers.change(outcome="noop"))
    assert "unchanged" in call(control, *PAUSE).stdout


def test_stored_but_not_published_is_exit_5(control: Stub) -> None:
    for args in (PAUSE, RESUME):
        control.answer(f"POST {SYSTEM}", answers.change(published=False))
        result = call(control, *args)
        assert result.exit_code == Exit.NOT_PUBLISHED
        assert "not yet published" in result.stdout


def test_resume_names_the_causes_that_still_hold(control: Stub) -> None:
    held = answers.hold(cause="budget", source="daily", actor="sluicegate", reason="92 %")
    control.answer(f"POST {SYSTEM}", answers.change(holds=[held], remaining=["budget"]))
    result = call(control, *RESUME)
    assert result.stdout == "PAUSED drain — version 7 — by budget\nstill held by: budget\n"


def test_an_undrained_resume_is_refused_with_the_figures_and_the_way_round(control: Stub) -> None:
    body = answers.error("refused", "not drained yet", metrics={"running": 3, "staleRunning": 1, "queued": 5})
    control.answer(f"POST {SYSTEM}", body, status=409)
    assert_refused(call(control, *RESUME), Exit.REFUSED, "running 3", "stale 1", "--force")


def test_force_is_sent(control: Stub) -> None:
    call(control, *RESUME, "--force")
    assert control.asked[0][1]["forceResume"] is True


BAD = [
    (("pause",), "reason:"),
    (("pause", "--reason", "  "), "reason:"),
    (("resume",), "reason:"),
    ((*RESUME, "--ramp", "fast"), "ramp:"),
    (("pause", "--mode", "x", "--reason", "y"), "mode: 'x' is not a mode: use drain or quiesce"),
    (("pause", "--mode", "run", "--reason", "y"), "mode:"),
    (("pause", "--scope", "nope", "--reason", "y"), "scope:"),
    (("resume", "--scope", "queue:", "--reason", "y"), "scope:"),
    ((*PAUSE, "--for", "2 hours"), "for:"),
    ((*PAUSE, "--for", "0s"), "for:"),
    ((*PAUSE, "--for", "999999999d"), "for:"),
    ((*PAUSE, "--until", "tomorrow"), "until:"),
    ((*PAUSE, "--until", "2030-01-01T00:00:00"), "time zone"),
    ((*PAUSE, "--for", "2h", "--until", "2030-01-01T00:00:00Z"), "not both"),
    ((*PAUSE, "--timeout", "5m"), "timeout: belongs to --wait"),
    ((*PAUSE, "--wait", "--timeout", "soon"), "timeout:"),
    ((*PAUSE, "--nope"), "--nope"),
    ((*PAUSE, "surplus"), "surplus"),
    ((*PAUSE, "--url", "nowhere"), "SLUICEGATE_URL"),
    ((*PAUSE, "--token-file", "/does/not/exist"), "token-file:"),
    (("nope",), "nope"),
    (("db", "nope"), "nope"),
    (("workers", "--url", "u", "forget", "x", "--reason", "y"), "after"),
    ((*PAUSE, "--dry-run", "--wait"), "dry-run:"),
    ((*PAUSE, "--deadline", "30m"), "then:"),
    ((*PAUSE, "--then", "quiesce"), "deadline:"),
    ((*PAUSE, "--deadline", "soon", "--then", "quiesce"), "deadline:"),
    ((*PAUSE, "--deadline", "30m", "--then", "explode"), "then: 'explode' is not what can follow a deadline"),
    ((*PAUSE, "--mode", "quiesce", "--deadline", "30m", "--then", "quiesce"), "then: this is a quiesce already"),
    (("pause", "--dry-run", "--mode", "stop"), "mode:"),
    (("workers", "forget"), "NODENAME"),
    (("holds", "--url", "u", "show"), "after"),
    (("holds", "show", "--scope", "nope"), "scope:"),
    (("workers", "forget", "x"), "reason:"),
    (("audit", "--limit", "0"), "--limit"),
    (("audit", "--since", "when"), "since:"),
    (("db", "upgrade"), "SLUICEGATE_DATABASE_URL"),
    (("keys", "create"), "SLUICEGATE_SIGNING_KEY_FILE"),
    (("token", "create", "alice"), "SLUICEGATE_DATABASE_URL"),
]


@pytest.mark.parametrize(("args", "words"), BAD, ids=lambda value: "" if isinstance(value, str) else " ".join(value))
def test_each_bad_input_is_one_line_and_asks_nothing(control: Stub, args: tuple[str, ...], words: str) -> None:
    assert_refused(call(control, *args), Exit.USAGE, words)
    assert not control.asked


@pytest.mark.parametrize(("args", "words"), BAD, ids=lambda value: "" if isinstance(value, str) else " ".join(value))
def test_with_json_the_same_is_one_error_object(control: Stub, args: tuple[str, ...], words: str) -> None:
    result = call(control, *args, "--json")
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    error = json.loads(result.stderr)["error"]
    assert error["code"] in ("invalid_input", "invalid_setting")
    assert words.partition(":")[0].lstrip("-") in f"{error.get('field')} {error['message']}"


@pytest.mark.parametrize("verb", [PAUSE, RESUME, ("status",), ("holds",), ("workers",), ("audit",)])
def test_without_an_address_the_setting_is_named(verb: tuple[str, ...]) -> None:
    assert_refused(call(None, *verb), Exit.USAGE, "SLUICEGATE_URL: is not set", ".sluicegate/env")


def test_an_address_and_a_token_that_are_missing_are_told_at_once() -> None:
    result = call(None, "status", SLUICEGATE_TOKEN=None)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, ""), result.output
    names = ["SLUICEGATE_URL", "SLUICEGATE_TOKEN"]
    assert [line.split(": is not set")[0] for line in result.stderr.splitlines()[:-1]] == [
        f"sluicegate: {name}" for name in names
    ]
    told = json.loads(call(None, "status", "--json", SLUICEGATE_TOKEN=None).stderr)
    assert [setting["field"] for setting in told["settings"]] == names


@pytest.mark.parametrize("verb", [PAUSE, RESUME, ("status",), ("holds",), ("workers",), ("audit",)])
def test_without_a_token_the_setting_is_named(control: Stub, verb: tuple[str, ...]) -> None:
    assert_refused(call(control, *verb, SLUICEGATE_TOKEN=None), Exit.NOT_ALLOWED, "SLUICEGATE_TOKEN")


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "not_authenticated", Exit.NOT_ALLOWED),
        (403, "not_allowed", Exit.NOT_ALLOWED),
        (404, "not_found", Exit.REFUSED),
        (409, "refused", Exit.REFUSED),
        (422, "invalid_input", Exit.REFUSED),
        (503, "unavailable", Exit.UNREACHABLE),
        (503, "not_migrated", Exit.UNREACHABLE),
        (503, "database_too_new", Exit.UNREACHABLE),
        (500, "error", Exit.UNREACHABLE),
    ],
)
def test_each_refusal_of_the_control_plane_has_its_exit_code(
    control: Stub, status: int, code: str, exit_code: Exit
) -> None:
    control.answer(f"POST {SYSTEM}", answers.error(code, "what went wrong", "mode"), status=status)
    assert_refused(call(control, *PAUSE), exit_code, "what went wrong")
    result = call(control, *PAUSE, "--json")
    assert result.exit_code == exit_code
    error = json.loads(result.stderr)["error"]
    assert error["message"].endswith("what went wrong")
    assert error["code"] == (code if status != 500 else "unavailable")


def test_nobody_at_the_address_is_exit_8_and_names_it() -> None:
    result = call(None, "status", "--url", "http://127.0.0.1:1")
    assert_refused(result, Exit.UNREACHABLE, "http://127.0.0.1:1")


def test_the_token_may_come_from_a_file(control: Stub, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("sg_from-a-file\n")
    assert call(control, "status", "--token-file", str(file)).exit_code == Exit.OK
    assert control.asked[0][2] == "Bearer sg_from-a-file"


def test_no_option_takes_a_token_itself() -> None:
    """What stands in argv, every user of the machine can read."""
    names = {name for verb in verbs(sluicegate) for option in verb.params for name in option.opts}
    assert {name for name in names if "token" in name} == {"--token-file"}


def verbs(group: click.Group) -> Iterator[click.Command]:
    for verb in group.commands.values():
        yield verb
        if isinstance(verb, click.Group):
            yield from verbs(verb)


def test_status_shows_the_order_the_figures_and_each_worker(control: Stub) -> None:
    late = answers.worker("w2@host", state="pausing", appliedVersion=6, running=[answers.task()], reserved=4)
    silent = answers.worker("w3@host", state="unknown", appliedVersion=6)
    stale = answers.worker("w4@host", stale=True, refused={"bad_signature": 2})
    control.answer(f"GET {SYSTEM}", answers.state(running=1, isDrained=False))
    control.answer("GET /api/workers", {"workers": [answers.worker(), late, silent, stale]})
    lines = call(control, "status").stdout.splitlines()
    assert lines[:3] == [
        "PAUSED drain — version 7 — by alice since 2026-01-31 09:30:00Z: deploying",
        "not drained: running 1, stale 0, queued 12 (broker)",
        "workers: 2 of 4 have applied version 7",
    ]
    assert [line.split()[0] for line in lines[3:8]] == ["WORKER", "w3@host", "w2@host", "w1@host", "w4@host"]
    assert lines[5].split() == ["w2@host", "pausing", "6", "7", "1", "4", "prefork", "2026-01-31", "09:30:00Z"]
    assert [line.split()[:2] for line in lines[8:]] == [
        ["warning:", "w3@host"],
        ["warning:", "w4@host"],
        ["warning:", "w4@host"],
    ]


def test_status_of_a_fleet_that_runs(control: Stub) -> None:
    control.answer(f"GET {SYSTEM}", answers.state(paused=False))
    assert call(control, "status").stdout.startswith("RUNNING — version 7\nrunning 0")


def test_status_lists_holds_that_the_headline_does_not_tell(control: Stub) -> None:
    scoped = answers.hold(scope="queue:mail", reason="provider is down")
    control.answer(f"GET {SYSTEM}", answers.state(paused=False, holds=[scoped]))
    out = call(control, "status").stdout
    assert out.startswith("RUNNING, with 1 scoped hold — version 7")
    assert "queue:mail" in out


def test_what_others_wrote_cannot_steer_the_terminal(control: Stub) -> None:
    """A reason may hold escape sequences and line breaks; they are shown, not obeyed."""
    nasty = "\x1b[2J\nPAUSED\u202e"
    control.answer(f"GET {SYSTEM}", answers.state(holds=[answers.hold(reason=nasty)]))
    for verb in ("status", "holds"):
        out = call(control, verb).stdout
        assert "\\x1b[2J\\nPAUSED\\u202e" in out
        assert "\x1b" not in out


@pytest.mark.parametrize("verb", ["status", "holds", "workers", "audit"])
def test_json_is_what_the_control_plane_sent(control: Stub, verb: str) -> None:
    expected: dict[str, Any] = {
        "status": answers.state() | {"workers": [answers.worker()]},
        "holds": {"version": 7, "holds": [answers.hold()]},
        "workers": {"workers": [answers.worker()]},
        "audit": {"events": [answers.event()], "total": 9, "limit": 100, "offset": 0},
    }
    assert json.loads(call(control, verb, "--json").stdout) == expected[verb]


def test_audit_filters_are_sent_and_the_total_is_told(control: Stub) -> None:
    result = call(control, "audit", "--actor", "alice", "--since", "2030-01-01T00:00:00Z", "--limit", "1")
    assert result.stdout.splitlines()[-1] == "1 of 9"
    route = control.asked[0][0]
    assert "actor=alice" in route
    assert "since=2030-01-01T00%3A00%3A00.000000Z" in route


def test_forget_sends_the_reason(control: Stub) -> None:
    result = call(control, "workers", "forget", "w1@host", "--reason", "scrapped")
    assert result.stdout == "forgotten: w1@host\n"
    assert control.asked[0][1] == {"reason": "scrapped"}


def test_a_holds_story_tells_what_ran_then_and_what_became_of_it(control: Stub) -> None:
    """R-C2, R-C5. Without an id: that of the manual hold of the scope."""
    told = call(control, "holds", "show").stdout
    assert told == call(control, "holds", "show", answers.hold()["id"]).stdout
    assert told.splitlines() == [
        "global drain (manual) — by alice since 2026-01-31 09:30:00Z: deploying",
        "at 2026-01-31 09:30:00Z there waited: gpu 12",
        "WORKER   STATE    RUNNING  RESERVED  SEEN",
        "w1@host  running  1        3         2026-01-31 09:30:00Z",
        "WORKER   TASK         ID  QUEUE  STARTED               FATE",
        "w1@host  tasks.train  t1  gpu    2026-01-31 09:30:00Z  finished",
        "w2@host  tasks.train  t2  gpu    2026-01-31 09:30:00Z  lost: it was replaced",
        "version 7: drained after 4.2s: finished 1, lost 1",
    ]


def test_a_story_says_what_is_not_known_and_what_has_not_ended(control: Stub) -> None:
    under_way = {"version": 8, "begunAt": answers.AT, "endedAt": None, "ending": None, "receipt": None}
    control.answer("GET /api/holds/h", answers.story(at_pause=False, tasks=[], drains=[under_way]))
    told = call(control, "holds", "show", "h").stdout
    assert "not known" in told
    assert "version 8: under way" in told


def test_the_story_of_a_scope_that_nobody_holds_is_refused(control: Stub) -> None:
    result = call(control, "holds", "show", "--scope", "queue:reports")
    assert_refused(result, Exit.REFUSED, "no manual hold is in force on queue:reports")


def test_a_dry_run_asks_for_no_change_and_needs_no_reason(control: Stub) -> None:
    """R-C6: only the preview is asked for."""
    result = call(control, "pause", "--dry-run", "--scope", "host:a")
    assert result.exit_code == Exit.OK
    assert [route for route, _, _ in control.asked] == [f"GET {SYSTEM}/preview?scope=host%3Aa"]
    assert result.stdout.splitlines() == [
        "nothing was changed; a hold on global would stop 1 worker; running 1",
        "waiting would stay: gpu 12",
        "drained: in about 48s",
        "WORKER   STATE    RUNNING  RESERVED",
        "w1@host  running  1        3",
        "WORKER   TASK        ID  QUEUE  RUNS FOR  USUALLY",
        "w1@host  tasks.work  t1  gpu    12s       1m00s",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"etaSeconds": None, "withoutEstimate": ["tasks.work"]}, "no estimate: nothing seen so far tells"),
        ({"etaSeconds": None}, "a worker is silent"),
        ({"etaSeconds": 0.0, "running": 0}, "drained: at once"),
        ({"queues": None}, "what waits is not known"),
        ({"heldBy": ["budget"]}, "held already by: budget"),
        ({"warnings": ["w2 does not enforce it"]}, "warning: w2 does not enforce it"),
    ],
)
def test_a_dry_run_says_what_it_cannot_know(control: Stub, changes: dict[str, Any], words: str) -> None:
    control.answer(f"GET {SYSTEM}/preview", answers.preview(**changes))
    assert words in call(control, "pause", "--dry-run").stdout


WORKING: dict[str, Any] = {"running": 1, "isDrained": False}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "INTERVAL_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_wait_shows_each_change_once_and_ends_drained(control: Stub) -> None:
    busy = {"workers": [answers.worker(state="pausing", appliedVersion=6, running=[answers.task()])]}
    control.answer("GET /api/workers", busy, busy, busy, {"workers": [answers.worker()]})
    control.answer(f"GET {SYSTEM}", *[answers.state(**WORKING)] * 3, answers.state())
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == Exit.OK
    headline, progress, end = result.stdout.splitlines()
    assert headline.startswith("PAUSED")
    assert "running 1" in progress
    assert "yet to acknowledge: w1@host" in progress
    assert "about 1m00s left" in progress
    assert end.startswith("drained after")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [404, 503])
def test_wait_goes_on_without_an_estimate_where_nobody_can_give_one(control: Stub, status: int) -> None:
    """An older control plane has no preview, and one whose Redis is away cannot answer it."""
    control.answer(f"GET {SYSTEM}/preview", answers.error("x", "no"), status=status)
    busy = {"workers": [answers.worker(running=[answers.task()])]}
    control.answer("GET /api/workers", busy, {"workers": [answers.worker()]})
    control.answer(f"GET {SYSTEM}", answers.state(**WORKING), answers.state())
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == Exit.OK
    assert "no estimate yet" in result.stdout


@pytest.mark.usefixtures("quick")
def test_wait_ends_at_the_timeout_with_exit_3_and_what_is_left(control: Stub) -> None:
    control.answer("GET /api/workers", {"workers": [answers.worker(running=[answers.task()])]})
    control.answer(f"GET {SYSTEM}", answers.state(**WORKING))
    result = call(control, *PAUSE, "--wait", "--timeout", "1s")
    assert result.exit_code == Exit.NOT_DRAINED
    assert "still running: tasks.work[t1] on w1@host" in result.stdout
    assert result.stdout.endswith("the pause stands\n")


@pytest.mark.usefixtures("quick")
def test_wait_ends_with_exit_4_where_a_worker_was_lost(control: Stub) -> None:
    control.answer(
        "GET /api/workers",
        {"workers": [answers.worker(running=[answers.task()])]},
        {"workers": [answers.worker(incarnation="2")]},
    )
    control.answer(f"GET {SYSTEM}", answers.state(**WORKING), answers.state())
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == Exit.WORKER_LOST
    assert "lost: w1@host was replaced by a new incarnation with work on it: tasks.work[t1]" in result.stdout


@pytest.mark.usefixtures("quick")
def test_wait_ends_with_exit_3_where_the_pause_was_lifted(control: Stub) -> None:
    control.answer(f"GET {SYSTEM}", answers.state(paused=False, version=8))
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == Exit.NOT_DRAINED
    assert "lifted meanwhile (version 8)" in result.stdout


@pytest.mark.usefixtures("quick")
def test_wait_outlives_a_control_plane_that_restarts(control: Stub) -> None:
    away = (503, answers.error("unavailable", "Postgres: no answer"))
    control.routes["GET /api/workers"] = [away, away, (200, {"workers": [answers.worker()]})]
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == Exit.OK
    assert result.stdout.count("waiting: Postgres") == 1


@pytest.mark.usefixtures("quick")
def test_wait_gives_up_with_exit_8_where_nobody_answers(control: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "PATIENCE_S", 0.05)
    control.answer("GET /api/workers", answers.error("unavailable", "Postgres: no answer"), status=503)
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == Exit.UNREACHABLE
    assert "the pause stands" in result.stderr


@pytest.mark.usefixtures("quick")
def test_wait_with_json_prints_one_object(control: Stub) -> None:
    result = call(control, *PAUSE, "--wait", "--json")
    assert result.exit_code == Exit.OK
    body = json.loads(result.stdout)
    assert body["wait"]["outcome"] == "drained"
    assert body["system"]["version"] == 7


def test_ctrl_c_during_a_wait_says_that_the_pause_stands(control: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wait, "wait", interrupted)
    result = call(control, *PAUSE, "--wait")
    assert result.exit_code == 130
    assert "the pause stands (version 7)" in result.stderr


def test_an_unforeseen_error_is_one_line_and_a_traceback_only_on_demand(
    control: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr("sluicegate.control.cli.session.connect", broken)
    assert_refused(call(control, "status"), 1, "unexpected KeyError")
    result = CliRunner().invoke(sluicegate, ["--traceback", "status"])
    assert "Traceback" in result.stderr


def test_a_server_verb_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("sluicegate.control.store.migrate", "alembic"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "alembic", None)
    monkeypatch.delattr("sluicegate.control.store.migrate", raising=False)
    assert_refused(call(None, "db", "current"), Exit.USAGE, "pip install 'sluicegate[control]'")


def test_a_package_that_lacks_a_module_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing the extra again would change nothing; the line names what is missing, and to whom."""
    rooms = ("sluicegate.control.store.migrate", "alembic", "mako")
    for name in [name for name in sys.modules if name.startswith(rooms)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mako", None)
    monkeypatch.delattr("sluicegate.control.store.migrate", raising=False)
    result = call(None, "db", "current")
    assert_refused(result, Exit.USAGE, "alembic, which the control extra brings, does not find the module 'mako")
    assert "--force-reinstall" in result.stderr


def test_keys_are_made_once_and_shown_again(tmp_path: Path) -> None:
    file = tmp_path / "signing.key"
    made = call(None, "keys", "create", str(file))
    assert made.exit_code == Exit.OK
    assert len(made.stdout.strip()) == 44
    assert file.stat().st_mode & 0o777 == 0o600
    assert call(None, "keys", "show", SLUICEGATE_SIGNING_KEY_FILE=str(file)).stdout == made.stdout
    assert json.loads(call(None, "keys", "show", str(file), "--json").stdout)["publicKey"] == made.stdout.strip()
    assert_refused(call(None, "keys", "create", str(file)), Exit.REFUSED, "never overwritten")


def test_status_warns_of_a_worker_whose_clock_is_off(control: Stub) -> None:
    """Countdowns and redelivery go by it. A few seconds are nothing to speak of; of a silent worker none is known."""
    crowd = [
        answers.worker("w1@a", clockAheadS=7200.4),
        answers.worker("w2@a", clockAheadS=-3725.0),
        answers.worker("w3@a", clockAheadS=1.5),
        answers.worker("w4@a", clockAheadS=7200.4, state="unknown"),
    ]
    control.answer("GET /api/workers", {"workers": crowd})
    lines = [line for line in call(control, "status").stdout.splitlines() if "clock" in line]
    assert [line.split(":")[1] for line in lines] == [
        " w1@a has a clock that is 2h00m ahead",
        " w2@a has a clock that is 1h02m behind",
    ]


def test_what_is_set_aside_is_told_where_there_is_any(control: Stub) -> None:
    assert "set aside" not in call(control, "status").stdout
    control.answer(f"GET {SYSTEM}", answers.state(setAside=13, setAsideByQueue={"mail": 10, "celery": 3}))
    assert "queued 12, set aside 13 (celery 3, mail 10) (broker)" in call(control, "status").stdout
    queues = [{"name": "mail", "ready": 0, "setAside": 10}, {"name": "celery", "ready": 2, "setAside": 0}]
    control.answer(f"GET {SYSTEM}/preview", answers.preview() | {"queues": queues})
    assert "set aside already: mail 10\n" in call(control, *PAUSE, "--dry-run").stdout
