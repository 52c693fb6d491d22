"""Who is asking: signatures, clocks, nonces, scopes, the open demo mode. Pure, with injected time."""

import hashlib
import hmac

import pytest

from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError
from gateway.core.auth import Authority, Credentials, Key, Principal, Scope, Signed, parse_keys, sign
from gateway.core.problems import Problem

NOW_MS = 1_763_821_800_000
NOW_NS = NOW_MS * NS_PER_MS
KEYS = {
    "k-trader": Key("alice", ("read", "trade"), "demo-secret"),
    "k-reader": Key("alice", ("read",), "other-secret"),
    "k-ops": Key("olga", ("ops",), "third-secret"),
}
REQUEST = Signed("POST", "/api/submit", "", b'{"symbol":"AAPL"}')


def signed(
    request: Signed = REQUEST,
    *,
    key: str = "k-trader",
    secret: str = "demo-secret",
    at_ms: int = NOW_MS,
    nonce: str = "n-1",
) -> Credentials:
    return Credentials(key, str(at_ms), nonce, sign(secret, request, str(at_ms), nonce))


def authority(*, demo: bool = False) -> Authority:
    return Authority({} if demo else KEYS, demo=demo)


def reason(outcome: Principal | Problem) -> str:
    return outcome.reason if isinstance(outcome, Problem) else outcome.account


def test_the_signature_of_the_documentation() -> None:
    request = Signed("GET", "/api/orders", "symbol=AAPL", b"")
    vector = "ab3500d689d9cebba6941781df5788a6562ebccf8319870fb1b50c0f12ee78ff"
    assert sign("demo-secret", request, "1763821800000", "n-1") == vector


def test_a_signature_is_what_the_standard_library_says() -> None:
    lines = ["POST", "/api/submit", "", hashlib.sha256(REQUEST.body).hexdigest(), str(NOW_MS), "n-1"]
    expected = hmac.new(b"demo-secret", "\n".join(lines).encode(), hashlib.sha256).hexdigest()
    assert sign("demo-secret", REQUEST, str(NOW_MS), "n-1") == expected


def test_a_signed_request_is_its_keys_account_at_its_signed_time() -> None:
    who = authority().identify(signed(at_ms=NOW_MS - 100), REQUEST, "", "trade", NOW_NS)
    assert who == Principal("alice", ("read", "trade"), "k-trader", (NOW_MS - 100) * NS_PER_MS)


def test_hexadecimal_of_either_case_is_accepted() -> None:
    credentials = signed()
    upper = Credentials(credentials.key, credentials.timestamp, credentials.nonce, credentials.signature.upper())
    assert reason(authority().identify(upper, REQUEST, "", "trade", NOW_NS)) == "alice"


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (Credentials(), "KEY"),
        (Credentials(key="k-trader"), "KEY"),
        (signed(secret="wrong"), "KEY"),
        (signed(key="unknown"), "KEY"),
        (signed(key="unknown", secret=""), "KEY"),
        (signed(key="k-reader"), "KEY"),
        (signed(nonce=""), "KEY"),
        (signed(nonce="x" * 65), "KEY"),
        (signed(nonce="two words"), "KEY"),
        (Credentials("k-trader", "soon", "n-1", "00"), "KEY"),
        (Credentials("k-trader", str(NOW_MS), "n-1", "é" * 64), "KEY"),
        (signed(Signed("DELETE", "/api/submit", "", REQUEST.body)), "KEY"),
        (signed(Signed("POST", "/api/orders", "", REQUEST.body)), "KEY"),
        (signed(Signed("POST", "/api/submit", "user_id=alice", REQUEST.body)), "KEY"),
        (signed(Signed("POST", "/api/submit", "", REQUEST.body + b" ")), "KEY"),
        (signed(at_ms=NOW_MS - 5_001), "CLOCK"),
        (signed(at_ms=NOW_MS + 1_001), "CLOCK"),
        (signed(at_ms=NOW_MS - 5_000), "alice"),
        (signed(at_ms=NOW_MS + 1_000), "alice"),
    ],
)
def test_what_is_accepted(credentials: Credentials, expected: str) -> None:
    assert reason(authority().identify(credentials, REQUEST, "", "trade", NOW_NS)) == expected


def test_a_nonce_works_once_for_each_key() -> None:
    house = authority()
    assert reason(house.identify(signed(), REQUEST, "", "trade", NOW_NS)) == "alice"
    assert reason(house.identify(signed(), REQUEST, "", "trade", NOW_NS)) == "KEY"
    other = signed(key="k-reader", secret="other-secret")
    assert reason(house.identify(other, REQUEST, "", "read", NOW_NS)) == "alice", "another key's nonces are its own"
    later_ns = NOW_NS + 7 * NS_PER_S
    again = signed(at_ms=later_ns // NS_PER_MS)
    assert reason(house.identify(again, REQUEST, "", "trade", later_ns)) == "alice", "forgotten after the window"


def test_a_nonce_from_the_future_is_remembered_as_long_as_its_signature_works() -> None:
    house = authority()
    ahead = signed(at_ms=NOW_MS + 1_000)
    assert reason(house.identify(ahead, REQUEST, "", "trade", NOW_NS)) == "alice"
    end_ns = NOW_NS + 6 * NS_PER_S
    assert reason(house.identify(ahead, REQUEST, "", "trade", end_ns)) == "KEY"


@pytest.mark.parametrize("scope", ["read", "trade", "ops"])
@pytest.mark.parametrize("key", ["k-trader", "k-reader", "k-ops"])
def test_every_scope_against_every_key(key: str, scope: Scope) -> None:
    credentials = signed(key=key, secret=KEYS[key].secret)
    expected = KEYS[key].account if scope in KEYS[key].scopes else "FORBIDDEN"
    assert reason(authority().identify(credentials, REQUEST, "", scope, NOW_NS)) == expected


def test_a_user_id_must_be_ones_own_and_others_all_look_alike() -> None:
    outcomes = [
        authority().identify(signed(), REQUEST, claimed, "trade", NOW_NS) for claimed in ("alice", "olga", "nobody")
    ]
    assert reason(outcomes[0]) == "alice"
    assert outcomes[1] == outcomes[2]
    assert reason(outcomes[1]) == "FORBIDDEN"


@pytest.mark.parametrize(
    ("credentials", "claimed", "expected"),
    [
        (Credentials(), "", "demo"),
        (Credentials(), "t1", "t1"),
        (Credentials(key="from-header"), "", "from-header"),
        (Credentials(key="from-header"), "t1", "t1"),
        (Credentials(), "a b", "MALFORMED"),
        (Credentials(), "x" * 33, "MALFORMED"),
        (Credentials(key="é"), "", "MALFORMED"),
    ],
)
def test_in_the_open_demo_mode_requests_name_their_account(
    credentials: Credentials, claimed: str, expected: str
) -> None:
    assert reason(authority(demo=True).identify(credentials, REQUEST, claimed, "trade", NOW_NS)) == expected


def test_the_open_demo_mode_ends_for_good_with_the_first_key() -> None:
    house = authority(demo=True)
    assert house.open_demo
    assert house.replace_keys(KEYS) == []
    assert not house.open_demo
    assert reason(house.identify(Credentials(), REQUEST, "t1", "trade", NOW_NS)) == "KEY"
    assert house.replace_keys({}) == sorted(KEYS)
    assert not house.open_demo


def test_keys_that_are_gone_or_changed_are_named() -> None:
    house = authority()
    changed = {**KEYS, "k-reader": Key("alice", ("read", "trade"), "other-secret")}
    del changed["k-ops"]
    assert house.replace_keys(changed) == ["k-ops", "k-reader"]
    assert reason(house.identify(signed(key="k-ops", secret="third-secret"), REQUEST, "", "ops", NOW_NS)) == "KEY"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"k":{}}',
        b'{"k":{"account":"a","scopes":["fly"],"secret":"s3cret"}}',
        b'{"k":{"account":"a b","scopes":["read"],"secret":"s3cret"}}',
        b'{"k":{"account":"a","scopes":["read"],"secret":""}}',
        b'{"":{"account":"a","scopes":["read"],"secret":"s3cret"}}',
        b'{"k":{"account":"a","scopes":["read"],"secret":"s3cret","x":1}}',
    ],
)
def test_a_wrong_keys_file_is_refused_without_telling_a_secret(content: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(content)
    assert "keys.json" in str(caught.value)
    assert "s3cret" not in str(caught.value)
