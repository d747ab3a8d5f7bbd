"""Chains, groups and chords with a pause in the middle of them: the right result, from each part run once (R-B2)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import chain, chord, group

from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.long_runs import MODULE
from tests.fleet.waiting import until
from tests.marks import long

RESULTS_DATABASE = 7
"""Of the stack's Valkey; nothing else uses it."""

DONE_WITHIN_S = 40.0


@pytest.fixture
def results(stack: Stack) -> Iterator[str]:
    """A result backend, empty before and after."""
    url = urlsplit(stack.environ[settings.BROKER_URL.name])._replace(path=f"/{RESULTS_DATABASE}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


def part(fleet: Fleet, seq: int, seconds: float, *, is_first: bool = True) -> Any:
    """A task that gives back what came before it and `seq`; the first of its chain is told that nothing did."""
    found: list[int] = []
    before = (found,) if is_first else ()
    return fleet.sender.signature("fleet.gather", args=before, kwargs={"seq": seq, "seconds": seconds})


def line(fleet: Fleet, numbers: range, seconds: float) -> Any:
    """A chain of these, one after the other."""
    parts = [part(fleet, n, seconds, is_first=n == numbers.start) for n in numbers]
    return chain(*parts, app=fleet.sender)


def starts(fleet: Fleet) -> Counter[int]:
    """How often each part has started."""
    return Counter(record.seq for record in fleet.read_records() if record.event == "start")


@pytest.mark.parametrize(("pool", "acks_late"), [("prefork", False), long("prefork", True), long("threads", False)])
def test_s1_s5_s6_canvas_across_two_pauses_gives_its_result_once(
    stack: Stack, results: str, pool: str, acks_late: bool
) -> None:
    """S1, S5, S6: a chain, a group, a chord and a chord of chains at once, with prefetched parts at each pause."""
    with Fleet(stack, pool=pool, acks_late=acks_late, environ={fleet_app.RESULTS: results}) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        parts = [part(fleet, n, 0.05) for n in range(100, 120)]
        header = [part(fleet, n, 0.05) for n in range(200, 220)]
        chains = [line(fleet, range(n, n + 3), 0.05) for n in (400, 410, 420)]
        answers = {
            "chain": line(fleet, range(6), 0.05).apply_async(),
            "group": group(parts, app=fleet.sender).apply_async(),
            "chord": chord(header, part(fleet, 300, 0.05, is_first=False), app=fleet.sender).apply_async(),
            "chains": chord(chains, part(fleet, 500, 0.05, is_first=False), app=fleet.sender).apply_async(),
        }
        for count in (6, 30):
            fleet.wait_started(count)
            fleet.pause()
            fleet.wait_acknowledged()
            until("nothing runs", lambda: not fleet.running())
            assert not all(answer.ready() for answer in answers.values()), "the pause came in the middle"
            fleet.stays_still(for_s=0.3)
            fleet.resume()
        given = {name: answer.get(timeout=DONE_WITHIN_S) for name, answer in answers.items()}
        until("the broker knows it", lambda: not fleet.redis.hlen("unacked") and not fleet.depth())
        assert given == {
            "chain": [*range(6)],
            "group": [[n] for n in range(100, 120)],
            "chord": [*range(200, 220), 300],
            "chains": [*range(400, 403), *range(410, 413), *range(420, 423), 500],
        }
        numbers = [*range(6), *range(100, 120), *given["chord"], *given["chains"]]
        assert starts(fleet) == Counter(numbers)


def test_s1_s5_s6_what_a_drained_task_leads_to_waits_for_the_resume_in_a_new_life_too(
    stack: Stack, results: str
) -> None:
    """S1, S5, S6: a chain's next link and a chord's body, sent by tasks that end in the pause, start after it, once."""
    with Fleet(stack, environ={fleet_app.RESULTS: results}) as fleet:
        fleet.watch()
        worker = fleet.start(slots=3)
        fleet.wait_open()
        header = [part(fleet, n, 1.0) for n in (10, 11)]
        linked = line(fleet, range(2), 1.0).apply_async()
        joined = chord(header, part(fleet, 12, 0.0, is_first=False), app=fleet.sender).apply_async()
        fleet.wait_started(3)
        fleet.pause()
        fleet.wait_acknowledged()
        until("the link and the body wait in the queue", lambda: not fleet.running() and fleet.depth() == 2)
        assert fleet.started() == {0, 10, 11}
        worker.kill()
        fleet.restart()
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=0.3)
        assert fleet.depth() == 2
        fleet.resume()
        assert linked.get(timeout=DONE_WITHIN_S) == [0, 1]
        assert joined.get(timeout=DONE_WITHIN_S) == [10, 11, 12]
        assert starts(fleet) == Counter([0, 1, 10, 11, 12])


@pytest.mark.parametrize("acks_late", [long(False), True], ids=["early", "late"])
def test_s5_s6_a_chord_of_fifty_yielding_tasks_across_five_quiesces_calls_back_once(
    stack: Stack, results: str, acks_late: bool
) -> None:
    """S5, S6: its parts stop in mid-work and go on elsewhere; each item is done once, and the callback sees all."""
    items = 10
    with Fleet(stack, acks_late=acks_late, environ={fleet_app.RESULTS: results}) as fleet:
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, slots=4, module=MODULE, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        header = [fleet.sender.signature("fleet.steps_result", args=(n, items, 0.05)) for n in range(50)]
        answer = chord(header, part(fleet, 50, 0.0, is_first=False), app=fleet.sender).apply_async()
        for cycle in range(5):
            done = 50 * items * (cycle + 1) // 7
            until(f"{done} items are done", lambda done=done: len(fleet.items()) >= done)  # type: ignore[misc]
            fleet.pause(mode="quiesce")
            fleet.wait_acknowledged()
            until("all parts have given their slots back", lambda: not any(w.running for w in fleet.words()))
            before = len(fleet.items())
            assert not answer.ready()
            fleet.stays_still(for_s=0.2)
            assert len(fleet.items()) == before
            fleet.resume()
        assert answer.get(timeout=DONE_WITHIN_S) == [*range(51)]
        until("the broker knows it", lambda: not fleet.redis.hlen("unacked") and not fleet.depth())
        runs = starts(fleet)
        times = Counter((done.seq, done.item) for done in fleet.items())
        yields = sum(record.event == "yield" for record in fleet.read_records())
    assert times == {(seq, item): 1 for seq in range(50) for item in range(items)}
    assert runs[50] == 1
    assert yields == runs.total() - 51
    assert yields >= 20, "the quiesces came in the middle of the parts"


EAGER = """
import sys
from celery import Celery, chain, chord, group
import sluicegate

app = Celery("eager", broker="memory://", backend="cache+memory://")
app.conf.update(task_always_eager=True, task_store_eager_result=True)

@app.task(on_quiesce="yield")
def add(*numbers):
    sluicegate.checkpoint()
    return sum(numbers[0] if isinstance(numbers[0], list) else numbers)

@app.task(bind=True, max_retries=1)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=60)
    return self.request.is_eager

if sys.argv[1:] == ["install"]:
    sluicegate.install(app)

print(add.delay(1, 2).get(), chain(add.s(1, 2), add.s(3)).delay().get(), again.delay().get())
print(group(add.s(n, n) for n in range(3)).delay().get(), chord([add.s(1, 1), add.s(2, 2)])(add.s()).get())
"""


@pytest.mark.parametrize("environ", [{}, {"SLUICEGATE_REDIS_URL": "", "SLUICEGATE_PUBLIC_KEYS": ""}])
def test_eager_tasks_know_nothing_of_the_gate(stack: Stack, environ: dict[str, str]) -> None:
    """With `task_always_eager` an app runs its tasks itself, in a paused fleet and without any setting."""
    with Fleet(stack, environ=environ) as fleet:
        fleet.pause("everything else stands still")
        plain, installed = (fleet.run([sys.executable, "-c", EAGER, *more]) for more in ([], ["install"]))
    assert (plain.stdout, plain.returncode) == ("3 6 True\n[0, 2, 4] 6\n", 0), plain.stderr
    assert (installed.stdout, installed.stderr, installed.returncode) == (plain.stdout, plain.stderr, 0)
