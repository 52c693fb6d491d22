"""Seeded command flows: everything that may stand in a journal, mixed so that every rule is hit.

`Flow(seed, commands)` is a pure function of its arguments. The same flow can be cut into records in different ways.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, PRICE_MAX, QUANTITY_MAX, compose_id
from exchange.wire import encode
from shard.core.record import chain_after, encode_record

I64_MAX = (1 << 63) - 1
I64_MIN = -(1 << 63)

TIGHT_BOOK = m.EngineConfig(
    orders_max=30, accounts_max=6, ids_max=260, ids_per_account_max=60, ids_window_ns=60_000, open_orders_max=8
)
TIGHT_WINDOW = m.EngineConfig(
    orders_max=100, accounts_max=4, ids_max=30, ids_per_account_max=9, ids_window_ns=100_000, open_orders_max=12
)
"""Ceilings that a flow of a few hundred commands hits."""
ROOMY = m.EngineConfig(
    orders_max=100_000,
    accounts_max=1_000,
    ids_max=200_000,
    ids_per_account_max=100_000,
    ids_window_ns=10**15,
    open_orders_max=10_000,
)


@dataclass(frozen=True)
class Batch:
    """Commands that share an instant and a term."""

    epoch: int
    ts_ns: int
    commands: tuple[m.Command, ...]


class Flow:
    """A history of one shard: a configuration and the batches that arrived."""

    def __init__(self, seed: int, commands: int, *, config: m.EngineConfig | None = None) -> None:
        self._dice = Random(seed)
        self.config = config or self._dice.choice([TIGHT_BOOK, TIGHT_WINDOW, ROOMY, ROOMY])
        self._accounts = [f"acc{number}" for number in range(self._dice.choice([2, 4, 8]))]
        self._instruments = list(range(self._dice.choice([1, 2, 3])))
        self._ticks = {index: self._dice.choice([1, 1, 2, 5]) for index in self._instruments}
        self._lots = {index: self._dice.choice([1, 1, 3]) for index in self._instruments}
        self._collars = {index: self._dice.choice([0, 0, 150, 10_000]) for index in self._instruments}
        self._submits: list[tuple[str, m.Submit]] = []
        self._entered = dict.fromkeys(self._instruments, 0)
        self._number = 0
        self._ts_ns = 1_000
        self.batches = list(self._batches(commands))

    def records(self, *, batch_commands_max: int = 1_024) -> Iterator[bytes]:
        """The journal: one record a batch, or more where a batch is cut into pieces of `batch_commands_max`.

        A piece needs an instant of its own, which later pieces take from the gap that every batch leaves after it.
        """
        chain, seq = 0, 1
        for batch in self.batches:
            for piece, start in enumerate(range(0, len(batch.commands), batch_commands_max)):
                commands = [encode(command) for command in batch.commands[start : start + batch_commands_max]]
                record = encode_record(
                    epoch=batch.epoch, first_seq=seq, ts_ns=batch.ts_ns + piece, prev_chain=chain, commands=commands
                )
                chain, seq = chain_after(record), seq + len(commands)
                yield record

    # --- generation -----------------------------------------------------------------------------------------------

    def _batches(self, commands: int) -> Iterator[Batch]:
        epoch = self._dice.choice([0, 1])
        opening: list[m.Command] = [m.EpochStart(epoch, "node-a", 7)] if epoch else []
        opening += [self._define(index) for index in self._instruments]
        yield self._batch(epoch, opening)
        left = commands - len(opening)
        while left > 0:
            if self._dice.random() < 0.002:
                epoch += self._dice.choice([1, 5])
                yield self._batch(epoch, [m.EpochStart(epoch, "node-b", self._dice.randrange(100))])
                left -= 1
            size = min(left, self._dice.choice([1, 1, 2, 5, 20, 64, 200]))
            left -= size
            yield self._batch(epoch, [self._command() for _ in range(size)])

    def _batch(self, epoch: int, commands: list[m.Command]) -> Batch:
        leap_ns = self._dice.choice([300, 1_000, 3_000, 30_000]) if self._dice.random() < 0.9 else 200_000
        self._ts_ns += leap_ns
        return Batch(epoch, self._ts_ns, tuple(commands))

    def _command(self) -> m.Command:
        draw = self._dice.random()
        for share, make in (
            (0.49, self._submit),
            (0.12, self._cancel),
            (0.12, self._replace),
            (0.06, self._reduce),
            (0.04, self._repeat),
            (0.03, self._query_order),
            (0.02, self._query_open),
            (0.02, self._resolve),
            (0.05, m.Tick),
            (0.02, self._dead_man),
            (0.006, self._mass_cancel),
            (0.012, self._set_state),
            (0.006, self._set_limit),
        ):
            draw -= share
            if draw < 0:
                return make()
        return self._define(self._dice.choice([*self._instruments, 9]))

    def _account(self) -> str:
        return self._dice.choice(self._accounts) if self._dice.random() < 0.99 else f"guest{self._dice.randrange(40)}"

    def _instrument(self) -> int:
        return self._dice.choice(self._instruments) if self._dice.random() < 0.99 else self._dice.choice([9, 8191])

    def _instrument_or_all(self) -> int:
        return ALL_INSTRUMENTS if self._dice.random() < 0.3 else self._instrument()

    def _price(self, index: int) -> int:
        tick = self._ticks.get(index, 1)
        if self._dice.random() < 0.97:
            return 1_000 + tick * round(self._dice.gauss(0, 6))
        return self._dice.choice([0, -1, 1, 7, 1_003, 5_000, PRICE_MAX, PRICE_MAX + 1, I64_MAX, I64_MIN])

    def _quantity(self, index: int) -> int:
        lot = self._lots.get(index, 1)
        if self._dice.random() < 0.97:
            return lot * self._dice.randint(1, 20)
        return self._dice.choice([0, -1, 1, 2, 4_999, 5_000, QUANTITY_MAX, I64_MAX, I64_MIN])

    def _instant(self, chance: float) -> int:
        """0, or an instant around now."""
        return max(1, self._ts_ns + self._dice.randint(-20_000, 60_000)) if self._dice.random() < chance else 0

    def _define(self, index: int) -> m.DefineInstrument:
        changed = self._dice.random() < 0.1
        return m.DefineInstrument(
            index,
            f"SYM{index}" if self._dice.random() < 0.7 or self._number == 0 else "OTHER",
            self._dice.choice([1, 4]) if changed else self._ticks.get(index, 1),
            self._dice.choice([1, 2]) if changed else self._lots.get(index, 1),
            self._dice.choice([1, 3]),
            self._dice.choice([400, 5_000]),
            self._dice.choice([0, 10]),
            self._dice.choice([3_000, PRICE_MAX]),
            self._collars.get(index, 0),
            self._dice.choice([0, 1_000]),
            self._dice.choice([-1, -1, -1, 150, 900]),
        )

    def _submit(self) -> m.Command:
        self._number += 1
        index = self._instrument()
        market = self._dice.random() < 0.1
        time_in_force = self._dice.choice([1, 2] if market else [0, 0, 0, 0, 0, 1, 2, 3, 4])
        dated = time_in_force == 4
        post_only = not market and time_in_force in (0, 3, 4) and self._dice.random() < 0.15
        if self._dice.random() < 0.01:
            market, time_in_force, dated, post_only = (
                self._dice.random() < 0.5,
                self._dice.randrange(5),
                self._dice.random() < 0.5,
                self._dice.random() < 0.5,
            )
        submit = m.Submit(
            self._account(),
            f"c{self._number}",
            index,
            self._dice.randrange(2),
            int(market),
            time_in_force,
            int(post_only),
            self._dice.randrange(5),
            self._price(index) if not market or self._dice.random() < 0.02 else 0,
            self._quantity(index),
            self._instant(1.0) if dated else 0,
            self._instant(0.05),
            self._instant(0.3),
        )
        self._submits.append((submit.account, submit))
        self._entered[index] = self._entered.get(index, 0) + 1
        return submit

    def _target(self) -> tuple[str, int, int, str]:
        """Account, instrument, order id, target id: mostly of a recent order, sometimes of nobody's."""
        if not self._submits or self._dice.random() < 0.05:
            return self._account(), self._instrument(), self._dice.choice([0, 1, compose_id(1, 3), 2**53 - 1]), "nobody"
        account, submit = self._submits[-self._dice.randint(1, min(30, len(self._submits)))]
        if self._dice.random() < 0.75:
            return account, submit.instrument, 0, submit.client_order_id
        entered = self._entered[submit.instrument]
        counter = max(1, round(entered * 0.75) - self._dice.randrange(30))
        return account, submit.instrument, compose_id(submit.instrument, counter), ""

    def _id(self) -> str:
        """A fresh client order id, none, or one that was used before."""
        draw = self._dice.random()
        if draw < 0.4:
            return ""
        if draw < 0.95:
            self._number += 1
            return f"r{self._number}"
        return f"c{self._dice.randint(1, self._number + 1)}"

    def _cancel(self) -> m.Command:
        account, index, order_id, target_id = self._target()
        return m.Cancel(account, index, order_id, target_id, self._instant(0.05))

    def _replace(self) -> m.Command:
        account, index, order_id, target_id = self._target()
        price, quantity = self._price(index), self._quantity(index)
        if self._submits and self._dice.random() < 0.3:
            price = self._submits[-1][1].price
        stamps = self._instant(0.05), self._instant(0.3)
        basis = self._dice.randrange(2)
        return m.Replace(account, self._id(), index, order_id, target_id, price, quantity, basis, *stamps)

    def _reduce(self) -> m.Command:
        account, index, order_id, target_id = self._target()
        stamps = self._instant(0.05), self._instant(0.3)
        return m.Reduce(account, self._id(), index, order_id, target_id, self._quantity(index), *stamps)

    def _repeat(self) -> m.Command:
        """An earlier Submit again, sometimes with another payload."""
        if not self._submits:
            return m.Tick()
        _, submit = self._submits[-self._dice.randint(1, min(200, len(self._submits)))]
        if self._dice.random() < 0.7:
            return submit
        return m.Submit(submit.account, submit.client_order_id, submit.instrument, 0, 0, 0, 0, 1, 1_000, 10)

    def _query_order(self) -> m.Command:
        account, index, order_id, target_id = self._target()
        return m.QueryOrder(account, ALL_INSTRUMENTS if self._dice.random() < 0.3 else index, order_id, target_id)

    def _query_open(self) -> m.Command:
        after = self._dice.choice([0, 0, compose_id(self._dice.choice(self._instruments), 20)])
        return m.QueryOpen(self._account(), self._instrument_or_all(), after, self._dice.choice([1, 3, 1_000]))

    def _resolve(self) -> m.Command:
        """Of an id that was used, or of one that a coming Submit will use."""
        account = self._submits[-1][0] if self._submits and self._dice.random() < 0.5 else self._account()
        return m.Resolve(account, self._instrument(), f"c{self._dice.randint(1, self._number + 3)}")

    def _dead_man(self) -> m.Command:
        timeout_ns = self._dice.choice([0, 0, 0, 50_000, 400_000, 1 << 62])
        return m.ArmDeadMan(self._account(), self._instrument_or_all(), timeout_ns)

    def _mass_cancel(self) -> m.Command:
        account = self._account() if self._dice.random() < 0.8 else ""
        return m.MassCancel(account, self._instrument_or_all())

    def _set_state(self) -> m.Command:
        state = 0 if self._dice.random() < 0.85 else self._dice.choice([1, 2, 3])
        return m.SetState(self._instrument_or_all(), state, "operator")

    def _set_limit(self) -> m.Command:
        limit = self._dice.choice([-1, -1, 0, 40, 300])
        return m.SetPositionLimit(self._account(), self._instrument(), limit, "operator")
