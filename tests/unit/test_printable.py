"""Text from outside: whatever it is, it forges no line, steers no terminal, and shows no password."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.cli.render import terminal
from sluicegate.control.links.outages import Outage
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas import settings
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.printable import PrintableFormatter, printable, printable_json
from sluicegate.schemas.redis_urls import Place, Server, place_of
from sluicegate.schemas.scopes import GLOBAL
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers import log

STEERING = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF)] + [*"\u202a\u202e\u2066"]
LINE = "2026-01-01 00:00:00 WARNING sluicegate: resumed at version 9.9"
TEXTS = st.text(st.one_of(st.sampled_from(STEERING), st.characters(exclude_categories=[])), max_size=40)
FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def is_safe(text: str) -> bool:
    """Nothing in it ends a line, steers a terminal or turns the text around; and UTF-8 can spell it."""
    return not any(unicodedata.category(char) in FORBIDDEN_CATEGORIES for char in text)


@contextmanager
def logged(name: str, formatter: logging.Formatter | None = None) -> Iterator[io.StringIO]:
    """What a plain handler writes of that logger's lines."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter or logging.Formatter("%(message)s"))
    known = logging.getLogger(name)
    known.addHandler(handler)
    try:
        yield written
    finally:
        known.removeHandler(handler)


@given(TEXTS)
def test_any_text_becomes_one_line_that_steers_nothing(text: str) -> None:
    """C0, DEL, C1, line ends, bidi overrides and halves of surrogate pairs; what is printable stays as it is."""
    shown = printable(text)
    assert is_safe(shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert text != shown or text.isprintable()


def test_languages_stay_readable() -> None:
    assert printable("naïve — “日本” 🙂 ключ") == "naïve — “日本” 🙂 ключ"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@given(JSON, st.sampled_from([None, 2]))
def test_json_means_the_same_and_has_only_printable_characters(value: object, indent: int | None) -> None:
    """U+009B begins a control sequence on terminals that take C1, DEL rubs out; `json` leaves both as they are."""
    spelled = printable_json(value, indent=indent)
    assert all(is_safe(line) for line in spelled.split("\n"))
    assert "\n" not in spelled or indent is not None
    assert json.loads(spelled) == value


@given(TEXTS)
def test_what_json_prints_for_an_operator_is_safe(text: str) -> None:
    """`--json`, through the command's own way out."""
    shows = click.Command("x", callback=lambda: terminal.say_json({"reason": text}))
    result = CliRunner().invoke(shows, [])
    assert all(is_safe(line) for line in result.stdout.split("\n"))
    assert json.loads(result.stdout) == {"reason": text}


def in_a_worker(text: str) -> None:
    log.logger("sluicegate.workers.test").warning("sluicegate: paused (%s) at version %s: %s", "drain", "1.2", text)


def in_the_control_plane(text: str) -> None:
    Outage("heartbeats").begin(RuntimeError(text))


@pytest.mark.parametrize(
    ("name", "say"), [("sluicegate.workers.test", in_a_worker), ("sluicegate.control", in_the_control_plane)]
)
@given(text=TEXTS)
def test_a_reason_forges_no_line_in_a_log(name: str, say: Callable[[str], None], text: str) -> None:
    """Both halves, and whatever handler the process has that embeds us."""
    with logged(name) as written:
        say(f"{text}\n{LINE}\x1b[2J")
    (line,) = written.getvalue().split("\n")[:-1]
    assert is_safe(line)


def test_a_line_is_said_to_come_from_where_it_was_said_and_keeps_its_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Handlers that group lines by their template, or show the place, see what they saw before."""
    edition = Edition(1, 2)
    log.logger("sluicegate.workers.test").warning("%s at %s: %d of %g, %s", GLOBAL, edition, 3, 0.5, uuid4)
    (record,) = caplog.records
    assert record.pathname == __file__
    assert record.funcName == "test_a_line_is_said_to_come_from_where_it_was_said_and_keeps_its_arguments"
    assert record.msg == "%s at %s: %d of %g, %s"
    assert record.args is not None
    assert record.getMessage().startswith("global at 1.2: 3 of 0.5, ")


@given(TEXTS)
def test_where_the_log_is_ours_other_libraries_and_tracebacks_forge_no_line_either(text: str) -> None:
    """`sluicegate serve`: a traceback keeps its lines, and none of them can pass for a record."""
    with logged("somebody.else", PrintableFormatter("%(levelname)s: %(message)s")) as written:
        try:
            raise RuntimeError(f"{text}\n{LINE}")
        except RuntimeError:
            logging.getLogger("somebody.else").warning("%s\n%s", text, LINE, exc_info=sys.exc_info())
    first, *others = written.getvalue().split("\n")[:-1]
    assert first.startswith("WARNING: ")
    assert all(line.startswith("  | ") for line in others)
    assert all(is_safe(line) for line in (first, *others))


BEHIND = "has an `@` behind its host: in a password, write `/`, `?`, `#` and `@` as %2F, %3F, %23, %40"
PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(PASSWORDS)
def test_no_piece_of_a_database_password_passes_for_a_host(password: str) -> None:
    """However it is written: it is the password as a whole, or the setting is refused without a word of it."""
    raw = f"postgresql://me:{password}@db.invalid:5432/name"
    try:
        url = parse_url(raw)
    except InvalidSetting:
        said = refusal(raw)
        assert said in {refusal("postgresql://me:a@b@db.invalid/name"), refusal("no url")}
        return
    assert (url.username, url.host, url.port, url.database) == ("me", "db.invalid", 5432, "name")


def refusal(url: str) -> str:
    with pytest.raises(InvalidSetting) as caught:
        parse_url(url)
    return str(caught.value)


def redis_at(url: str) -> Place:
    return place_of(url, settings.REDIS_URL, None, settings.REDIS_MASTER_NAME)


with pytest.raises(InvalidSetting) as no_url:
    redis_at("elsewhere")
NO_URL = str(no_url.value)


@given(PASSWORDS)
def test_nor_does_a_piece_of_a_redis_password(password: str) -> None:
    """redis-py and kombu read a URL as the standard library does: a `/` in a password would end the host."""
    url = f"redis://me:{password}@db.invalid:6379/0"
    try:
        found = redis_at(url)
    except InvalidSetting as error:
        said = str(error)
        # One of two fixed lines: nothing of the URL is in either.
        assert said in ("SLUICEGATE_REDIS_URL: " + BEHIND, NO_URL)
        return
    assert isinstance(found, Server)
    assert (found.host, found.port) == ("db.invalid", 6379)
