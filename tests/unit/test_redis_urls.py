"""What names sentinels, what is refused, and which servers are none that can be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection

from sluicegate.control.links.broadcast import Broadcast
from sluicegate.control.links.broker import Broker, kombu_url
from sluicegate.control.process.compose import _servers
from sluicegate.schemas.adapters.redis_client import connect, refuse_unusable, tls_arguments
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.redis_urls import Place, Sentinels, Server, Tls, place_of, refuse_other_kinds, server_at
from sluicegate.schemas.settings import REDIS_MASTER_NAME, REDIS_URL

SECRET = "s3cr3t"


def place(url: str, name: str | None = "m") -> Place:
    return place_of(url, REDIS_URL, name, REDIS_MASTER_NAME)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://", Server()),
        ("redis://:6380", Server(port=6380)),
        ("redis:///3", Server(database=3)),
        ("redis://h", Server(host="h")),
        ("redis://u:p%2F%40@[::1]:1/2", Server(host="::1", port=1, database=2, username="u", password="p/@")),
        ("redis://:p@h?db=4&socket_timeout=5", Server(host="h", database=4, password="p")),
        ("redis://h/1?username=u&password=p", Server(host="h", database=1, username="u", password="p")),
        ("REDIS://h?client_name=me&protocol=3", Server(host="h", client_name="me", protocol=3)),
        ("redis://u:p@h?credential_provider=a.b:C", Server(host="h", credential_provider="a.b:C")),
        ("rediss://h", Server(host="h", tls=Tls(verify="required"))),
        ("redis://h?ssl_cert_reqs=none", Server(host="h", tls=Tls(verify="none"))),
        ("unix:///tmp/a%20b@c?db=2", Server(path="/tmp/a b@c", database=2)),
        ("unix://:p@/tmp/x", Server(path="/tmp/x", password="p")),
        ("redis+socket:///tmp/x?virtual_host=2", Server(path="/tmp/x", database=2)),
    ],
)
def test_a_server_is_found_in_either_spelling(url, found):
    assert place(url, None) == found


@pytest.mark.parametrize("word", ["none", "optional", "required"])
def test_what_tls_verifies_is_said_in_three_spellings(word):
    for spelling in (word, word.upper(), f"CERT_{word.upper()}"):
        found = place(f"rediss://h/0?ssl_cert_reqs={spelling}", None)
        assert isinstance(found, Server)
        assert found.tls == Tls(verify=word)


def test_every_option_of_tls_is_heard():
    found = place(
        "rediss://h?ssl_ca_certs=/a&ssl_ca_path=/b&ssl_ca_data=c&ssl_certfile=/d&ssl_keyfile=/e&ssl_password=f"
        "&ssl_ciphers=g&ssl_check_hostname=False&ssl_min_version=771",
        None,
    )
    assert isinstance(found, Server)
    assert found.tls == Tls(
        verify="required",
        checks_host=False,
        ca_file="/a",
        ca_folder="/b",
        ca_data="c",
        certificate_file="/d",
        key_file="/e",
        key_password="f",
        ciphers="g",
        min_version=771,
    )
    assert "'f'" not in repr(found)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a URL"),
        ("http://h", "not a URL"),
        ("h:6379", "not a URL"),
        ("redis://:secret/x@h/0", "behind its host"),
        ("redis://:secret#x@h/0", "behind its host"),
        ("redis://h:99999", "not a URL"),
        ("redis://[h", "not a URL"),
        ("redis://a..b", "not a URL"),
        ("redis://%00", "not a URL"),
        ("redis://h/0#secret", "not a URL"),
        ("redis://:1?secret=x@h/0", "behind its host"),
        ("redis://h/x", "database"),
        ("redis://h/" + "9" * 5000, "database"),
        ("redis://h?db=-1", "database"),
        ("redis://a/0;redis://b/0", "database"),
        ("redis://h?foo=secret", "`foo`"),
        ("redis://h?ssl=true", "`ssl`"),
        ("unix:///tmp/x?virtual_host=1", "`virtual_host`"),
        ("redis+socket:///tmp/x?db=1", "`db`"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h?client_name=a%0Ab", "control character"),
        ("redis://h?protocol=4", "`protocol`"),
        ("redis://h?credential_provider=secret", "MODULE.CLASS"),
        ("rediss://h?ssl_cert_reqs=maybe", "`ssl_cert_reqs`"),
        ("rediss://h?ssl_check_hostname=maybe", "`ssl_check_hostname`"),
        ("rediss://h?ssl_min_version=new", "`ssl_min_version`"),
        ("rediss://h?ssl_keyfile=/secret", "`ssl_certfile`"),
        ("rediss://h?ssl_validate_ocsp=true", "`ssl_validate_ocsp`"),
        ("unix://tmp/x", "three slashes"),
        ("unix://", "three slashes"),
        ("unix:///%00", "that is none"),
        ("unix:///" + "x" * 200, "107 bytes"),
    ],
)
def test_what_no_server_can_be_found_by_is_one_line_without_the_password(url, says):
    with pytest.raises(InvalidSetting, match=says) as caught:
        place(url, None)
    assert caught.value.field == REDIS_URL.name
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


_MARKS = tuple("/:@?#;&=[]%+,. \t\n\x00é\udc80")
_WORDS = (
    "redis rediss unix redis+socket sentinel amqp :// :/// localhost 127.0.0.1 [::1] a..b %00 %2F %zz 0 6379 99999 -1 "
    "db= ssl_cert_reqs= CERT_NONE ssl_ca_certs= ssl_keyfile=/nowhere ssl_certfile=/nowhere protocol= ssl_min_version= "
    "ssl_ciphers= ssl_ca_data= virtual_host= username= retry_on_error= foo= ssl= socket_timeout=soon heartbeat=x "
    "credential_provider= os.path sluicegate.schemas.names.host_of"
)
PIECES = st.sampled_from((*_MARKS, *_WORDS.split(), "9" * 5000))
URLS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.tuples(
        st.sampled_from(["redis://", "rediss://", "unix:///", "redis+socket:///", "sentinel://"]),
        st.lists(PIECES, max_size=6).map("".join),
        st.just("?"),
        st.lists(PIECES, max_size=6).map("".join),
    ).map("".join),
    st.text(max_size=40).map(lambda text: "redis://" + text),
    st.text(max_size=60),
)


def refusal_of(make: Callable[[], object]) -> str | None:
    """The one line that `make` is refused with; None where it is not."""
    try:
        make()
    except InvalidSetting as refused:
        return str(refused)
    return None


def usable(url: str, unsaid_verify: str = "required") -> Place:
    """As both halves take it."""
    found = place_of(url, REDIS_URL, "m", REDIS_MASTER_NAME, unsaid_verify=unsaid_verify)
    refuse_unusable(found, REDIS_URL.name)
    return found


@given(url=URLS)
def test_no_url_is_more_than_refused(url):
    """A place from which connections can be made, or one line: in a worker no thread ends of it, and none spins."""
    for unsaid in ("required", "none"):
        if (refusal := refusal_of(partial(usable, url, unsaid))) is not None:
            assert "\n" not in refusal
            continue
        found = usable(url, unsaid)
        client = connect(found)
        try:
            client.connection_pool.make_connection()
        finally:
            client.close()
        if isinstance(found, Server):
            assert server_at(kombu_url(found), "x") == replace(
                found, client_name=None, protocol=None, tls=found.tls and Tls(verify="required")
            )
            Connection(kombu_url(found), ssl=tls_arguments(found.tls) if found.tls else False).get_transport_cls()


@given(before=st.text(max_size=6), after=st.text(max_size=6), rest=URLS)
def test_no_refusal_shows_what_stood_for_the_password(before, after, rest):
    """Also where it was not written as a URL needs it."""
    password = before + SECRET + after
    quoted = quote(password.encode(errors="surrogatepass"), safe="")
    for url in (f"redis://:{password}@h:6379/0{rest}", f"rediss://u:{quoted}@h/0?{rest}"):
        assert SECRET not in (refusal_of(partial(usable, url)) or "")


@given(url=URLS)
def test_whatever_is_given_for_the_broker_is_taken_or_refused(url):
    """Of kombu's other transports too, each of which hands options on as arguments."""
    environ = {"SLUICEGATE_REDIS_URL": "redis://h", "SLUICEGATE_BROKER_URL": url, "SLUICEGATE_BROKER_MASTER_NAME": "m"}

    def make() -> None:
        _, broker = _servers(environ)
        Broker(broker.url, broker.master_name, broker.key_prefix, broker.tls)
        Broadcast(broker.url, broker.master_name, broker.key_prefix, broker.tls).stop()

    refusal = refusal_of(make)
    assert refusal is None or refusal.startswith("SLUICEGATE_BROKER_URL: ")
    assert "\n" not in (refusal or "")


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
