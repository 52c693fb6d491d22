"""Two judges that share only the engine agree: the checker, which reads the log, and the search, which never does."""

import random
from pathlib import Path

import msgspec
import pytest

from drills.checker.check import Inputs, check
from drills.checker.history import Call, Outcome
from drills.checker.wgl import CALLS_MAX, TooHard, linearizable
from exchange import messages as m
from exchange.domain import Side, TimeInForce
from tests.drills.story import BTC, A, B, Builder, order, write

DEFINITION = m.DefineInstrument(BTC, "BTCUSD", 1, 1, 1, 10**9, 1, 10**9, 1_000, 0, -1)
SEEDS = range(12)
replace = msgspec.structs.replace


def a_random_day(seed: int) -> Builder:
    """Up to four clients at once, few prices, repetitions, unknown outcomes, resolves; s0-b takes over halfway."""
    dice = random.Random(seed)
    builder = Builder()
    builder.lead(A, 1)
    builder.world.promised, builder.world.incarnations = {A: 2, B: 2}, {A: 1, B: 2}
    entered: list[m.Submit] = []
    for turn in range(24):
        if turn == 12:
            builder.lead(B, 2)
        commands: list[m.Command] = []
        for account in dice.sample(["ann", "bob", "eve", "joe"], dice.randint(1, 4)):
            kind = dice.random()
            own = [one for one in entered if one.account == account]
            if kind < 0.6 or not own:
                side, price = dice.choice((Side.BUY, Side.SELL)), dice.randint(98, 102)
                one = order(f"{account}-{turn}", side, dice.randint(1, 9), price, account=account)
                entered.append(replace(one, time_in_force=dice.choice((TimeInForce.GTC, TimeInForce.IOC))))
                commands.append(entered[-1])
            elif kind < 0.75:
                commands.append(dice.choice(own))
            elif kind < 0.9:
                commands.append(m.Cancel(account, BTC, 0, dice.choice(own).client_order_id))
            else:
                commands.append(m.Resolve(account, BTC, dice.choice(own).client_order_id))
        builder.ask(*commands, answered=dice.random() < 0.9)
    return builder


def found(builder: Builder, data: Path) -> dict[str, int]:
    write(builder.world, data)
    inputs = Inputs(data=data, histories=[data / "history.ndjson"], captures=[data / "captures.ndjson"])
    return check(inputs, progress=lambda *_: None).counts


@pytest.mark.parametrize("seed", SEEDS)
def test_both_find_nothing_wrong_with_what_happened(tmp_path: Path, seed: int) -> None:
    builder = a_random_day(seed)
    assert linearizable(builder.world.calls, DEFINITION)
    assert found(builder, tmp_path) == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_both_object_to_an_answer_that_was_never_given(tmp_path: Path, seed: int) -> None:
    builder = a_random_day(seed)
    calls = builder.world.calls
    executed = [n for n, call in enumerate(calls) if call.op == "submit" and call.outcome.status == "NEW"]
    number = random.Random(seed).choice(executed)
    asked = calls[number].command
    assert isinstance(asked, m.Submit)
    outcome = replace(calls[number].outcome, status="FILLED", filled=asked.quantity, reply_crc=-1)
    calls[number] = replace(calls[number], outcome=outcome)
    assert not linearizable(calls, DEFINITION)
    assert found(builder, tmp_path).keys() == {"I5"}


@pytest.mark.parametrize("seed", SEEDS)
def test_both_object_to_a_fill_that_was_denied(tmp_path: Path, seed: int) -> None:
    builder = a_random_day(seed)
    calls = builder.world.calls
    repeated = [call.id for call in calls]
    number = next(
        n
        for n, call in enumerate(calls)
        if call.op == "submit" and call.outcome.status == "FILLED" and repeated.count(call.id) == 1
    )
    calls[number] = replace(calls[number], outcome=Outcome(503, "SHARD_DOWN"))
    assert not linearizable(calls, DEFINITION)
    assert found(builder, tmp_path).keys() == {"I7"}


def test_a_stale_answer_has_no_place_in_any_order(tmp_path: Path) -> None:
    builder = a_random_day(1)
    builder.ask(order("last", Side.BUY, 1, 90))
    calls = builder.world.calls
    fresh, stale = calls[-1], next(call for call in calls if call.op == "submit" and call.outcome.status == "NEW")
    moved = replace(stale, call_ns=fresh.return_ns + 1, return_ns=fresh.return_ns + 2)
    builder.world.calls = [moved if call is stale else call for call in calls]
    assert not linearizable(builder.world.calls, DEFINITION)
    assert found(builder, tmp_path).keys() == {"I6"}


def test_the_search_says_when_it_is_too_much() -> None:
    one = a_random_day(1).world.calls[0]
    many: list[Call] = [one] * (CALLS_MAX + 1)
    with pytest.raises(TooHard, match="at most 200"):
        linearizable(many, DEFINITION)
