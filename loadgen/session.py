"""A load test against a running gateway: find its markets, connect, drive, search for the highest rate, clean up.

The gateway must be in the open demo mode (accounts by name), its limits above the load (profile `load`). Load goes to
loopback addresses only: a generator that can be pointed at the machines of others is a weapon.
"""

import ipaddress
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from exchange.clock import wall_ns
from exchange.domain import NS_PER_US
from exchange.errors import ShardexError
from exchange.limits import BATCH_ORDERS_MAX
from exchange.money import decimal_units
from loadgen.client import HttpWire, WsWire, connect_http, connect_ws
from loadgen.dialects import encode_compact, encode_rest, number_of, read_compact, read_rest
from loadgen.openloop import Drive, Lane
from loadgen.report import Report, Tally
from loadgen.workload import LAG_UNITS, Encode, Flow, Market, flow
from shardex.client import Instrument, Login, Refusal, Rest

DURATION_S_MAX = 600.0
CONNECTIONS_MAX = 1_024
IN_FLIGHT_MAX = 256
LAG_UNITS_MIN = 4
"""However many connections share the book, each keeps so much in it."""
SUSTAINED_SHARE = 0.98
"""Of the intended rate, that must be achieved."""
P99_US_MAX = 100_000.0
"""Latency bound of a sustained rate, when the caller names none."""
RATES_TRIED = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of the rate that the closed loop reached; the first that is sustained wins."""

Progress = Callable[[str, float, float, int], None]
"""Called with (what is going on, seconds done, seconds in all, orders answered so far)."""


class LoadError(ShardexError):
    """The load cannot be sent as asked."""


class Options(Struct, frozen=True, kw_only=True):
    """What to send where. `in_flight` = frames of one connection without answer; REST has one."""

    url: str
    protocol: Literal["rest", "ws"] = "ws"
    batch: int = 64
    connections: int = 2
    in_flight: int = 16
    accounts: int = 1
    symbols: tuple[str, ...] = ()
    seed: int = 1


class Load:
    """Connected lanes; use it as an async context. At its end everything that it left in the books is cancelled."""

    def __init__(self, options: Options) -> None:
        check(options)
        self._options = options
        parts = urlsplit(options.url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port or 80
        self._run = f"{wall_ns() // NS_PER_US:x}."
        self._flows: dict[str, Flow] = {}
        self._lanes: list[Lane] = []
        self._wires: list[HttpWire | WsWire] = []

    async def __aenter__(self) -> "Load":
        markets = await self._markets()
        self._build_flows(markets)  # before connecting: a gateway closes connections that send nothing
        try:
            for number in range(self._options.connections):
                self._lanes.append(await self._connect(number))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._close()

    async def drive(
        self, *, rate: float | None, duration_s: float, progress: Progress | None = None, tally: Tally | None = None
    ) -> Report:
        """Send `rate` orders a second, or as many as the window allows (None), and report. Counts go to `tally`."""
        options, tally = self._options, tally if tally is not None else Tally()
        frames_per_s = None if rate is None else rate / options.batch
        run = Drive(self._lanes, frames_per_s=frames_per_s, duration_s=duration_s, tally=tally)
        what = "closed loop" if rate is None else f"{rate:,.0f} orders/s"
        achieved = await run.run(
            lambda seconds: progress(what, seconds, duration_s, tally.answered) if progress is not None else None
        )
        return Report(
            protocol=options.protocol,
            batch=options.batch,
            connections=options.connections,
            in_flight=self._lanes[0].capacity,
            duration_s=duration_s,
            intended_per_s=rate,
            achieved_per_s=achieved,
            sent=tally.sent,
            answered=tally.answered,
            outcomes=dict(tally.outcomes),
            by_shard=dict(tally.by_shard),
            latency=tally.latency(),
        )

    async def find_max(
        self, *, duration_s: float, p99_us_max: float = P99_US_MAX, progress: Progress | None = None
    ) -> Report:
        """The highest sustained open-loop rate: first saturate the window, then try shares of that rate, highest first.

        Each attempt takes `duration_s`. A rate is sustained when SUSTAINED_SHARE of it was answered in time, the 99th
        percentile is within the bound, and nothing was throttled, unavailable, unknown or lost. When none is, the last
        report comes back with `sustained` false.
        """
        ceiling = await self.drive(rate=None, duration_s=duration_s, progress=progress)
        if not ceiling.achieved_per_s:  # everything stood still meanwhile: there is no share of nothing
            return msgspec.structs.replace(ceiling, sustained=False)
        report = ceiling
        for share in RATES_TRIED:
            report = await self.drive(rate=ceiling.achieved_per_s * share, duration_s=duration_s, progress=progress)
            report = msgspec.structs.replace(report, sustained=is_sustained(report, p99_us_max))
            if report.sustained:
                break
        return report

    async def _markets(self) -> list[Market]:
        async with Rest(self._options.url, Login(self._account(0))) as rest:
            try:
                await rest.cancel_all()  # what a load left that was killed; and the question whether we may
            except Refusal as refusal:
                if refusal.status in (401, 403):
                    raise LoadError(
                        f"the gateway at {self._options.url} wants keys; load needs gateway.open_demo = true and "
                        f'gateway.profile = "load"'
                    ) from refusal
                raise
            instruments = await rest.instruments()
            wanted = self._options.symbols or tuple(one.symbol for one in instruments)
            by_name = {name: one for one in instruments for name in (one.market, one.symbol)}
            unknown = [symbol for symbol in wanted if symbol not in by_name]
            if unknown:
                raise LoadError(f"symbol {unknown[0]!r} is not one of {', '.join(one.symbol for one in instruments)}")
            return [_market(one, await rest.last_price(one.symbol)) for one in map(by_name.__getitem__, wanted)]

    def _build_flows(self, markets: list[Market]) -> None:
        """One flow for all connections of an account: REST names the account in each request."""
        options = self._options
        for account in [self._account(number) for number in range(options.accounts)]:
            encode: Encode = encode_compact
            if options.protocol == "rest":
                encode = partial(encode_rest, host=self._host, port=self._port, account=account)
            self._flows[account] = flow(
                markets,
                batch=options.batch,
                run=self._run,
                seed=options.seed,
                encode=encode,
                lag_units=max(LAG_UNITS_MIN, LAG_UNITS // options.connections),
                cancels=options.protocol == "ws" or options.batch == 1,
            )

    async def _connect(self, number: int) -> Lane:
        account = self._account(number)
        wire: HttpWire | WsWire
        if self._options.protocol == "ws":
            path, capacity = f"/ws/orders?user_id={account}", self._options.in_flight
            wire = await connect_ws(self._host, self._port, path, read_compact, number_of, binary=True)
        else:
            wire, capacity = await connect_http(self._host, self._port, read_rest), 1
        self._wires.append(wire)
        return Lane(wire, self._flows[account], capacity, number)

    def _account(self, number: int) -> str:
        return f"load-{number % self._options.accounts}"

    async def _close(self) -> None:
        for wire in self._wires:
            wire.close()
        for number in range(self._options.accounts):
            async with Rest(self._options.url, Login(self._account(number))) as rest:
                await rest.cancel_all()


def is_sustained(report: Report, p99_us_max: float) -> bool:
    """The gateway kept up with the intended rate: see `Load.find_max`."""
    bad = sum(report.outcomes.get(name, 0) for name in ("throttled", "unavailable", "unknown", "lost"))
    assert report.intended_per_s is not None
    kept_up = report.achieved_per_s >= SUSTAINED_SHARE * report.intended_per_s
    return kept_up and not bad and report.latency.p99_us <= p99_us_max


def check(options: Options) -> None:
    """LoadError names everything that is wrong with the options."""
    host = urlsplit(options.url).hostname
    faults = []
    if host is None or not _is_loopback(host):
        faults.append(f"load goes to loopback addresses only, {host or options.url} is none")
    for name, highest in (("batch", BATCH_ORDERS_MAX), ("connections", CONNECTIONS_MAX), ("in_flight", IN_FLIGHT_MAX)):
        value = getattr(options, name)
        if not 1 <= value <= highest:
            faults.append(f"{name} must be 1 to {highest}, not {value}")
    if not 1 <= options.accounts <= options.connections:
        faults.append(
            f"accounts must be 1 to the number of connections ({options.connections}), not {options.accounts}"
        )
    if faults:
        raise LoadError("; ".join(faults))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _market(instrument: Instrument, last: Decimal | None) -> Market:
    price, quantity = instrument.price_decimals, instrument.quantity_decimals
    mid = decimal_units(instrument.reference_price if last is None else last, price)
    return Market(
        symbol=instrument.market,
        index=instrument.index,
        shard=instrument.shard,
        price_decimals=price,
        quantity_decimals=quantity,
        tick=decimal_units(instrument.tick_size, price),
        lot=decimal_units(instrument.lot_size, quantity),
        quantity_min=decimal_units(instrument.quantity_min, quantity),
        mid=mid,
    )
