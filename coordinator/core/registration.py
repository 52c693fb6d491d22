"""Who may speak to the coordinator, and as whom. Pure."""

import re
from collections.abc import Mapping

from coordinator.core.health import NODE
from exchange import messages as m
from exchange.errors import WireError

OPERATOR = "cli"
ROLES = ("gateway", "marketdata", "marketmaker", "riskd")
ENDPOINTS_MAX = 8
SETTINGS_MAX = 32
EPOCH_MAX = 2**32 - 1
PID_MAX = 2**31 - 1
_VER_MAX = 2**63 - 1
_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
_ACTOR = re.compile(r"[!-~]{1,64}")
_WHY = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_SETTING = re.compile(r"[a-z0-9_.-]{1,64}")
_UUID = re.compile(r"[0-9a-zA-Z-]{1,64}")
_ENDPOINT = re.compile(r"(ipc|tcp|http|ws)://[^\x00-\x1f\x7f]{1,200}")
_SOCKET = re.compile(r"ipc:///[^\x00-\x1f\x7f]{1,99}|tcp://[0-9A-Za-z.-]{1,100}:[0-9]{1,5}")
"""Everybody connects to a shard: an address that their sockets refuse must not get into the map."""


def check_peer(peer: bytes, role: str, name: str) -> None:
    """WireError when `peer` speaks for somebody else."""
    if not (_NAME.fullmatch(role) and _NAME.fullmatch(name)):
        raise WireError(f"role and name must match {_NAME.pattern}, they are {role[:20]!r} and {name[:20]!r}")
    if peer != f"{role}:{name}".encode():
        raise WireError(f"peer {peer[:80]!r} speaks for {role} {name}")


def check_operator(peer: bytes) -> None:
    """WireError when `peer` is no operator."""
    if not peer.startswith(f"{OPERATOR}:".encode()):
        raise WireError(f"peer {peer[:80]!r} may not do what operators do, only {OPERATOR}:* may")


def check_note(message: m.Skip) -> None:
    """WireError when what is to be kept for ever of an operator's decision is out of bounds."""
    if not (_ACTOR.fullmatch(message.actor) and _WHY.fullmatch(message.why)):
        bounds = f"actor must match {_ACTOR.pattern}, why {_WHY.pattern}"
        raise WireError(f"{bounds}; they are {message.actor[:80]!r} and {message.why[:80]!r}")


def refusal(message: m.Register, shards: Mapping[str, list[str]]) -> str:
    """Why a registration cannot be taken whatever the state is; empty when it can. `shards` = nodes by shard."""
    role, name = message.role, message.name
    subject = f"{role} {name!r}"
    if role != NODE and role not in ROLES:
        return f"role {role!r} is not one of {NODE}, {', '.join(ROLES)}"
    if role == NODE and name not in shards.get(message.shard, []):
        known = ", ".join(f"{node} of {shard}" for shard, nodes in shards.items() for node in nodes)
        return f"node {name!r} of shard {message.shard[:20]!r} is not in the configuration; there are {known}"
    for what, text in {"uuid": message.uuid, **({"session": message.session} if role == NODE else {})}.items():
        if not _UUID.fullmatch(text):
            return f"{subject}: {what} must match {_UUID.pattern}, it is {text[:80]!r}"
    if len(message.endpoints) > ENDPOINTS_MAX:
        return f"{subject}: {len(message.endpoints)} endpoints, at most {ENDPOINTS_MAX}"
    for what, endpoint in message.endpoints.items():
        if not (_NAME.fullmatch(what) and _ENDPOINT.fullmatch(endpoint)):
            return f"{subject}: endpoint {what[:20]!r} must match {_ENDPOINT.pattern}, it is {endpoint[:80]!r}"
    if not 0 < message.pid <= PID_MAX:
        return f"{subject}: pid must be 1 to {PID_MAX}, it is {message.pid}"
    return _node_refusal(subject, message, shards) if role == NODE else ""


def _node_refusal(subject: str, message: m.Register, shards: Mapping[str, list[str]]) -> str:
    if len(message.must_equal) > SETTINGS_MAX:
        return f"{subject}: {len(message.must_equal)} settings in must_equal, at most {SETTINGS_MAX}"
    for name, text in message.must_equal.items():
        if not (_SETTING.fullmatch(name) and _SETTING.fullmatch(text)):
            return f"{subject}: setting and value must match {_SETTING.pattern}, they are {name[:80]!r}, {text[:80]!r}"
    replicated = len(shards[message.shard]) > 1
    for what in ("orders", "events", *(("replica",) if replicated else ())):
        endpoint = message.endpoints.get(what, "")
        if not _SOCKET.fullmatch(endpoint):
            return f"{subject}: endpoint {what!r} must match {_SOCKET.pattern}, it is {endpoint[:80]!r}"
    bounds = {
        "promised_epoch": EPOCH_MAX,
        "last_epoch": EPOCH_MAX,
        "last_seq": _VER_MAX,
        "view_ver": _VER_MAX,
        "poisoned_seq": _VER_MAX,
    }
    for what, bound in bounds.items():
        value = getattr(message, what)
        if not 0 <= value <= bound:
            return f"{subject}: {what} must be 0 to {bound}, it is {value}"
    return ""
