"""Reads whole records back from a journal that is being written, for a standby that is behind.

Sequential reading is one file read for each piece. Finding a place takes a sparse index and short steps, so that the
shard's loop never waits for more than a block: one step costs some milliseconds at most.
"""

import os
from bisect import bisect_right, insort
from pathlib import Path
from struct import Struct as Layout

from exchange.errors import JournalError
from shard.core.journal import SEGMENT_HEAD_BYTES
from shard.core.record import HEAD_BYTES, MAGIC, record_size
from shard.journal_file import Place, segment_name, segment_paths, segment_seq

PLACES_BYTES = 256 * 1024
"""Distance of the places that the index knows, and what one step of a search reads."""

_HEAD = Layout("<HBBIIIQ")


class JournalReader:
    """One request at a time: `ask`, then `step` until it gives records. The writer tells its places with `note`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._places = [_start(segment_seq(path)) for path in segment_paths(directory)]
        self._at: Place | None = None
        self._after_seq = -1
        self._bytes_max = 0

    @property
    def busy(self) -> bool:
        """There is a request that has no answer yet."""
        return self._after_seq >= 0

    @property
    def last_seq(self) -> int:
        """Where the records that were read last end."""
        return self._at.after_seq if self._at is not None else 0

    def note(self, place: Place) -> None:
        """A record starts here; only some of them are kept."""
        last = self._places[-1] if self._places else None
        if last is None or place.segment_seq != last.segment_seq or place.offset >= last.offset + PLACES_BYTES:
            self._places.append(place)

    def forget_below(self, seq: int) -> None:
        """Segments that start below `seq` are gone."""
        self._places = [place for place in self._places if place.segment_seq >= seq]

    def ask(self, after_seq: int, bytes_max: int) -> None:
        """The whole records behind `after_seq`, at most `bytes_max` of them and at least one."""
        self._after_seq, self._bytes_max = after_seq, bytes_max

    def step(self) -> bytes | None:
        """Records, b"" where the journal ends, or None: not found yet, call again.

        JournalError when the journal does not hold the place; the request is over then.
        """
        assert self.busy, "ask first"
        wanted, self._after_seq = self._after_seq, -1
        place = self._nearest(wanted)
        if place.after_seq < wanted:
            reached = _hop(self._read(place, PLACES_BYTES), place, until_seq=wanted)
            following = reached if reached != place else self._next_segment(place)
            if following is None or following.after_seq > wanted:
                raise JournalError(f"segment {segment_name(place.segment_seq)} has no record that ends at seq {wanted}")
            self._remember(following)
            if following.after_seq < wanted:
                self._after_seq = wanted
                return None
            place = following
        return self._take(place)

    def _take(self, place: Place) -> bytes:
        block = self._read(place, max(self._bytes_max, HEAD_BYTES))
        end = _hop(block, place)
        if end == place and len(block) >= HEAD_BYTES:
            one = record_size(_HEAD.unpack_from(block)[3])
            block = self._read(place, one)
            end = _hop(block, place)
        if end == place:
            following = self._next_segment(place)
            if following is None:
                return b""
            return self._take(following)
        self._at = end
        return block[: end.offset - place.offset]

    def _nearest(self, seq: int) -> Place:
        index = bisect_right(self._places, seq, key=lambda place: place.after_seq)
        if index == 0:
            raise JournalError(f"the journal no longer holds what follows seq {seq}")
        known = self._places[index - 1]
        if self._at is not None and known.after_seq <= self._at.after_seq <= seq:
            return self._at
        return known

    def _remember(self, place: Place) -> None:
        self._at = place
        if place not in self._places:
            insort(self._places, place)

    def _next_segment(self, place: Place) -> Place | None:
        following = _start(place.after_seq)
        if place.segment_seq == place.after_seq or not self._path(following).exists():
            return None
        return following

    def _read(self, place: Place, size: int) -> bytes:
        try:
            with self._path(place).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, place.offset)
        except FileNotFoundError as fault:
            raise JournalError(f"segment {fault.filename} was removed") from fault

    def _path(self, place: Place) -> Path:
        return self._directory / segment_name(place.segment_seq)


def _start(segment_seq: int) -> Place:
    return Place(segment_seq, segment_seq, SEGMENT_HEAD_BYTES)


def _hop(block: bytes, place: Place, *, until_seq: int | None = None) -> Place:
    """Over the whole records of `block`, which starts at `place`. Who receives them checks their checksums."""
    after_seq, _, start = place
    offset = 0
    while offset + HEAD_BYTES <= len(block) and (until_seq is None or after_seq < until_seq):
        magic, _, _, size, _, count, first_seq = _HEAD.unpack_from(block, offset)
        if magic != MAGIC or first_seq != after_seq + 1 or offset + record_size(size) > len(block):
            break
        after_seq += count
        offset += record_size(size)
    return Place(after_seq, place.segment_seq, start + offset)
