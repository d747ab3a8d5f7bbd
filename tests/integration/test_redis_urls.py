"""Every way to write where a Redis is, on a real Valkey: over TCP, over TLS, behind a socket."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from redis import CredentialProvider
from redis.exceptions import ConnectionError

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.control.links.broadcast import Broadcast
from sluicegate.control.links.broker import Broker
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.process.compose import BrokerAddress, _servers
from sluicegate.schemas.adapters.redis_client import connect, refuse_unusable
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.redis_urls import Place, server_at
from sluicegate.workers.celery_inside.choose import refuse_other_redis
from tests.fronts import Certificates, TlsFront, make_certificates

QUEUE, WAITING = "waiting", 3


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways to one Valkey. It has the user `u` with the password `p/w`, beside one without."""

    values: dict[str, object]
    made: Certificates

    def url(self, spelling: str) -> str:
        """`spelling` with the ports and files of this Valkey."""
        return spelling.format(**self.values)


def port_of(server: EmbeddedValkey) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """One Valkey, with three ways in: TCP, TLS and a socket."""
    folder = tmp_path_factory.mktemp("ways")
    made: Certificates = make_certificates(folder)
    socket = folder / "valkey.sock"
    with EmbeddedValkey(folder / "valkey", options=["--unixsocket", str(socket)]) as server:
        port = port_of(server)
        client: Any = connect(server_at(server.url, "x"))
        client.execute_command("ACL", "SETUSER", "u", "on", ">p/w", "+@all", "~*", "&*")
        client.close()
        app = Celery("sender", broker=f"redis://127.0.0.1:{port}/3", set_as_current=False)
        for _ in range(WAITING):
            app.send_task("any", queue=QUEUE)
        app.close()
        with TlsFront(port, made) as tls, TlsFront(port, made, asks_clients=True) as asking:
            files = {name: getattr(made, name) for name in ("ca", "client", "client_key", "sealed_key")}
            yield Ways({"port": port, "tls": tls.port, "asking": asking.port, "socket": socket, **files}, made)


SPELLINGS = [
    "redis://127.0.0.1:{port}/3",
    "redis://u:p%2Fw@127.0.0.1:{port}/3",
    "redis://127.0.0.1:{port}?db=3&username=u&password=p/w",
    "redis://127.0.0.1:{port}/3?client_name=me&protocol=2&socket_timeout=30&retry_on_error=x",
    "redis://127.0.0.1:{port}/3?credential_provider=tests.integration.test_redis_urls.Provider",
    "rediss://127.0.0.1:{tls}/3?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}",
    "rediss://127.0.0.1:{tls}/3?ssl_cert_reqs=required&ssl_ca_certs={ca}",
    "rediss://u:p%2Fw@localhost:{tls}/3?ssl_ca_certs={ca}&ssl_check_hostname=true&ssl_min_version=771",
    "rediss://127.0.0.1:{tls}/3?ssl_cert_reqs=CERT_OPTIONAL&ssl_ca_certs={ca}",
    "rediss://127.0.0.1:{tls}/3?ssl_cert_reqs=optional&ssl_ca_certs={ca}&ssl_check_hostname=false",
    "rediss://127.0.0.1:{tls}/3?ssl_cert_reqs=CERT_NONE",
    "rediss://127.0.0.1:{tls}/3?ssl_cert_reqs=none",
    "redis://127.0.0.1:{tls}/3?ssl_cert_reqs=none",
    "rediss://127.0.0.1:{asking}/3?ssl_ca_certs={ca}&ssl_certfile={client}&ssl_keyfile={client_key}",
    "rediss://127.0.0.1:{asking}/3?ssl_ca_certs={ca}&ssl_certfile={client}&ssl_keyfile={sealed_key}&ssl_password=open",
    "unix://{socket}?db=3",
    "unix://u:p%2Fw@{socket}?db=3",
    "redis+socket://{socket}?virtual_host=3",
    "redis+socket://u:p%2Fw@{socket}?virtual_host=3",
]
# kombu takes credentials from a class since 5.6.
OF_BROKERS = [
    spelling
    for spelling in SPELLINGS
    if "credential_provider" not in spelling or "credential_provider" in signature(Connection).parameters
]
# Neither most options of redis-py's connections nor its scheme of a socket are kombu's.
REDIS_PYS_ALONE = {spelling for spelling in SPELLINGS if any(o in spelling for o in ("db=3", "client_name", "_min_"))}
UNUSABLE = [
    ("rediss://127.0.0.1:{tls}/0?ssl_ca_certs=/nowhere/secret.pem", "ssl_ca_certs.*No such file"),
    ("rediss://127.0.0.1:{tls}/0?ssl_ca_certs={client_key}", "ssl_ca_certs"),
    ("rediss://127.0.0.1:{tls}/0?ssl_certfile=/nowhere/secret", "ssl_certfile.*No such file"),
    ("rediss://127.0.0.1:{tls}/0?ssl_certfile={client}&ssl_keyfile={sealed_key}", "ssl_password"),
    ("rediss://127.0.0.1:{tls}/0?ssl_certfile={client}&ssl_keyfile={sealed_key}&ssl_password=secret", "ssl_password"),
    ("rediss://127.0.0.1:{tls}/0?ssl_ciphers=secret", "ssl_ciphers"),
    ("rediss://127.0.0.1:{tls}/0?ssl_min_version=5", "ssl_min_version"),
    ("redis://127.0.0.1/0?credential_provider=tests.nowhere.Provider", "tests.nowhere.Provider: ModuleNotFoundError"),
    ("redis://127.0.0.1/0?credential_provider=tests.fronts.TlsFront", "TypeError"),
]


class Provider(CredentialProvider):
    """Signs in as the user `u`."""

    def get_credentials(self) -> tuple[str, str]:
        """As redis-py asks for them."""
        return "u", "p/w"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_state_is_reached_by_every_spelling(ways: Ways, spelling: str) -> None:
    place = server_at(ways.url(spelling), "SLUICEGATE_REDIS_URL")
    refuse_unusable(place, "SLUICEGATE_REDIS_URL")
    with connect(place) as client:
        assert client.llen(QUEUE) == WAITING


def servers(**environ: str) -> tuple[Place, BrokerAddress]:
    """The two that a control plane makes of its settings."""
    return _servers({"SLUICEGATE_REDIS_URL": "redis://127.0.0.1:1/0"} | environ)


def waiting(broker: BrokerAddress) -> int | None:
    """What the control plane finds in the queue."""
    depths = Broker(broker.url, broker.master_name, broker.key_prefix, broker.tls).depths([QUEUE])
    return None if depths is None else depths[QUEUE]


@pytest.mark.parametrize("spelling", OF_BROKERS)
def test_the_control_plane_stands_on_every_spelling(ways: Ways, spelling: str) -> None:
    """State, queue depth and broadcast; where one URL is given it is the broker's too."""
    state, broker = servers(SLUICEGATE_REDIS_URL=ways.url(spelling))
    bus = Bus(state, "any", most_workers=5_000)
    bus.ping()
    bus.refuse_cluster()
    bus.close()
    assert waiting(broker) == WAITING
    _, broker = servers(SLUICEGATE_BROKER_URL=ways.url(spelling))
    assert waiting(broker) == WAITING
    broadcast = Broadcast(broker.url, broker.master_name, broker.key_prefix, broker.tls)
    broadcast._broadcast({"epoch": 1, "version": 1})
    broadcast.stop()
    assert not broadcast._outage.is_on


def test_a_broker_that_names_no_way_to_verify_is_read_as_celery_reads_it(ways: Ways) -> None:
    """Nothing is verified then; for the state redis-py does, and it is not reached."""
    url = ways.url("rediss://127.0.0.1:{tls}/3")
    assert waiting(servers(SLUICEGATE_BROKER_URL=url)[1]) == WAITING
    with connect(server_at(url, "x")) as client, pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        client.ping()


def test_a_broker_may_be_several_as_celery_has_them(ways: Ways) -> None:
    url = ways.url("redis://127.0.0.1:{port}/3;redis://127.0.0.1:1/3")
    assert waiting(servers(SLUICEGATE_BROKER_URL=url)[1]) == WAITING
    with pytest.raises(InvalidSetting, match="different TLS"):
        servers(SLUICEGATE_BROKER_URL=f"{url};rediss://127.0.0.1/3")


def worker_on(url: str, **conf: Any) -> Any:
    """What is asked of a worker here: the connection that Celery made for it."""
    app = Celery("worker", broker=url, set_as_current=False)
    app.conf.update(conf)
    return SimpleNamespace(_conninfo=app.connection_for_read())


@pytest.mark.parametrize("spelling", [spelling for spelling in OF_BROKERS if spelling not in REDIS_PYS_ALONE])
def test_a_worker_takes_every_broker_that_kombu_takes(ways: Ways, spelling: str) -> None:
    worker = worker_on(ways.url(spelling))
    refuse_other_redis(worker)
    with worker._conninfo as connection:
        assert connection.default_channel.client.llen(QUEUE) == WAITING


def test_a_cluster_is_told_from_a_redis_by_whichever_way_celery_goes(ways: Ways, tmp_path: Path) -> None:
    options = ["--cluster-enabled", "yes", "--unixsocket", str(tmp_path / "node.sock")]
    with EmbeddedValkey(tmp_path / "node", options=options) as node, TlsFront(port_of(node), ways.made) as tls:
        verified = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(ways.made.ca)}
        for worker in (
            worker_on(node.url),
            worker_on(f"redis+socket://{tmp_path}/node.sock"),
            worker_on(f"rediss://127.0.0.1:{tls.port}/0", broker_use_ssl=verified),
        ):
            with pytest.raises(InvalidSetting, match="broker_url: leads to a Redis Cluster"):
                refuse_other_redis(worker)


def test_a_broker_that_kombu_cannot_use_is_one_line_and_one_that_is_away_is_none() -> None:
    for worker in (
        worker_on("redis://:secret@127.0.0.1:1/secret"),
        worker_on("redis://:secret@127.0.0.1:1/0", broker_use_ssl={"ssl_cert_reqs": "CERT_REQUIRED"}),
        worker_on("redis://:secret@127.0.0.1:1/0", broker_use_ssl={"ssl_foo": "secret"}),
    ):
        with pytest.raises(InvalidSetting, match="broker_url: is not one that kombu can use") as caught:
            refuse_other_redis(worker)
        assert "secret" not in str(caught.value)
    refuse_other_redis(worker_on("redis://127.0.0.1:1/0"))
    refuse_other_redis(worker_on("rediss://127.0.0.1:1/0", broker_use_ssl={"ssl_ca_certs": "/nowhere"}))


@pytest.mark.parametrize(("spelling", "says"), UNUSABLE)
@pytest.mark.parametrize("name", ["SLUICEGATE_REDIS_URL", "SLUICEGATE_BROKER_URL"])
def test_what_can_never_be_reached_is_refused_in_one_line(ways: Ways, spelling: str, says: str, name: str) -> None:
    """A file that is not there, a key that would be asked a password for at the terminal."""
    with pytest.raises(InvalidSetting, match=says) as caught:
        servers(**{name: ways.url(spelling)})
    assert caught.value.field == name
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
