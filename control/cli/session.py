"""Who asks whom: the client that a verb uses, from its options and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sluicegate.schemas.errors import InvalidInput, NotAuthenticated
from sluicegate.schemas.settings import TOKEN, URL, refuse_wrong

if TYPE_CHECKING:
    from sluicegate.control.client import Client


def connect(url: str | None, token_file: Path | None, environ: Mapping[str, str] | None = None) -> Client:
    """A client of the control plane at `url`, else at SLUICEGATE_URL.

    Raises InvalidSetting, InvalidInput (the token's file), NotAuthenticated where there is no token at all.
    """
    from sluicegate.control.client import Client

    environ = os.environ if environ is None else environ
    address = {URL.name: url} if url is not None else environ
    if token_file is None and TOKEN.read_or_none(environ) is None:
        # Both are told at once where both are missing; a token alone is a matter of who may ask.
        refuse_wrong((lambda: URL.read(address), lambda: URL.read_or_none(address) or TOKEN.read(environ)))
    return Client(URL.read(address), _token(token_file, environ))


def _token(file: Path | None, environ: Mapping[str, str]) -> str:
    if file is not None:
        try:
            token = file.read_text().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidInput("token-file", f"{file} cannot be read: {why}") from None
        if not token:
            raise InvalidInput("token-file", f"{file} is empty")
        return token
    token_set = TOKEN.read_or_none(environ)
    if token_set is None:
        raise NotAuthenticated(f"no token: set {TOKEN.name}, or give --token-file FILE")
    return token_set
