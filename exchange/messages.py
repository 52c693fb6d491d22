"""Commands, replies, event frames and the control messages between daemons, as frozen structs.

Every struct is a MessagePack array. Fields are append-only. The engine's own four families (commands, replies, event
frames, snapshots) are specified to the byte in docs/PROTOCOL.md, because two engines must agree on them.
"""

from typing import Any

from msgspec import Raw, Struct

from exchange.domain import ALL_INSTRUMENTS


class Wire(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that crosses a socket or lies in a journal."""


# --- commands: ask; one MessagePack array each, first element is the tag -----------------------------------------


class Submit(Wire, frozen=True, tag=1):
    """Enter an order. `price` 0 for MARKET; `expire_ns` only for GTD; 0 means "none" for the three instants."""

    account: str
    client_order_id: str
    instrument: int
    side: int
    kind: int
    time_in_force: int
    flags: int
    self_trade: int
    price: int
    quantity: int
    expire_ns: int = 0
    deadline_ns: int = 0
    client_ns: int = 0


class Cancel(Wire, frozen=True, tag=2):
    """Cancel the order named by `order_id`, or when that is 0 by `target_id`, its client order id."""

    account: str
    instrument: int
    order_id: int
    target_id: str = ""
    deadline_ns: int = 0


class Replace(Wire, frozen=True, tag=3):
    """Change price and quantity. Priority stays only when the price stays and the open quantity does not grow."""

    account: str
    client_order_id: str
    instrument: int
    order_id: int
    target_id: str
    price: int
    quantity: int
    basis: int
    deadline_ns: int = 0
    client_ns: int = 0


class Reduce(Wire, frozen=True, tag=4):
    """Lower the open quantity by `quantity`, keeping priority; down to zero or below is a cancel."""

    account: str
    client_order_id: str
    instrument: int
    order_id: int
    target_id: str
    quantity: int
    deadline_ns: int = 0
    client_ns: int = 0


class MassCancel(Wire, frozen=True, tag=5):
    """Cancel all orders of `account` ("" = everybody, operators only) in `instrument` or in all of the shard."""

    account: str
    instrument: int = ALL_INSTRUMENTS


class SetState(Wire, frozen=True, tag=6):
    """Change the trading state of one instrument or of all."""

    instrument: int
    state: int
    actor: str


class DefineInstrument(Wire, frozen=True, tag=7):
    """Create or change an instrument. `collar_bps` 0 = no collar, `position_limit` -1 = none."""

    index: int
    symbol: str
    tick: int
    lot: int
    quantity_min: int
    quantity_max: int
    price_min: int
    price_max: int
    collar_bps: int
    reference_price: int
    position_limit: int


class SetPositionLimit(Wire, frozen=True, tag=8):
    """Override the position limit of one account in one instrument; -1 returns to the instrument's own."""

    account: str
    instrument: int
    limit: int
    actor: str


class Tick(Wire, frozen=True, tag=9):
    """Time passes: drives GTD expiry, dead-man timers and the ageing of the de-duplication window."""


class EpochStart(Wire, frozen=True, tag=10):
    """First command of each term of a primary."""

    epoch: int
    node: str
    incarnation: int


class QueryOrder(Wire, frozen=True, tag=11):
    """Ask for one order. It travels through the log, so the answer is as good as a decision."""

    account: str
    instrument: int
    order_id: int
    target_id: str = ""


class QueryOpen(Wire, frozen=True, tag=12):
    """Ask for open orders of an account, ascending by order id, those above `after_order_id`, at most `limit`."""

    account: str
    instrument: int = ALL_INSTRUMENTS
    after_order_id: int = 0
    limit: int = 1000


class Resolve(Wire, frozen=True, tag=13):
    """Make an unknown outcome known: the recorded answer of the id, or a tombstone that voids a late original."""

    account: str
    instrument: int
    client_order_id: str


class ArmDeadMan(Wire, frozen=True, tag=14):
    """Cancel the account's orders once `timeout_ns` of log time pass without this being repeated; 0 disarms."""

    account: str
    instrument: int
    timeout_ns: int


Command = (
    Submit
    | Cancel
    | Replace
    | Reduce
    | MassCancel
    | SetState
    | DefineInstrument
    | SetPositionLimit
    | Tick
    | EpochStart
    | QueryOrder
    | QueryOpen
    | Resolve
    | ArmDeadMan
)

CUSTOMER_COMMANDS = sum(1 << tag for tag in (1, 2, 3, 4, 5, 11, 12, 13, 14))
"""Bit mask of the tags that a gateway may send (a MassCancel needs an account there)."""
OPERATOR_COMMANDS = CUSTOMER_COMMANDS | sum(1 << tag for tag in (6, 7, 8))
"""What the coordinator may send."""
SHARD_COMMANDS = OPERATOR_COMMANDS | 1 << 9 | 1 << 10
"""What the shard itself may log: everything."""


# --- replies: exactly one for each command, in command order ------------------------------------------------------


class Fill(Wire, frozen=True):
    """One maker filled by this command, at the maker's price."""

    trade_id: int
    price: int
    quantity: int


class Executed(Wire, frozen=True, tag=1):
    """The command took effect. `remaining` = what was not executed: open if `status` is open, else given up."""

    epoch: int
    seq: int
    ts_ns: int
    duplicate: bool
    order_id: int
    status: int
    reason: int
    filled: int
    remaining: int
    fills: list[Fill]


class Rejected(Wire, frozen=True, tag=2):
    """The command had no effect. `value` broke the rule whose limit is `bound` (0, 0 where a rule has none)."""

    epoch: int
    seq: int
    ts_ns: int
    duplicate: bool
    code: int
    value: int
    bound: int
    order_id: int


class OrderInfo(Wire, frozen=True):
    """One order as it stands: `quantity` = filled + leaves while open; after that = filled + what was given up."""

    order_id: int
    client_order_id: str
    instrument: int
    side: int
    kind: int
    time_in_force: int
    flags: int
    self_trade: int
    price: int
    quantity: int
    filled: int
    leaves: int
    status: int
    reason: int
    created_ns: int
    expire_ns: int


class Order(Wire, frozen=True, tag=3):
    """Answer to QueryOrder."""

    epoch: int
    seq: int
    ts_ns: int
    info: OrderInfo


class Orders(Wire, frozen=True, tag=4):
    """Answer to QueryOpen; `more` = ask again after the last one."""

    epoch: int
    seq: int
    ts_ns: int
    infos: list[OrderInfo]
    more: bool


class Swept(Wire, frozen=True, tag=5):
    """Answer to MassCancel: how many orders were cancelled."""

    epoch: int
    seq: int
    ts_ns: int
    count: int


class Done(Wire, frozen=True, tag=6):
    """Answer to a command that has nothing else to tell."""

    epoch: int
    seq: int
    ts_ns: int


Reply = Executed | Rejected | Order | Orders | Swept | Done


# --- event frames: what happened; one frame for each journal record -----------------------------------------------


class TradeRow(Wire, frozen=True):
    """One trade, at the maker's price. `leaves` are the open quantities after it."""

    seq: int
    sub: int
    trade_id: int
    price: int
    quantity: int
    taker_side: int
    taker_order_id: int
    maker_order_id: int
    taker_account: str
    maker_account: str
    taker_client_order_id: str
    maker_client_order_id: str
    taker_leaves: int
    maker_leaves: int


class LevelRow(Wire, frozen=True):
    """A price level as it stands after the record; quantity 0 = the level is gone."""

    instrument: int
    side: int
    price: int
    quantity: int
    orders: int


class PositionRow(Wire, frozen=True):
    """Position and open quantities of one account in one instrument as they stand after the record."""

    account: str
    instrument: int
    position: int
    open_buy: int
    open_sell: int


class OrderRow(Wire, frozen=True):
    """One step in an order's life; `kind` is an OrderEvent."""

    seq: int
    sub: int
    kind: int
    order_id: int
    account: str
    client_order_id: str
    side: int
    price: int
    quantity: int
    leaves: int
    reason: int


class StateRow(Wire, frozen=True):
    """A trading state that was entered, by whom."""

    seq: int
    sub: int
    instrument: int
    state: int
    actor: str


class EventFrame(Wire, frozen=True, tag=1):
    """All that one committed record did. Levels and positions are absolute: applying a frame twice does no harm.

    An *image* has the same shape: every level, position and state as of `last_seq`. Consumers that need one
    section only decode with `FrameHead`, which leaves the others as undecoded bytes.
    """

    epoch: int
    first_seq: int
    last_seq: int
    ts_ns: int
    trades: list[TradeRow]
    levels: list[LevelRow]
    positions: list[PositionRow]
    orders: list[OrderRow]
    states: list[StateRow]


class FrameHead(Wire, frozen=True, tag=1):
    """The same bytes as EventFrame with every section left undecoded."""

    epoch: int
    first_seq: int
    last_seq: int
    ts_ns: int
    trades: Raw
    levels: Raw
    positions: Raw
    orders: Raw
    states: Raw


class EngineConfig(Wire, frozen=True):
    """Ceilings of one engine; part of no journal, equal on all replicas of a shard."""

    orders_max: int
    accounts_max: int
    ids_max: int
    ids_per_account_max: int
    ids_window_ns: int
    open_orders_max: int


# --- gateway and consumers <-> shard: two ZeroMQ frames, this header and a payload ---------------------------------


class Batch(Wire, frozen=True, tag=1):
    """Orders of one gateway loop turn for one shard. Payload: MessagePack array of `count` commands.

    `epoch` is the term that the sender believes in; 0 = any. Answered by Answers or Refused with the same `batch`.
    """

    sender: str
    incarnation: int
    batch: int
    epoch: int
    count: int


class Answers(Wire, frozen=True, tag=2):
    """Committed outcomes of a batch. Payload: MessagePack array of the replies, in the order of its commands."""

    batch: int
    epoch: int


class Refused(Wire, frozen=True, tag=3):
    """Nothing of the batch was executed and nothing of it will be. No payload."""

    batch: int
    epoch: int
    reason: str
    detail: str


class Follow(Wire, frozen=True, tag=4):
    """A consumer of committed events asks for everything after `after_seq` (0 = from the start). Answered by Frames, or
    by an Image when the shard no longer holds what comes next, or does not yet reach `after_seq`."""

    consumer: str
    after_seq: int


class Frames(Wire, frozen=True, tag=5):
    """Re-sent event frames, oldest first. Payload: MessagePack array of frames; `more` = ask again."""

    shard: str
    first_seq: int
    last_seq: int
    more: bool


class Image(Wire, frozen=True, tag=6):
    """The ring no longer holds what was asked for. Payload: an image (EventFrame); its trades are recent ones.

    `seq` below `after_seq`, the one of the question: the shard has never come so far.
    """

    shard: str
    after_seq: int
    seq: int


class Published(Wire, frozen=True, tag=7):
    """Header on the PUB socket. Payload: one event frame. `previous_seq` = last_seq of the frame before it."""

    shard: str
    epoch: int
    previous_seq: int
    last_seq: int


ShardInbound = Batch | Follow
ShardOutbound = Answers | Refused | Frames | Image


# --- everybody <-> coordinator ------------------------------------------------------------------------------------


class Instrument(Wire, frozen=True):
    """Reference data of one instrument; prices and quantities in units of 10^-decimals."""

    index: int
    symbol: str
    base: str
    quote: str
    price_decimals: int
    quantity_decimals: int
    tick: int
    lot: int
    quantity_min: int
    quantity_max: int
    price_min: int
    price_max: int
    collar_bps: int
    reference_price: int
    position_limit: int
    shard: str


class ShardEntry(Wire, frozen=True):
    """Who leads a shard, in which term, and where it is reached. `epoch` 0 = nobody yet."""

    shard: str
    epoch: int
    node: str
    incarnation: int
    orders_endpoint: str
    events_endpoint: str
    serving: bool


class ShardMap(Wire, frozen=True, tag=20):
    """The one answer to "where does this symbol live"; `version` grows with every change."""

    version: int
    shards: list[ShardEntry]
    instruments: list[Instrument]


class Register(Wire, frozen=True, tag=21):
    """A daemon starts and gets an incarnation; a node of a shard is also told the shard's present epoch.

    The rest is of a node: `uuid` = its journal's, `session` is new with every process, `last_epoch` = term of its last
    record, `lossy` = the machine was started anew since it last wrote, without an orderly end: what was not synced then
    may be gone, `view_ver` = newest version of the shard's metadata that it has seen, `poisoned_seq` = the command that
    ended its last process and that it will not run again unless told: it can neither lead nor follow (0 = none),
    `must_equal` = settings that all nodes of a shard must have alike, as text by name.
    """

    role: str
    name: str
    pid: int
    uuid: str
    last_seq: int
    promised_epoch: int
    endpoints: dict[str, str]
    shard: str = ""
    session: str = ""
    last_epoch: int = 0
    boot_id: str = ""
    lossy: bool = False
    view_ver: int = 0
    poisoned_seq: int = 0
    must_equal: dict[str, str] = {}


class Registered(Wire, frozen=True, tag=22):
    """Answer to Register, followed by the current ShardMap.

    `session` = that of the Register, or its `uuid` where it names none: who was started again under the same name must
    not take the incarnation of the process before. `over` = that session has ended, its process must start again.
    """

    incarnation: int
    epoch: int
    refused: str = ""
    session: str = ""
    over: bool = False


class Beat(Wire, frozen=True, tag=23):
    """Heartbeat with the daemon's own view of its health; `stats` are flat numbers and short texts."""

    role: str
    name: str
    incarnation: int
    sent_ns: int
    ready: bool
    stats: dict[str, Any]


class BeatSeen(Wire, frozen=True, tag=24):
    """Answer to Beat: the newest map version, so that a missed map is noticed within one beat."""

    map_version: int
    known: bool


class AskMap(Wire, frozen=True, tag=25):
    """Ask for the current ShardMap."""


class AskStatus(Wire, frozen=True, tag=26):
    """Ask for the health of everything."""


class DaemonStatus(Wire, frozen=True):
    """One daemon as the coordinator sees it. `age_ms` = since its last heartbeat; only nodes have `shard`, `epoch`."""

    role: str
    name: str
    pid: int
    incarnation: int
    epoch: int
    health: str
    age_ms: int
    stats: dict[str, Any]
    shard: str = ""


class ShardStatus(Wire, frozen=True):
    """One shard: who leads it, who is in sync, what is not as it should be.

    Flags: SOLO = one copy only; NO_FAILOVER = nobody could take over now; FLAPPING = it changed hands too often, only
    an operator moves it now; UNCLEAN = acknowledged orders may have been given up once; METADATA_BEHIND = the control
    store went back in time, nothing is decided; LOGS_AWAITED = nobody leads until the nodes have shown their journals;
    FROZEN = whoever could lead died of the command `frozen_seq`, and waits for an operator; CLOCK = the wall clock of
    a node is so far from log time that log time does not follow it. `skip` = commands that operators had left out.
    """

    shard: str
    epoch: int
    ver: int
    primary: str
    isr: list[str]
    nodes: list[str]
    serving: bool
    flags: list[str]
    frozen_seq: int = 0
    skip: list[int] = []


class ClusterStatus(Wire, frozen=True, tag=27):
    """Answer to AskStatus. `health` is healthy, degraded or unhealthy."""

    map_version: int
    health: str
    daemons: list[DaemonStatus]
    shards: list[ShardStatus] = []


class Administer(Wire, frozen=True, tag=28):
    """An operator's command for one shard or, with "", for all. Payload: MessagePack array of commands."""

    actor: str
    shard: str
    commands: Raw


class Administered(Wire, frozen=True, tag=29):
    """Answer to Administer: what each shard said, or why it did not."""

    results: dict[str, str]


class Member(Wire, frozen=True):
    """One uptime session of one node of a shard, and where its replication door is."""

    node: str
    incarnation: int
    endpoint: str


class ShardView(Wire, frozen=True, tag=30):
    """A shard's metadata as the control store has it; `ver` grows with every change.

    `isr` = the recorded in-sync set: every member has every committed record (rule R2). `members` = all registered.
    `skip` = seqs of commands that are left out wherever the log is executed (rule R14), ascending.
    """

    shard: str
    ver: int
    epoch: int
    primary: Member
    isr: list[Member]
    members: list[Member]
    skip: list[int] = []


class AskIsr(Wire, frozen=True, tag=31):
    """The primary of `epoch` asks to record another in-sync set in place of the one in `ver` of the metadata.

    It is granted only while the metadata stands at `ver`, so a view with a higher one decides it for ever. A process
    never gives two questions the same `request`, over all terms that it leads.
    """

    shard: str
    request: int
    ver: int
    epoch: int
    node: str
    incarnation: int
    isr: list[Member]


class IsrAnswer(Wire, frozen=True, tag=32):
    """What the store holds after a question of this incarnation was decided, for ever: no copy of it that is still on
    its way can be granted, or change anything. `accepted` = the set asked for is the recorded one.
    """

    request: int
    incarnation: int
    accepted: bool
    view: ShardView


class StepDown(Wire, frozen=True, tag=33):
    """The coordinator asks the primary of `epoch` to drain and hand over to `to` (planned switch)."""

    shard: str
    epoch: int
    to: Member


class Ended(Wire, frozen=True, tag=47):
    """A hint of the coordinator to a primary: the process of `member` has ended, its silence need not be awaited."""

    shard: str
    member: Member


class Drained(Wire, frozen=True, tag=34):
    """The primary of `epoch` has stopped; `to` holds everything up to `seq` and may be promoted."""

    shard: str
    epoch: int
    node: str
    incarnation: int
    to: Member
    seq: int


class Switch(Wire, frozen=True, tag=35):
    """An operator asks for a planned switch of one shard."""

    actor: str
    shard: str


class Elect(Wire, frozen=True, tag=36):
    """An operator makes `node` the primary; outside the in-sync set only with `accept_loss`, and marked for ever."""

    actor: str
    shard: str
    node: str
    accept_loss: bool


class Operated(Wire, frozen=True, tag=37):
    """Answer to Switch, Elect, Skip and Clock: empty `refused` = it is done, and recorded where it changes a record."""

    refused: str


class Skip(Wire, frozen=True, tag=38):
    """An operator has the command `seq` of a frozen shard left out, `why` says the record for ever (rule R14)."""

    actor: str
    shard: str
    seq: int
    why: str


class Clock(Wire, frozen=True, tag=39):
    """An operator says that the wall clock of a shard's primary is right, whatever log time says (rule R15)."""

    actor: str
    shard: str


class TakeClock(Wire, frozen=True, tag=50):
    """The same to the primary of `epoch`."""

    shard: str
    epoch: int


CoordinatorInbound = (
    Register | Beat | AskMap | AskStatus | Administer | AskIsr | Drained | Switch | Elect | Skip | Clock
)
CoordinatorOutbound = (
    ShardMap
    | Registered
    | BeatSeen
    | ClusterStatus
    | Administered
    | ShardView
    | IsrAnswer
    | StepDown
    | Ended
    | Operated
    | TakeClock
)


# --- node <-> node of one shard: every message names term, sender and target (rule R7) -------------------------------


class Term(Wire, frozen=True):
    """Where one term ends in a journal: its last seq and the chain behind it."""

    epoch: int
    last_seq: int
    chain: int


class Join(Wire, frozen=True, tag=60):
    """Standby to primary: here I am, this is my journal; where do we part?"""

    epoch: int
    sender: int
    target: int
    node: str
    terms: list[Term]


class JoinAt(Wire, frozen=True, tag=61):
    """Primary to standby: our journals agree up to `cut_seq`; cut what is behind it. `snapshot` = I no longer have
    the records behind it, take a snapshot first. `last_seq` = where your journal ended when you asked."""

    epoch: int
    sender: int
    target: int
    cut_seq: int
    snapshot: bool
    last_seq: int


class Append(Wire, frozen=True, tag=62):
    """Primary to standby. Payload: whole records that follow `prev_seq`, or nothing: a heartbeat.

    Everything up to `commit_seq` is committed.
    """

    epoch: int
    sender: int
    target: int
    prev_seq: int
    commit_seq: int


class Appended(Wire, frozen=True, tag=63):
    """Standby to primary: everything up to `last_seq` is as durable as the mode asks; `trail` is the engine's there."""

    epoch: int
    sender: int
    target: int
    last_seq: int
    chain: int
    trail: int


class Fenced(Wire, frozen=True, tag=64):
    """The sender has promised `epoch`, which is above the receiver's."""

    epoch: int
    sender: int
    target: int


class SnapshotAsk(Wire, frozen=True, tag=65):
    """Standby to primary: the next part of your snapshot from `offset` on (0 = begin)."""

    epoch: int
    sender: int
    target: int
    seq: int
    offset: int


class SnapshotPart(Wire, frozen=True, tag=66):
    """Primary to standby. Payload: part of the snapshot file of `seq` at `offset`; `total` bytes in all."""

    epoch: int
    sender: int
    target: int
    seq: int
    offset: int
    total: int


class Diverged(Wire, frozen=True, tag=67):
    """Primary to standby: the same log gave you another outcome at `seq` than it gave me; stop (rule R13)."""

    epoch: int
    sender: int
    target: int
    seq: int
    detail: str


ReplicaMessage = Join | JoinAt | Append | Appended | Fenced | SnapshotAsk | SnapshotPart | Diverged


# --- gateway <-> riskd and marketdata: one request, one answer with the same `request` ------------------------------


class AskPositions(Wire, frozen=True, tag=40):
    """Positions of one account over all shards."""

    request: int
    account: str


class Holding(Wire, frozen=True):
    """One account in one instrument. `cost` = signed sum of price x quantity of the open position at average cost,
    `realised` = profit of what was closed, both in price units times quantity units, as text because they can exceed
    64 bits; `volume` = traded quantity. `exact` = no trade is missing from the three (see riskd.core.positions)."""

    instrument: int
    position: int
    open_buy: int
    open_sell: int
    cost: str
    volume: int
    realised: str = "0"
    exact: bool = True


class Positions(Wire, frozen=True, tag=41):
    """Answer to AskPositions; `as_of` = per shard (epoch, seq, stream is live). `exposure` = per quote currency the
    worst case of all open orders at the last price, as decimal text."""

    request: int
    account: str
    holdings: list[Holding]
    as_of: dict[str, tuple[int, int, bool]]
    exposure: dict[str, str] = {}


class AskBook(Wire, frozen=True, tag=42):
    """Depth of one instrument, `depth` levels a side."""

    request: int
    instrument: int
    depth: int


class Book(Wire, frozen=True, tag=43):
    """Answer to AskBook: levels are [price, quantity], best first. `live` = the stream is current."""

    request: int
    instrument: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]
    epoch: int
    seq: int
    ts_ns: int
    age_ms: int
    live: bool


class AskTrades(Wire, frozen=True, tag=44):
    """The newest `limit` trades of one instrument."""

    request: int
    instrument: int
    limit: int


class PublicTrade(Wire, frozen=True):
    """A trade without its parties. `side` is the aggressor's."""

    trade_id: int
    price: int
    quantity: int
    side: int
    ts_ns: int
    epoch: int
    seq: int


class Trades(Wire, frozen=True, tag=45):
    """Answer to AskTrades, newest first."""

    request: int
    instrument: int
    trades: list[PublicTrade]
    live: bool


class NotServed(Wire, frozen=True, tag=46):
    """The request cannot be answered; `detail` says why."""

    request: int
    detail: str


RiskInbound = AskPositions
RiskOutbound = Positions | NotServed
MarketInbound = AskBook | AskTrades
MarketOutbound = Book | Trades | NotServed
