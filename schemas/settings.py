"""Every setting, declared once: its environment variable, default, meaning, and who reads it.

Nothing here reads the environment: each room passes it in, so that importing has no effect and tests need
no patching. `docs/settings.md` has a row for each; a test compares the two.

Long because it is one table, with a row for each setting and how its text is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sluicegate.schemas.errors import InvalidInput, InvalidSetting, InvalidSettings, MissingSetting
from sluicegate.schemas.names import DEFAULT_NAMESPACE, check_namespace
from sluicegate.schemas.scopes import parse_labels

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Generic[T]):
    """One setting. `default` None means that it is required wherever it is read with `read`."""

    name: str
    parse: Callable[[str, str], T]
    default: str | None
    meaning: str
    readers: tuple[str, ...]

    def read(self, environ: Mapping[str, str]) -> T:
        """Its value in `environ`; raises InvalidSetting naming it. An empty text counts as not set."""
        text = environ.get(self.name, "").strip() or self.default
        if text is None:
            raise MissingSetting(self.name, f"is not set: {self.meaning}")
        return self._parse(text)

    def read_or_none(self, environ: Mapping[str, str]) -> T | None:
        """Its value, or None where it is not set and has no default; raises InvalidSetting."""
        text = environ.get(self.name, "").strip() or self.default
        return None if text is None else self._parse(text)

    def _parse(self, text: str) -> T:
        try:
            return self.parse(text, self.name)
        except InvalidSetting:
            raise
        except InvalidInput as error:
            raise InvalidSetting(self.name, error.message) from None


def _text(text: str, name: str) -> str:
    return text


def _path(text: str, name: str) -> Path:
    return Path(text).expanduser()


def _switch(text: str, name: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise InvalidSetting(name, f"{text!r} is neither true nor false") from None


def _count(least: int, most: int) -> Callable[[str, str], int]:
    def parse(text: str, name: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise InvalidSetting(name, f"{text!r} is not a whole number") from None
        if not least <= value <= most:
            raise InvalidSetting(name, f"{value} is out of range: from {least} to {most}")
        return value

    return parse


def _choice(*words: str) -> Callable[[str, str], str]:
    def parse(text: str, name: str) -> str:
        if text not in words:
            raise InvalidSetting(name, f"{text!r} is not one of {', '.join(words)}")
        return text

    return parse


def _words_or_off(*words: str) -> Callable[[str, str], tuple[str, ...]]:
    def parse(text: str, name: str) -> tuple[str, ...]:
        chosen = () if text == "off" else tuple(part.strip() for part in text.split(","))
        for word in chosen:
            if word not in words:
                raise InvalidSetting(name, f"{word!r} is not one of {', '.join(words)}, and not off")
        return chosen

    return parse


def _bind(text: str, name: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidSetting(name, f"{text!r} is not HOST:PORT")
    return host, int(port)


def _fraction(text: str, name: str) -> int:
    """In ten-thousandths, so that comparisons are of integers."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise InvalidSetting(name, f"{text!r} is not a number") from None
    if not value.is_finite():
        raise InvalidSetting(name, f"{text!r} is not a number")
    if not 0 <= value <= 1:
        hint = f"; did you mean {(value / 100).normalize():f}?" if 1 < value <= 100 else ""
        raise InvalidSetting(name, f"{text} is out of range: a fraction from 0 to 1{hint}")
    parts = value * 10_000
    if parts != int(parts):
        raise InvalidSetting(name, f"{text} has more than four decimals")
    return int(parts)


def _words(*known: str) -> Callable[[str, str], frozenset[str]]:
    def parse(text: str, name: str) -> frozenset[str]:
        words = frozenset(word.strip() for word in text.split(",") if word.strip())
        if wrong := sorted(words - set(known)):
            raise InvalidSetting(name, f"{', '.join(map(repr, wrong))}: known are {', '.join(known)}")
        return words

    return parse


@dataclass(frozen=True, slots=True)
class CursorKeys:
    """What seals cursors: the first of `secrets` those that are stored, any of them those that are read.

    `takes_unsigned`: go on from cursors without a seal too, for as long as some workers have no keys yet.
    """

    secrets: tuple[bytes, ...]
    takes_unsigned: bool = False

    def __repr__(self) -> str:
        return f"CursorKeys({len(self.secrets)} secrets, takes_unsigned={self.takes_unsigned})"


UNSIGNED = "unsigned"
LEAST_SECRET_CHARS = 32


def _cursor_keys(text: str, name: str) -> CursorKeys:
    words = [word.strip() for word in text.split(",")]
    secrets = tuple(word.encode() for word in words if word != UNSIGNED)
    if not secrets:
        raise InvalidSetting(name, f"has no key beside {UNSIGNED!r}")
    # A secret stands in no message.
    if any(len(secret) < LEAST_SECRET_CHARS for secret in secrets):
        raise InvalidSetting(name, f"has a key of fewer than {LEAST_SECRET_CHARS} characters")
    return CursorKeys(secrets, UNSIGNED in words)


WORKER, CONTROL, CLIENT = "worker", "control plane", "commands"

ENABLED = Setting(
    name="SLUICEGATE_ENABLED",
    parse=_switch,
    default="true",
    meaning="`false` makes the plugin inert: vanilla Celery behaviour, stored holds kept and visible; what was set "
    "aside in Redis goes back to its queues.",
    readers=(WORKER,),
)
NAMESPACE = Setting(
    name="SLUICEGATE_NAMESPACE",
    parse=check_namespace,
    default=DEFAULT_NAMESPACE,
    meaning="Which fleet: workers, control plane and commands of one fleet share it.",
    readers=(WORKER, CONTROL),
)
REDIS_URL = Setting(
    name="SLUICEGATE_REDIS_URL",
    parse=_text,
    default=None,
    meaning="The Redis or Valkey that carries the signed state, the hints and the heartbeats.",
    readers=(WORKER, CONTROL),
)
REDIS_MASTER_NAME = Setting(
    name="SLUICEGATE_REDIS_MASTER_NAME",
    parse=_text,
    default=None,
    meaning="The name of the master whose address is asked for, where SLUICEGATE_REDIS_URL names sentinels.",
    readers=(WORKER, CONTROL),
)
PUBLIC_KEYS = Setting(
    name="SLUICEGATE_PUBLIC_KEYS",
    parse=_text,
    default=None,
    meaning="The trusted Ed25519 public keys, base64, separated by commas (`sluicegate keys create` prints one).",
    readers=(WORKER, CONTROL),
)
HOST = Setting(
    name="SLUICEGATE_HOST",
    parse=_text,
    default=None,
    meaning="The worker's host name for `host:` scopes; otherwise what follows the last `@` of the nodename.",
    readers=(WORKER,),
)
LABELS = Setting(
    name="SLUICEGATE_LABELS",
    parse=parse_labels,
    default="",
    meaning="The worker's labels for `label:` scopes, such as `gpu=h100,rack=12`.",
    readers=(WORKER,),
)
STATE_DIR = Setting(
    name="SLUICEGATE_STATE_DIR",
    parse=_path,
    default=".sluicegate",
    meaning=(
        "The folder for what outlives a process: a worker's last applied edition, and the key of its place; "
        "the data of `sluicegate up`."
    ),
    readers=(WORKER, CONTROL, CLIENT),
)
POLL_INTERVAL_MS = Setting(
    name="SLUICEGATE_PAUSE_POLL_INTERVAL_MS",
    parse=_count(100, 3_600_000),
    default="1000",
    meaning="How often a worker reads the state again without being told, in milliseconds (±20 % jitter).",
    readers=(WORKER,),
)
BOOT_POLICY = Setting(
    name="SLUICEGATE_BOOT_POLICY",
    parse=_choice("fresh", "advancing", "signed"),
    default="fresh",
    meaning=(
        "What opens a worker that starts: `fresh`, a state that was signed for it since it started; `advancing`, a "
        "signed state whose beat it saw advance, as before 0.2 (for control planes of then); `signed`, any signed "
        "state not older than the remembered one, so that it can start while the control plane is down."
    ),
    readers=(WORKER,),
)
STALE_POLICY = Setting(
    name="SLUICEGATE_STALE_POLICY",
    parse=_choice("open", "closed"),
    default="open",
    meaning="What a running worker does when it saw no fresh state for the stale lease: go on with an alarm, or close.",
    readers=(WORKER,),
)
STALE_AFTER_S = Setting(
    name="SLUICEGATE_STALE_AFTER_S",
    parse=_count(2, 86_400),
    default="60",
    meaning="The stale lease: seconds without a fresh state after which the stale policy acts.",
    readers=(WORKER,),
)
CURSOR_MAX_BYTES = Setting(
    name="SLUICEGATE_CURSOR_MAX_BYTES",
    parse=_count(16, 16_777_216),
    default="65536",
    meaning="How large the cursor of a task that stops at a checkpoint may be, in bytes of JSON.",
    readers=(WORKER,),
)
CURSOR_KEPT_S = Setting(
    name="SLUICEGATE_CURSOR_KEPT_S",
    parse=_count(3600, 31_536_000),
    default="2592000",
    meaning="How long the cursor of a task that stopped is kept, in seconds; it is deleted when the task ends.",
    readers=(WORKER,),
)
CURSOR_KEYS = Setting(
    name="SLUICEGATE_CURSOR_KEYS",
    parse=_cursor_keys,
    default=None,
    meaning=(
        "The secrets that cursors are sealed with, the same on all workers: at least 32 characters each, separated by "
        "commas. The first seals, each opens; the word `unsigned` among them takes cursors without a seal too. Without "
        "it, whoever can write to the Redis of the state can say where a task goes on."
    ),
    readers=(WORKER,),
)
IN_HAND_S = Setting(
    name="SLUICEGATE_IN_HAND_S",
    parse=_count(1, 86_400),
    default="300",
    meaning=(
        "How long a paused worker keeps what it fetched from a RabbitMQ quorum queue, in seconds, before it returns it "
        "(each return is counted there). Keep it well below RabbitMQ's `consumer_timeout`."
    ),
    readers=(WORKER,),
)
CAPACITY_THRESHOLD = Setting(
    name="PAUSE_CAPACITY_THRESHOLD_PERCENT",
    parse=_fraction,
    default="0.2",
    meaning="The fraction that must be available, from 0 to 1: strictly below it a worker holds itself, and has "
    "no room for the fleet's gates; 0 is off.",
    readers=(WORKER, CONTROL),
)
CAPACITY_RELEASE = Setting(
    name="SLUICEGATE_CAPACITY_RELEASE",
    parse=_fraction,
    default=None,
    meaning="The fraction at which it goes on again; otherwise 0.05 above the threshold, and that at most 0.99.",
    readers=(WORKER,),
)
CAPACITY_RESOURCES = Setting(
    name="SLUICEGATE_CAPACITY_RESOURCES",
    parse=_words("gpu_memory", "memory", "cpu"),
    default="gpu_memory",
    meaning="What is metered, separated by commas: `gpu_memory`, `memory` and `cpu` of the host or the container.",
    readers=(WORKER,),
)
CAPACITY_USE = Setting(
    name="SLUICEGATE_CAPACITY_USE",
    parse=_choice("foreign", "total"),
    default="foreign",
    meaning="Whose use of GPU memory counts: `foreign`, what is not of this namespace's workers; `total`, all of it.",
    readers=(WORKER,),
)
CAPACITY_GPUS = Setting(
    name="SLUICEGATE_CAPACITY_GPUS",
    parse=_choice("all", "any"),
    default="all",
    meaning="Of a worker with several GPUs: is it held when `all` of them are below the threshold, or when `any` is.",
    readers=(WORKER,),
)
HEALTH = Setting(
    name="SLUICEGATE_HEALTH",
    parse=_choice("hold", "warn", "off"),
    default="hold",
    meaning="What the worker's own rules may do at most (docs/gpu-rules.md): hold it, say that they would, or nothing.",
    readers=(WORKER,),
)
HEALTH_RULES = Setting(
    name="SLUICEGATE_HEALTH_RULES",
    parse=_text,
    default=None,
    meaning="What single rules do, such as `gpu.heat=warn,gpu.xid=off`; it goes before SLUICEGATE_HEALTH_FILE.",
    readers=(WORKER,),
)
HEALTH_FILE = Setting(
    name="SLUICEGATE_HEALTH_FILE",
    parse=_path,
    default=None,
    meaning="A TOML file that sets single rules, and what single Xid codes mean (docs/gpu-rules.md).",
    readers=(WORKER,),
)
IDLE_RECYCLE_S = Setting(
    name="SLUICEGATE_IDLE_RECYCLE_S",
    parse=_count(0, 86_400),
    default="0",
    meaning="After how many idle seconds a prefork worker replaces its children, which frees what they kept; 0: never.",
    readers=(WORKER,),
)
HEARTBEAT_INTERVAL_MS = Setting(
    name="SLUICEGATE_HEARTBEAT_INTERVAL_MS",
    parse=_count(100, 60_000),
    default="2000",
    meaning="How often a worker reports itself, in milliseconds; changes that matter are reported at once.",
    readers=(WORKER,),
)
PROBE = Setting(
    name="SLUICEGATE_PROBE",
    parse=_choice("auto", "off"),
    default="auto",
    meaning="`auto`: a child process of the worker reads its host and GPUs (docs/gpu.md); `off`: nothing is read.",
    readers=(WORKER,),
)
PROBE_INTERVAL_MS = Setting(
    name="SLUICEGATE_PROBE_INTERVAL_MS",
    parse=_count(100, 60_000),
    default="2000",
    meaning="How often the probe looks, in milliseconds.",
    readers=(WORKER,),
)
PROBE_TIMEOUT_MS = Setting(
    name="SLUICEGATE_PROBE_TIMEOUT_MS",
    parse=_count(100, 60_000),
    default="5000",
    meaning="A call of a GPU driver's that takes longer counts as hung, in milliseconds; opening it may take twelve "
    "times as long.",
    readers=(WORKER,),
)
EXPECTED_GPUS = Setting(
    name="SLUICEGATE_EXPECTED_GPUS",
    parse=_count(0, 64),
    default=None,
    meaning="How many GPUs the host should have; otherwise the most that were seen since it booted.",
    readers=(WORKER,),
)
RUNTIME_DIR = Setting(
    name="SLUICEGATE_RUNTIME_DIR",
    parse=_path,
    default=None,
    meaning="Where the workers of one host note their processes, so that their use of a GPU is told from that of "
    "others; otherwise a folder of the user's in XDG_RUNTIME_DIR or in the one for temporary files.",
    readers=(WORKER,),
)
LEASE_S = Setting(
    name="SLUICEGATE_LEASE_S",
    parse=_count(1, 3600),
    default="10",
    meaning="Seconds after its last heartbeat when a worker counts as unknown.",
    readers=(CONTROL,),
)
REPUBLISH_INTERVAL_MS = Setting(
    name="SLUICEGATE_REPUBLISH_INTERVAL_MS",
    parse=_count(100, 60_000),
    default="1000",
    meaning="How often the control plane publishes the state again, in milliseconds.",
    readers=(CONTROL, WORKER),
)
MAX_WORKERS = Setting(
    name="SLUICEGATE_MAX_WORKERS",
    parse=_count(1, 100_000),
    default="5000",
    meaning="Of how many workers heartbeats are read and remembered; where there are more, nothing counts as drained.",
    readers=(CONTROL,),
)
NEEDS_SIGNED_BEATS = Setting(
    name="SLUICEGATE_NEEDS_SIGNED_BEATS",
    parse=_switch,
    default="false",
    meaning="`true`: a worker that does not sign its heartbeats (one of a version before 0.2) never counts as drained.",
    readers=(CONTROL,),
)
DATABASE_URL = Setting(
    name="SLUICEGATE_DATABASE_URL",
    parse=_text,
    default=None,
    meaning="The Postgres that holds the truth, as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
    readers=(CONTROL,),
)
BROKER_URL = Setting(
    name="SLUICEGATE_BROKER_URL",
    parse=_text,
    default=None,
    meaning="The Celery broker, from which the depth of the queues is read; otherwise SLUICEGATE_REDIS_URL.",
    readers=(CONTROL,),
)
BROKER_MASTER_NAME = Setting(
    name="SLUICEGATE_BROKER_MASTER_NAME",
    parse=_text,
    default=None,
    meaning="The same for SLUICEGATE_BROKER_URL; otherwise SLUICEGATE_REDIS_MASTER_NAME.",
    readers=(CONTROL,),
)
BROKER_KEY_PREFIX = Setting(
    name="SLUICEGATE_BROKER_KEY_PREFIX",
    parse=_text,
    default=None,
    meaning="Celery's global_keyprefix (broker_transport_options): without it no queue is found in such a Redis.",
    readers=(CONTROL,),
)
SIGNING_KEY_FILE = Setting(
    name="SLUICEGATE_SIGNING_KEY_FILE",
    parse=_path,
    default=None,
    meaning="The file with the private key that signs the state (mode 0600; `sluicegate keys create` makes it).",
    readers=(CONTROL,),
)
BIND = Setting(
    name="SLUICEGATE_BIND",
    parse=_bind,
    default="127.0.0.1:8321",
    meaning="HOST:PORT that the control plane's HTTP server listens on; port 0 takes a free one.",
    readers=(CONTROL,),
)
GOVERNORS = Setting(
    name="SLUICEGATE_GOVERNORS",
    parse=_words_or_off("window", "budget", "capacity"),
    default="window,budget,capacity",
    meaning=(
        "Which kinds of governors act, or `off`: one that is left out releases its holds and places none, its rows are "
        "kept."
    ),
    readers=(CONTROL,),
)
GOVERNORS_FILE = Setting(
    name="SLUICEGATE_GOVERNORS_FILE",
    parse=_path,
    default=None,
    meaning="A TOML file of governors, read at start: what it names is changed there alone (docs/governors.md).",
    readers=(CONTROL,),
)
POLLING_INTERVAL_S = Setting(
    name="PAUSE_POLLING_INTERVAL_SECONDS",
    parse=_count(1, 3600),
    default="10",
    meaning="How often the fleet's capacity is looked at, in seconds.",
    readers=(CONTROL,),
)
URL = Setting(
    name="SLUICEGATE_URL",
    parse=_text,
    default=None,
    meaning="Where the commands find the control plane, such as http://127.0.0.1:8321.",
    readers=(CLIENT,),
)
TOKEN = Setting(
    name="SLUICEGATE_TOKEN",
    parse=_text,
    default=None,
    meaning="The token that the commands show; its owner is the actor in the audit events.",
    readers=(CLIENT,),
)

ALL: tuple[Setting[Any], ...] = tuple(value for value in list(globals().values()) if isinstance(value, Setting))

WHERE_FROM = (
    "settings are environment variables (docs/settings.md); where `sluicegate up` runs, `. .sluicegate/env` sets those"
    " of workers and commands, `. .sluicegate/control.env` those of `serve`, `. .sluicegate/database.env` those of `db`"
)


def reads_of(reader: str, required: Collection[Setting[Any]], environ: Mapping[str, str]) -> list[Callable[[], object]]:
    """One read for each setting that `reader` reads; of those that are not `required` each may be missing."""
    ours = [setting for setting in ALL if reader in setting.readers]
    return [partial(setting.read if setting in required else setting.read_or_none, environ) for setting in ours]


def refuse_wrong(reads: Iterable[Callable[[], object]]) -> None:
    """Tries each of `reads`; raises what one of them raised, or InvalidSettings where several did.

    Of one setting only the first refusal is told: what is not there cannot be read in a second way either.
    """
    wrong: dict[str, InvalidSetting] = {}
    for read in reads:
        try:
            read()
        except InvalidSetting as error:
            wrong.setdefault(error.field, error)
    match tuple(wrong.values()):
        case (only,):
            raise only
        case (_, _, *_) as several:
            raise InvalidSettings(several)


def lines_of(error: InvalidSetting) -> list[str]:
    """What is told of `error`: a line for each setting, and where settings come from, if one is missing."""
    errors = error.errors if isinstance(error, InvalidSettings) else (error,)
    if not any(isinstance(each, MissingSetting) for each in errors):
        return [*map(str, errors)]
    return [*map(str, errors), WHERE_FROM] if len(errors) > 1 else [f"{error} ({WHERE_FROM})"]
