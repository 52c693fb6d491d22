"""A daemon's place in the cluster: registration, heartbeats, the newest shard map. Pure: messages in, messages out."""

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from exchange import messages as m
from exchange.limits import BEAT_INTERVAL_NS, REGISTER_RETRY_NS
from exchange.wire import encode

Stats = Callable[[], tuple[bool, Mapping[str, Any]]]


class Membership:
    """Keeps one daemon registered with the coordinator.

    Drive it with `on_message` for everything that comes from the coordinator and `on_tick` at least every 100 ms; send
    what they return. A coordinator that is away changes nothing here: the last map stays in force.
    """

    def __init__(self, register: m.Register, stats: Stats, *, beat_interval_ns: int = BEAT_INTERVAL_NS) -> None:
        self._register = register
        self._stats = stats
        self._beat_interval_ns = beat_interval_ns
        self._asked_ns: int | None = None
        self._beat_ns: int | None = None
        self.incarnation = 0
        self.epoch = 0
        self.refused = ""
        self.over = False
        self.map: m.ShardMap | None = None

    @property
    def registered(self) -> bool:
        """The coordinator has given this process its incarnation."""
        return self.incarnation > 0

    def update(self, register: m.Register) -> None:
        """What to say from the next registration on."""
        self._register = register

    def on_tick(self, now_ns: int) -> list[bytes]:
        """Messages that are due at monotonic time `now_ns`."""
        if not self.registered:
            if self._asked_ns is not None and now_ns - self._asked_ns < REGISTER_RETRY_NS:
                return []
            self._asked_ns = now_ns
            return [encode(self._register)]
        if self._beat_ns is not None and now_ns - self._beat_ns < self._beat_interval_ns:
            return []
        self._beat_ns = now_ns
        return [self.beat(now_ns)]

    def beat(self, now_ns: int) -> bytes:
        """A heartbeat to send right now, for example after a change of readiness."""
        ready, stats = self._stats()
        register = self._register
        return encode(m.Beat(register.role, register.name, self.incarnation, now_ns, ready, dict(stats)))

    def on_message(self, message: m.CoordinatorOutbound, now_ns: int) -> list[bytes]:
        """Take one message of the coordinator; returns what to send in answer."""
        match message:
            case m.Registered():
                if message.session not in ("", self._register.session or self._register.uuid):
                    return []  # meant for the process before this one
                self.refused, self.over = message.refused, message.over
                if not message.refused:
                    self.incarnation, self.epoch = message.incarnation, message.epoch
                    self._beat_ns = None
                    return self.on_tick(now_ns)
                return []
            case m.ShardMap():
                if self.map is None or message.version > self.map.version:
                    self.map = message
                return []
            case m.BeatSeen():
                if not message.known:
                    self.incarnation = 0
                    self._asked_ns = None
                    return self.on_tick(now_ns)
                if self.map is None or message.map_version > self.map.version:
                    return [encode(m.AskMap())]
                return []
            case m.ClusterStatus() | m.Administered() | m.Operated():
                return []
            case m.ShardView() | m.IsrAnswer() | m.StepDown() | m.Ended() | m.TakeClock():
                return []  # a shard's own business
            case _:
                assert_never(message)
