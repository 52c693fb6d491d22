"""Who is asking: API keys, signatures over the raw request, nonces, scopes, and the open demo mode. Pure.

Laws
    The account comes from the key. A `user_id` in the request never decides who trades or reads; outside the open demo
    mode it must equal the key's account, and the refusal is the same whether or not that other account exists.
    Once a key has been seen, the open demo mode stays off until the process starts again.
"""

import hashlib
import hmac
import re
from collections import deque
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from exchange.domain import ACCOUNT_MAX, NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError
from gateway.core.problems import Problem

SIGNED_WINDOW_NS = 5 * NS_PER_S
SIGNED_AHEAD_NS = 1 * NS_PER_S
NONCES_MAX = 262_144
"""Nonces remembered at once; more signed requests than that within the window are refused."""
NONCE_MAX = 64
TEXT_MAX = 128
DEMO_ACCOUNT = "demo"

_ACCOUNT = re.compile(rf"[A-Za-z0-9._:@-]{{1,{ACCOUNT_MAX}}}")
_NONCE = re.compile(rf"[!-~]{{1,{NONCE_MAX}}}")
_MILLISECONDS = re.compile(r"[0-9]{1,15}")

Scope = Literal["read", "trade", "ops"]


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """One API key: whose it is, what it may do, and the secret that signs its requests."""

    account: str
    scopes: tuple[Scope, ...]
    secret: str


class Principal(Struct, frozen=True):
    """Who a request was accepted from. `stamp_ns` = the signed time of the request, 0 when unsigned."""

    account: str
    scopes: tuple[Scope, ...]
    key: str = ""
    stamp_ns: int = 0


class Credentials(Struct, frozen=True):
    """What a request says about its sender; empty texts where it says nothing."""

    key: str = ""
    timestamp: str = ""
    nonce: str = ""
    signature: str = ""


class Signed(Struct, frozen=True):
    """The parts of a request that a signature covers, as received."""

    method: str
    path: str
    raw_query: str
    body: bytes


def parse_keys(content: bytes) -> dict[str, Key]:
    """The keys file. ConfigError names everything that is wrong with it, and no secret."""
    try:
        keys = msgspec.json.decode(content, type=dict[str, Key])
    except msgspec.MsgspecError as fault:
        raise ConfigError([f"keys.json: {fault}"]) from fault
    faults = []
    for name, key in keys.items():
        if not name or len(name) > TEXT_MAX or not name.isascii() or not name.isprintable():
            faults.append(f"keys.json: a key must have 1 to {TEXT_MAX} printable ASCII characters")
        if not _ACCOUNT.fullmatch(key.account):
            faults.append(f"keys.json: account {key.account!r} must match {_ACCOUNT.pattern}")
        if not key.secret:
            faults.append(f"keys.json: the secret of the key of account {key.account!r} is empty")
    if faults:
        raise ConfigError(faults)
    return keys


def sign(secret: str, signed: Signed, timestamp: str, nonce: str) -> str:
    """HMAC-SHA256, hex, over method, path, raw query, SHA-256 hex of the body, timestamp, nonce, joined by LF."""
    parts = (
        signed.method,
        signed.path,
        signed.raw_query,
        hashlib.sha256(signed.body).hexdigest(),
        timestamp,
        nonce,
    )
    return hmac.new(secret.encode(), "\n".join(parts).encode(), "sha256").hexdigest()


class Authority:
    """Decides who a request comes from. `demo` = the open demo mode was configured and the host is loopback."""

    def __init__(self, keys: Mapping[str, Key], *, demo: bool) -> None:
        self._demo = demo
        self._keys: dict[str, Key] = {}
        self._nonces: dict[tuple[str, str], None] = {}
        self._nonces_by_age: deque[tuple[int, tuple[str, str]]] = deque()
        self.replace_keys(keys)

    @property
    def open_demo(self) -> bool:
        """No key is needed and the request names its account."""
        return self._demo

    def replace_keys(self, keys: Mapping[str, Key]) -> list[str]:
        """Take a new set of keys; returns those that are gone or changed, whose sessions must end."""
        ended = sorted(name for name, key in self._keys.items() if keys.get(name) != key)
        self._keys = dict(keys)
        self._demo = self._demo and not self._keys
        return ended

    def identify(
        self, credentials: Credentials, signed: Signed, claimed: str, scope: Scope, now_ns: int
    ) -> Principal | Problem:
        """Who sent this request at wall time `now_ns`, if it may do what needs `scope`; `claimed` = its user_id."""
        if self._demo:
            return self._identify_demo(credentials, claimed)
        principal = self._verify(credentials, signed, now_ns)
        if isinstance(principal, Problem):
            return principal
        if claimed and claimed != principal.account:
            return Problem("FORBIDDEN", "user_id must be the account of the API key")
        if scope not in principal.scopes:
            return Problem("FORBIDDEN", f"the API key lacks the scope {scope}")
        return principal

    def _identify_demo(self, credentials: Credentials, claimed: str) -> Principal | Problem:
        account = claimed or credentials.key or DEMO_ACCOUNT
        if not _ACCOUNT.fullmatch(account):
            return Problem("MALFORMED", f"user_id must match {_ACCOUNT.pattern}, not {account[:TEXT_MAX]!r}")
        return Principal(account, ("read", "trade", "ops"))

    def _verify(self, credentials: Credentials, signed: Signed, now_ns: int) -> Principal | Problem:
        if not credentials.key:
            return Problem("KEY", "header X-API-Key is missing")
        key = self._keys.get(credentials.key)
        if not _MILLISECONDS.fullmatch(credentials.timestamp):
            return Problem("KEY", "header X-API-Timestamp must be milliseconds since 1970, digits only")
        if not _NONCE.fullmatch(credentials.nonce):
            return Problem("KEY", f"header X-API-Nonce must have 1 to {NONCE_MAX} printable ASCII characters")
        # An unknown key costs the same work as a known one, so that timing does not tell them apart.
        expected = sign(key.secret if key else "", signed, credentials.timestamp, credentials.nonce)
        if not hmac.compare_digest(expected.encode(), credentials.signature.lower().encode()) or key is None:
            return Problem("KEY", "X-API-Key is unknown or X-API-Signature does not match the request")
        stamp_ns = int(credentials.timestamp) * NS_PER_MS
        if not now_ns - SIGNED_WINDOW_NS <= stamp_ns <= now_ns + SIGNED_AHEAD_NS:
            return Problem(
                "CLOCK",
                f"X-API-Timestamp {credentials.timestamp} is not within {SIGNED_WINDOW_NS // NS_PER_S} s before and "
                f"{SIGNED_AHEAD_NS // NS_PER_S} s after the server's time {now_ns // NS_PER_MS}",
            )
        refusal = self._use_nonce((credentials.key, credentials.nonce), now_ns)
        if refusal is not None:
            return refusal
        return Principal(key.account, key.scopes, credentials.key, stamp_ns)

    def _use_nonce(self, nonce: tuple[str, str], now_ns: int) -> Problem | None:
        while self._nonces_by_age and self._nonces_by_age[0][0] < now_ns - SIGNED_WINDOW_NS - SIGNED_AHEAD_NS:
            del self._nonces[self._nonces_by_age.popleft()[1]]
        if nonce in self._nonces:
            return Problem("KEY", "X-API-Nonce was used before")
        if len(self._nonces) >= NONCES_MAX:
            return Problem("RATE_LIMIT", f"more than {NONCES_MAX} signed requests in the signing window", NS_PER_S)
        self._nonces[nonce] = None
        self._nonces_by_age.append((now_ns, nonce))
        return None
