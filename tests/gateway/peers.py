"""The gateway's neighbours in its own loop: a coordinator, a shard with the real engine behind it (its journal is
missing), riskd and marketdata. They speak the wire protocol over real sockets and can be told to misbehave.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from exchange import messages as m
from exchange.clock import wall_ns
from exchange.config import Cluster, Config, Gateway, InstrumentEntry, Shard
from exchange.domain import NS_PER_S
from exchange.errors import WireError
from exchange.sockets import Publisher, Router, attach
from exchange.wire import (
    array_body_offset,
    array_header,
    decode_coordinator_inbound,
    decode_frame_head,
    decode_market_inbound,
    decode_risk_inbound,
    decode_shard_inbound,
    encode,
)
from shard.core.engine import create_engine
from shard.core.outcome import event_frame, reply_range
from shard.core.record import encode_batch


def cluster_config(directory: Path, **gateway: object) -> Config:
    """Two shards and three markets; a gateway on a free port in open demo mode unless `gateway` says otherwise."""
    settings = {"port": 0, "open_demo": True, "profile": "load", **gateway}
    return Config(
        cluster=Cluster(data=str(directory), run=str(directory / "run")),
        gateway=Gateway(**settings),  # type: ignore[arg-type]
        shards=[Shard(name="s0"), Shard(name="s1")],
        instruments=[
            InstrumentEntry(base="AAPL", reference_price="150", position_limit="5000"),
            InstrumentEntry(base="MSFT", reference_price="400"),
            InstrumentEntry(
                base="BTC",
                price_decimals=1,
                quantity_decimals=8,
                tick="0.5",
                lot="0.00000001",
                quantity_min="0.0001",
                price_min="0.5",
            ),
        ],
    )


class Served:
    """A Router that gives every message to `take` and stops when closed."""

    def __init__(self, endpoint: str, take: Callable[[bytes, bytes, bytes], None]) -> None:
        self.router = Router()
        self.router.bind(endpoint)
        self._take = take
        self._detach = attach(self.router, self._drain)

    def _drain(self) -> bool:
        while (received := self.router.receive()) is not None:
            self._take(*received)
        return False

    def close(self) -> None:
        self._detach()
        self.router.close()


class ShardPeer:
    """One shard. Its engine outlives `stop` as if it had been recovered from a journal.

    `mute` executes and does not answer; `deaf` reads and does nothing; `refuse` answers Refused with that reason;
    `garble` executes and answers too little.
    """

    def __init__(self, config: Config, name: str) -> None:
        self.name = name
        self.epoch = 0
        self.mute = self.deaf = self.garble = False
        self.garbled = 0
        self.refuse = ""
        self.batches: list[m.Batch] = []
        self.payloads: list[bytes] = []
        self._config = config
        self._ahead_ns = 0
        self._engine = create_engine(config.engine_config())
        self._frames: list[bytes] = []
        self._served: Served | None = None
        self._publisher: Publisher | None = None

    @property
    def entry(self) -> m.ShardEntry:
        """Its line in the shard map."""
        orders, events = (self._config.endpoint(f"{what}.{self.name}") for what in ("orders", "events"))
        return m.ShardEntry(self.name, self.epoch, self.name, self.epoch, orders, events, self._served is not None)

    @property
    def sequence(self) -> int:
        """How many commands its log has."""
        return self._engine.seq()

    def start(self) -> None:
        """A new term begins."""
        self.epoch += 1
        self._served = Served(self.entry.orders_endpoint, self._take)
        self._publisher = Publisher()
        self._publisher.bind(self.entry.events_endpoint)
        self.log(m.EpochStart(self.epoch, self.name, self.epoch))
        self.log(*[_definition(i) for i in self._config.instrument_list() if i.shard == self.name])

    def stop(self) -> None:
        """As by kill -9: whatever is on its way is lost."""
        assert self._served is not None
        assert self._publisher is not None
        self._served.close()
        self._publisher.close()
        self._served = None

    @property
    def arrived(self) -> int:
        """Commands in `batches`; one that was sent again counts once."""
        return sum({batch.batch: batch.count for batch in self.batches}.values())

    def log(self, *commands: m.Command) -> bytes:
        """Execute commands of its own, or a batch's; their replies."""
        return self._execute(b"".join(encode(command) for command in commands), len(commands))

    def pass_time(self, seconds: float = 0.01) -> None:
        """So much later a Tick stands in the log."""
        self._ahead_ns += int(seconds * NS_PER_S)
        self.log(m.Tick())

    def be_late(self) -> None:
        """Its clock is an hour behind from now on: no deadline passes before a command is executed."""
        self._ahead_ns -= 3_600 * NS_PER_S

    def _execute(self, payload: bytes, count: int) -> bytes:
        assert self._publisher is not None
        engine = self._engine
        before = engine.seq()
        ts_ns = max(wall_ns() + self._ahead_ns, engine.ts() + 1)
        record = encode_batch(
            epoch=self.epoch, first_seq=before + 1, ts_ns=ts_ns, prev_chain=0, count=count, payload=payload
        )
        outcome = engine.apply(record)
        self._frames.append(event_frame(outcome))
        published = m.Published(self.name, self.epoch, before, engine.seq())
        self._publisher.send(encode(published), self._frames[-1])
        return reply_range(outcome, 0, count)

    def _take(self, peer: bytes, header: bytes, payload: bytes) -> None:
        assert self._served is not None
        send = self._served.router.send
        message = decode_shard_inbound(header)
        if isinstance(message, m.Follow):
            heads = [frame for frame in self._frames if decode_frame_head(frame).first_seq > message.after_seq]
            if message.after_seq < 0:
                image = m.Image(self.name, message.after_seq, self._engine.seq())
                send(peer, encode(image), self._engine.image())
            else:
                send(
                    peer,
                    encode(m.Frames(self.name, 0, self._engine.seq(), False)),
                    array_header(len(heads)) + b"".join(heads),
                )
            return
        self.batches.append(message)
        self.payloads.append(payload)
        refuse = self.refuse or ("NOT_PRIMARY" if message.epoch not in (0, self.epoch) else "")
        if self.deaf:
            return
        if refuse:
            send(peer, encode(m.Refused(message.batch, self.epoch, refuse, "as the test says")))
            return
        count = self._engine.admit(payload, m.CUSTOMER_COMMANDS)
        assert count == message.count
        replies = self._execute(payload[array_body_offset(payload) :], count)
        if self.garble:
            self.garbled += 1
            send(peer, encode(m.Answers(message.batch, self.epoch)), array_header(0))
        elif not self.mute:
            send(peer, encode(m.Answers(message.batch, self.epoch)), array_header(count) + replies)


def _definition(i: m.Instrument) -> m.DefineInstrument:
    return m.DefineInstrument(
        i.index,
        i.symbol,
        i.tick,
        i.lot,
        i.quantity_min,
        i.quantity_max,
        i.price_min,
        i.price_max,
        i.collar_bps,
        i.reference_price,
        i.position_limit,
    )


class ControlPeer:
    """The coordinator: hands out incarnations, the shard map and, unless it is `away`, a status."""

    def __init__(self, config: Config, shards: list[ShardPeer], *, mapless: bool = False) -> None:
        self._config = config
        self._shards = shards
        self._mapless = mapless
        self._version = 0
        self._incarnation = 0
        self._peers: dict[bytes, None] = {}
        self.away = False
        self.beats: list[m.Beat] = []
        self._served = Served(config.endpoint("control"), self._take)

    def spread(self) -> None:
        """The map has changed: tell everybody."""
        self._version += 1
        for peer in self._peers:
            self._tell(peer)

    def close(self) -> None:
        self._served.close()

    def _tell(self, peer: bytes) -> None:
        entries = [shard.entry for shard in self._shards]
        if not self._mapless:
            self._served.router.send(peer, encode(m.ShardMap(self._version, entries, self._config.instrument_list())))

    def _take(self, peer: bytes, header: bytes, _: bytes) -> None:
        send = self._served.router.send
        match decode_coordinator_inbound(header):
            case m.Register():
                self._peers[peer] = None
                self._version = max(1, self._version)
                self._incarnation += 1
                send(peer, encode(m.Registered(self._incarnation, 0)))
                self._tell(peer)
            case m.Beat() as beat:
                self.beats.append(beat)
                send(peer, encode(m.BeatSeen(self._version, True)))
            case m.AskMap():
                self._tell(peer)
            case m.AskStatus():
                if self.away:
                    return
                stats = {"memory_mb": 20, "trades": 7, "role": "primary", "mode": "paired", "seq": 5, "lag": 0}
                daemons = [
                    m.DaemonStatus(role, name, 1, 1, 0, "healthy", 5, stats, name if role == "shard" else "")
                    for role, name in (("shard", "s0"), ("shard", "s1"), ("riskd", "r0"), ("marketdata", "m0"))
                ]
                shards = [
                    m.ShardStatus(name, 1, 1, name, [name], [name], True, ["SOLO", "NO_FAILOVER"])
                    for name in ("s0", "s1")
                ]
                send(peer, encode(m.ClusterStatus(self._version, "healthy", daemons, shards)))
            case other:
                raise WireError(f"a gateway does not say {type(other).__name__}")


class DeskPeers:
    """riskd and marketdata with fixed answers."""

    def __init__(self, config: Config) -> None:
        self._risk = Served(config.endpoint("risk"), self._positions)
        self._market = Served(config.endpoint("market"), self._market_data)

    def close(self) -> None:
        self._risk.close()
        self._market.close()

    def _positions(self, peer: bytes, header: bytes, _: bytes) -> None:
        question = decode_risk_inbound(header)
        holdings = [m.Holding(0, 300, 0, 50, "4507300", 300), m.Holding(1, 0, 0, 0, "0", 4)]
        answer = m.Positions(question.request, question.account, holdings, {"s0": (1, 9, True), "s1": (1, 4, True)})
        self._risk.router.send(peer, encode(answer))

    def _market_data(self, peer: bytes, header: bytes, _: bytes) -> None:
        question = decode_market_inbound(header)
        answer: m.MarketOutbound
        match question:
            case m.AskBook():
                bids = [(15024 - level, 300) for level in range(question.depth)]
                answer = m.Book(
                    question.request,
                    question.instrument,
                    bids,
                    [(15026, 200)],
                    3,
                    48,
                    1_763_821_800_123_456_789,
                    4,
                    True,
                )
            case m.AskTrades():
                trade = m.PublicTrade(9, 15024, 100, 0, 1_768_469_401_123_456_789, 3, 48)
                answer = m.Trades(question.request, question.instrument, [trade][: question.limit], True)
        self._market.router.send(peer, encode(answer))


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition, bounded."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"{what} did not happen within {seconds} s"
        await asyncio.sleep(0.005)
