"""One shard's committed event stream as a consumer sees it: a cursor, order, gaps, liveness. Pure.

Laws
    Every frame is delivered once and in order: its first_seq is the cursor's seq + 1. What is at or below the cursor is
    a repetition and dropped; what is beyond it is held while the missing part is asked for.
    The cursor moves only by a delivered frame or image, and back only by `retreat` or by an image that is older than
    what was asked for: then the shard's history is shorter than ours (its data was replaced) and the image is right.
    A term only grows; frames of an older one come from a deposed primary and are dropped.
    A stream is live when nothing is known to be missing and something was heard within FOLLOW_SILENCE_NS.
"""

from collections import deque

from msgspec import Struct

from exchange import messages as m
from exchange.errors import WireError
from exchange.limits import (
    FOLLOW_HELD_BYTES_MAX,
    FOLLOW_HELD_FRAMES_MAX,
    FOLLOW_RETRY_MAX_NS,
    FOLLOW_RETRY_MIN_NS,
    FOLLOW_SILENCE_NS,
)
from exchange.wire import decode_frame_head, decode_frames


class Cursor(Struct, frozen=True):
    """Everything up to `seq` is known; `epoch` is the term of the newest frame. (0, 0) = nothing yet."""

    epoch: int = 0
    seq: int = 0


START = Cursor()


class Ask(Struct, frozen=True):
    """Send this to the shard."""

    follow: m.Follow


class Advanced(Struct, frozen=True):
    """The next frame in order, or an image that replaces everything known. `before` = the cursor until then."""

    head: m.FrameHead
    image: bool
    before: Cursor


Output = Ask | Advanced


class Follower:
    """Drive it with what arrives and with `on_tick` at least every 100 ms; do what it returns, in that order.

    All times are monotonic nanoseconds. Malformed or contradictory input raises WireError and changes nothing.
    """

    def __init__(self, shard: str, consumer: str, cursor: Cursor = START) -> None:
        self.shard = shard
        self.cursor = cursor
        self.gaps = 0
        self.images = 0
        self._consumer = consumer
        self._newest_seq = cursor.seq
        self._behind = True
        self._heard_ns: int | None = None
        self._asked_ns: int | None = None
        self._asked_seq: int | None = None
        self._retry_ns = FOLLOW_RETRY_MIN_NS
        self._held: deque[tuple[m.FrameHead, int]] = deque()
        self._held_bytes = 0

    def live(self, now_ns: int) -> bool:
        """Nothing is known to be missing and the shard was heard lately."""
        return not self._behind and self._heard_ns is not None and now_ns - self._heard_ns < FOLLOW_SILENCE_NS

    @property
    def lag(self) -> int:
        """How many commands the newest frame seen is ahead of the cursor."""
        return max(0, self._newest_seq - self.cursor.seq)

    def on_connect(self, now_ns: int) -> list[Output]:
        """The sockets are new: ask at once for what was missed."""
        self._behind = True
        self._retry_ns = FOLLOW_RETRY_MIN_NS
        return [self._ask(now_ns)]

    def on_published(self, header: m.Published, payload: bytes, now_ns: int) -> list[Output]:
        """Take one message of the shard's event socket."""
        self._check_shard(header.shard)
        if header.epoch < self.cursor.epoch:
            return []
        if header.last_seq <= self.cursor.seq:
            self._heard_ns = now_ns
            return []
        head = decode_frame_head(payload)
        if (head.epoch, head.first_seq - 1, head.last_seq) != (header.epoch, header.previous_seq, header.last_seq):
            raise WireError(
                f"event frame of shard {self.shard}: header says epoch {header.epoch}, {header.previous_seq + 1} to "
                f"{header.last_seq}, the frame says epoch {head.epoch}, {head.first_seq} to {head.last_seq}"
            )
        self._heard_ns = now_ns
        self._newest_seq = max(self._newest_seq, head.last_seq)
        if head.first_seq != self.cursor.seq + 1:
            return self._hold(head, len(payload), now_ns)
        outputs: list[Output] = [self._advance(head, image=False)]
        if self._held:
            outputs += self._release()
        self._behind = bool(self._held)
        return outputs

    def on_answer(self, header: m.Frames | m.Image, payload: bytes, now_ns: int) -> list[Output]:
        """Take one answer of the shard to a Follow."""
        self._check_shard(header.shard)
        if isinstance(header, m.Image):
            return self._on_image(header, payload, now_ns)
        heads = [decode_frame_head(frame) for frame in decode_frames(payload)]
        self._heard_ns = now_ns
        before = self.cursor
        outputs: list[Output] = []
        missing = False
        for head in heads:
            if head.last_seq <= self.cursor.seq or head.epoch < self.cursor.epoch:
                continue
            if head.first_seq != self.cursor.seq + 1:
                missing = True
                break
            outputs.append(self._advance(head, image=False))
        outputs += self._release()
        self._behind = missing or header.more or bool(self._held)
        if self.cursor != before:
            self._retry_ns = FOLLOW_RETRY_MIN_NS
            if self._behind:
                outputs.append(self._ask(now_ns))
        return outputs

    def on_tick(self, now_ns: int) -> list[Output]:
        """Time passes: ask again for what is missing, with back-off; ask a silent shard whether it is there."""
        silent = self._heard_ns is None or now_ns - self._heard_ns >= FOLLOW_SILENCE_NS
        due = self._asked_ns is None or now_ns - self._asked_ns >= self._retry_ns
        return [self._ask(now_ns)] if due and (self._behind or silent) else []

    def retreat(self, cursor: Cursor) -> None:
        """The consumer could not use what came after `cursor`: fetch it again, with back-off."""
        self.cursor = cursor
        self._behind = True
        self._held.clear()
        self._held_bytes = 0

    def _on_image(self, header: m.Image, payload: bytes, now_ns: int) -> list[Output]:
        head = decode_frame_head(payload)
        if head.last_seq != header.seq:
            raise WireError(f"image of shard {self.shard}: header says {header.seq}, the image says {head.last_seq}")
        # A question that was asked twice is answered twice; the second answer must not take us back once more.
        replaced = header.seq < header.after_seq == self._asked_seq
        self._heard_ns = now_ns
        if header.after_seq == self._asked_seq:
            self._asked_seq = None
        if not replaced and (head.last_seq <= self.cursor.seq or head.epoch < self.cursor.epoch):
            return []
        if replaced:
            self._held.clear()
            self._held_bytes = 0
            self._newest_seq = head.last_seq
        self.images += 1
        outputs: list[Output] = [self._advance(head, image=True), *self._release()]
        self._behind = bool(self._held)
        self._retry_ns = FOLLOW_RETRY_MIN_NS
        return outputs

    def _hold(self, head: m.FrameHead, size: int, now_ns: int) -> list[Output]:
        """Keep an early frame; the held ones always follow each other without a hole."""
        if not self._behind:
            self.gaps += 1
            self._retry_ns = FOLLOW_RETRY_MIN_NS
            self._asked_ns = None
        self._behind = True
        if self._held and head.last_seq <= self._held[-1][0].last_seq:
            return []
        full = len(self._held) >= FOLLOW_HELD_FRAMES_MAX or self._held_bytes + size > FOLLOW_HELD_BYTES_MAX
        if full or (self._held and head.first_seq != self._held[-1][0].last_seq + 1):
            self._held.clear()
            self._held_bytes = 0
        self._held.append((head, size))
        self._held_bytes += size
        return self.on_tick(now_ns)

    def _release(self) -> list[Output]:
        outputs: list[Output] = []
        while self._held:
            head, size = self._held[0]
            if head.first_seq > self.cursor.seq + 1:
                break
            self._held.popleft()
            self._held_bytes -= size
            if head.first_seq == self.cursor.seq + 1 and head.epoch >= self.cursor.epoch:
                outputs.append(self._advance(head, image=False))
        return outputs

    def _advance(self, head: m.FrameHead, *, image: bool) -> Advanced:
        before = self.cursor
        self.cursor = Cursor(head.epoch, head.last_seq)
        self._newest_seq = max(self._newest_seq, head.last_seq)
        return Advanced(head, image, before)

    def _ask(self, now_ns: int) -> Ask:
        if self._asked_ns is not None:
            self._retry_ns = min(2 * self._retry_ns, FOLLOW_RETRY_MAX_NS)
        self._asked_ns = now_ns
        self._asked_seq = self.cursor.seq
        return Ask(m.Follow(self._consumer, self.cursor.seq))

    def _check_shard(self, shard: str) -> None:
        if shard != self.shard:
            raise WireError(f"stream of shard {self.shard}: message comes from shard {shard!r}")
