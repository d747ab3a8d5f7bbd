"""The control plane's REST API, one method a route.

    GET  /api/system/worker-pause             Client.read
    GET  /api/system/worker-pause/preview     Client.preview
    POST /api/system/worker-pause             Client.pause, Client.resume, Client.change
    GET  /api/holds/{hold_id}                 Client.hold
    GET  /api/workers                         Client.workers
    POST /api/workers/{nodename}/forget       Client.forget
    POST /api/workers/{nodename}/clear-health Client.clear_health
    POST /api/system/epoch                    Client.raise_epoch
    GET  /api/audit                           Client.audit
    …    /api/governors                       Client.governors (control.client.governors)

Every method raises an error of `schemas.errors`; no other escapes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import ValidationError

from sluicegate.control.client.governors import Governors
from sluicegate.control.client.rejections import to_error
from sluicegate.control.client.reply import Reply
from sluicegate.schemas.api.audit import AuditAnswer
from sluicegate.schemas.api.base import Wire
from sluicegate.schemas.api.epoch import EpochAnswer, EpochRequest
from sluicegate.schemas.api.holds import HoldAnswer
from sluicegate.schemas.api.own_holds import ClearAnswer, ClearRequest
from sluicegate.schemas.api.pausing import ChangeAnswer, PauseAnswer, PauseRequest, PreviewAnswer
from sluicegate.schemas.api.workers import ForgetAnswer, ForgetRequest, WorkersAnswer
from sluicegate.schemas.errors import InvalidSetting, Unavailable
from sluicegate.schemas.settings import TOKEN, URL

B = TypeVar("B", bound=Wire)

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
SYSTEM = "/api/system/worker-pause"

# The connection broke, so nobody knows whether the request was carried out. A refused connection is not
# among them: nothing was sent, and a second try at once would meet the same.
_DROPPED = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class Client:
    """A connection to one control plane as the owner of `token`; a context manager.

    Raises InvalidSetting for an address or a token that cannot be one. The token is sent in a header, and
    stands in no message; redirects are not followed, so that it goes to no other host.
    """

    def __init__(self, url: str, token: str, *, transport: httpx.BaseTransport | None = None) -> None:
        address = _parse(url)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidSetting(TOKEN.name, "has characters that no token has")
        self.origin = str(address.copy_with(username=None, password=None)).rstrip("/")
        self._http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            transport=transport,
            # A proxy for the world must not be asked for this very machine.
            trust_env=not _is_loopback(address.host),
        )
        self.governors = Governors(self._ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def read(self, scope: str = "global") -> Reply[PauseAnswer]:
        """What is ordered, how far it has got (the metrics are those of `scope`), and the newest audit events."""
        return self._get(SYSTEM, PauseAnswer, params=None if scope == "global" else {"scope": scope})

    def preview(self, scope: str = "global") -> Reply[PreviewAnswer]:
        """What a hold on `scope` would touch, and when it should have drained; changes nothing."""
        return self._get(f"{SYSTEM}/preview", PreviewAnswer, params={"scope": scope})

    def pause(self, **wanted: Any) -> Reply[ChangeAnswer]:
        """Place the manual hold of a scope; `wanted`: fields of `PauseRequest`, `mode` and `reason` at least."""
        return self.change(PauseRequest(action="pause", **wanted))

    def resume(self, *, force: bool = False, **wanted: Any) -> Reply[ChangeAnswer]:
        """Release the manual hold of a scope, at once or by a `ramp` such as `10%/s`; `wanted` as for `pause`.

        Refused where it is not drained and `force` is false.
        """
        return self.change(PauseRequest(action="resume", force_resume=force, **wanted))

    def change(self, request: PauseRequest) -> Reply[ChangeAnswer]:
        """Send a pause or a resume, which the control plane judges."""
        # The key makes a second try the same order, so that one lost answer is not two events.
        keyed = request.model_copy(update={"idempotency_key": request.idempotency_key or str(uuid4())})
        # Fields at their default are left out: the control plane's own defaults hold.
        body = keyed.model_dump(by_alias=True, exclude_defaults=True)
        return self._typed(self._send("POST", SYSTEM, json=body, tries=2), ChangeAnswer)

    def hold(self, hold_id: str) -> Reply[HoldAnswer]:
        """One hold and its story; NotFound where there is none."""
        return self._get(f"/api/holds/{quote(hold_id, safe='')}", HoldAnswer)

    def workers(self) -> Reply[WorkersAnswer]:
        """Every worker that is known, silent ones included; who said goodbye is listed for a while."""
        return self._get("/api/workers", WorkersAnswer)

    def forget(self, nodename: str, *, reason: str) -> Reply[ForgetAnswer]:
        """Take a worker that will not come back out of the count; NotFound where there is none."""
        path = f"/api/workers/{_quoted(nodename)}/forget"
        # Not tried twice: the second try would find it forgotten, and report the success as a failure.
        return self._typed(self._send("POST", path, json=ForgetRequest(reason=reason).to_json()), ForgetAnswer)

    def clear_health(self, nodename: str, *, reason: str, rule: str | None = None) -> Reply[ClearAnswer]:
        """Have a worker let go of what it holds itself for, and judge anew; NotFound where it is not known."""
        path = f"/api/workers/{_quoted(nodename)}/clear-health"
        return self._typed(self._send("POST", path, json=ClearRequest(reason=reason, rule=rule).to_json()), ClearAnswer)

    def raise_epoch(self, *, reason: str, above: str | None = None) -> Reply[EpochAnswer]:
        """Go above what workers stand at, or above the edition `above`; Refused where no worker is ahead."""
        # Not tried twice: after the first one nobody is ahead any more, and the second would be refused.
        asked = EpochRequest(reason=reason, above=above).to_json()
        return self._typed(self._send("POST", "/api/system/epoch", json=asked), EpochAnswer)

    def audit(self, filters: Mapping[str, str | int] | None = None) -> Reply[AuditAnswer]:
        """The audit events that match `filters` (the route's query parameters), newest first."""
        return self._get("/api/audit", AuditAnswer, params=dict(filters or {}))

    def _ask(
        self, method: str, path: str, kind: type[B], json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply[B]:
        """One request; only what changes nothing is tried twice."""
        tries = 2 if method == "GET" else 1
        return self._typed(self._send(method, path, json=json, headers=headers, tries=tries), kind)

    def _get(self, path: str, kind: type[B], params: dict[str, str | int] | None = None) -> Reply[B]:
        return self._typed(self._send("GET", path, params=params, tries=2), kind)

    def _typed(self, raw: dict[str, Any], kind: type[B]) -> Reply[B]:
        try:
            return Reply(body=kind.model_validate(raw), raw=raw)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Unavailable(
                f"{self.origin} answered, but not as this version of the command understands: "
                f"{place or 'body'}: {first['msg']}"
            ) from None

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        tries: int = 1,
    ) -> dict[str, Any]:
        unsure = "" if method == "GET" else "; whether the change was made is unknown: see `sluicegate status`"
        try:
            answer = self._http.request(method, path, json=json, params=params, headers=headers)
        except _DROPPED as error:
            if tries > 1:
                return self._send(method, path, json=json, params=params, headers=headers, tries=tries - 1)
            raise Unavailable(f"the control plane at {self.origin} hung up ({_why(error)}){unsure}") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise Unavailable(f"no control plane can be reached at {self.origin}: {_why(error)}") from None
        except httpx.TimeoutException:
            raise Unavailable(
                f"the control plane at {self.origin} did not answer within {READ_TIMEOUT_S:g} s{unsure}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"the request to {self.origin} failed: {_why(error)}") from None
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.is_success and isinstance(body, dict):
            return body
        raise to_error(answer.status_code, body, self.origin)


def _quoted(nodename: str) -> str:
    # `.` and `..` would be taken for steps along the path.
    return quote(nodename, safe="@").replace(".", "%2E") if set(nodename) == {"."} else quote(nodename, safe="@")


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _parse(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidSetting(URL.name, f"is not an address: {_why(error)}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidSetting(URL.name, "is not an address such as http://127.0.0.1:8321")
    if address.userinfo:
        raise InvalidSetting(URL.name, f"must not carry a password: the token belongs in {TOKEN.name}")
    return address


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
