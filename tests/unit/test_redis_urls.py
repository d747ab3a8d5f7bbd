"""What names sentinels, what is refused, and which servers are none that can be used."""

from __future__ import annotations

import pytest

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.redis_urls import Place, Sentinels, place_of, refuse_other_kinds
from sluicegate.schemas.settings import REDIS_MASTER_NAME, REDIS_URL


def place(url: str, name: str | None = "m") -> Place:
    return place_of(url, REDIS_URL, name, REDIS_MASTER_NAME)


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h", "unix:///tmp/x", "http://h", ""])
def test_what_names_no_sentinel_is_left_as_it_is(url):
    assert place(url, None) == url


def test_every_sentinel_is_known_with_its_port():
    assert place("sentinel://a:1/3;sentinel://b/3; sentinel://[::1]:2 ;") == Sentinels(
        addresses=(("a", 1), ("b", 26379), ("::1", 2)), master_name="m", database=3
    )


def test_user_and_password_may_stand_in_one_entry_or_in_each_and_are_decoded():
    for url in ("sentinel://u:p%40@a;sentinel://b", "sentinel://u:p%40@a;sentinel://u:p%40@b"):
        found = place(url)
        assert isinstance(found, Sentinels)
        assert (found.username, found.password) == ("u", "p@")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://", "form"),
        ("sentinel://a:x", "form"),
        ("sentinel://a:0", "form"),
        ("sentinel://a:99999", "form"),
        ("sentinel://a;b:1", "form"),
        ("sentinel://a;redis://b", "form"),
        ("sentinel://a/x", "database"),
        ("sentinel://a/0;sentinel://b/1", "more than one database"),
        ("sentinel://:secret@a;sentinel://:other@b", "more than one password"),
        ("sentinel://v@a;sentinel://w@b", "more than one user"),
        ("sentinel://a?master_name=m", "options"),
    ],
)
def test_what_is_wrong_names_the_setting_and_shows_no_password(url, says):
    with pytest.raises(InvalidSetting, match=says) as caught:
        place(url)
    assert caught.value.field == REDIS_URL.name
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", [None, ""])
def test_sentinels_without_the_name_of_a_master_are_refused(name):
    with pytest.raises(InvalidSetting) as caught:
        place("sentinel://a", name)
    assert caught.value.field == REDIS_MASTER_NAME.name


@pytest.mark.parametrize(
    "hello",
    [{b"mode": b"cluster"}, {"mode": "cluster"}, [b"server", b"redis", b"mode", b"cluster"], {b"mode": b"sentinel"}],
)
def test_a_cluster_and_a_sentinel_are_not_what_is_wanted(hello):
    with pytest.raises(InvalidSetting, match=r"Cluster|sentinel"):
        refuse_other_kinds(hello, "SLUICEGATE_REDIS_URL")


@pytest.mark.parametrize("hello", [{b"mode": b"standalone"}, [b"mode", b"standalone"], [b"mode"], {}, b"OK", None])
def test_every_other_answer_is_let_through(hello):
    refuse_other_kinds(hello, "SLUICEGATE_REDIS_URL")
