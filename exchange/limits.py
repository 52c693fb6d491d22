"""Every ceiling, and the assertions that relate them. Full is an answer, not a surprise."""

from exchange.domain import NS_PER_MS, NS_PER_S

RECORD_COMMANDS_MAX = 1_024
RECORD_BYTES_MAX = 256 * 1024
"""Payload of one journal record."""
BATCH_COMMANDS_MAX = 1_024
BATCH_BYTES_MAX = 256 * 1024
"""One frame from a gateway to a shard."""
COMMAND_BYTES_MAX = 512
"""One encoded command: the longest texts and integers stay well below it."""
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""Any ZeroMQ message (an image of a full book is the largest)."""

INBOX_BATCHES_MAX = 4_096
INBOX_BYTES_MAX = 32 * 1024 * 1024
"""Batches that wait in a shard for their record; beyond either, the answer is OVERLOADED."""
GATEWAY_PENDING_MAX = 65_536
"""Orders of one gateway that wait for a shard's answer, per shard."""
SOCKET_HWM = 10_000

HTTP_BODY_BYTES_MAX = 16 * 1024
BATCH_BODY_BYTES_MAX = 64 * 1024
BATCH_ORDERS_MAX = 256
"""Orders in one HTTP batch or one WebSocket frame."""
WS_FRAME_BYTES_MAX = 64 * 1024
FEED_FRAME_BYTES_MAX = 4 * 1024
FEED_SUBSCRIPTIONS_MAX = 50
FEED_QUEUE_MESSAGES_MAX = 1_000
FEED_QUEUE_BYTES_MAX = 2 * 1024 * 1024
HTTP_REQUEST_DEADLINE_NS = 5 * NS_PER_S

ORDER_DEADLINE_NS = 2 * NS_PER_S
"""How long a gateway tries before it answers 504, when the client names no deadline."""
TICK_INTERVAL_NS = 100 * NS_PER_MS
BEAT_INTERVAL_NS = 250 * NS_PER_MS
NODE_BEAT_INTERVAL_NS = 50 * NS_PER_MS
"""Of a shard's nodes, whose death must be noticed within the deadline of an order."""
BEAT_SUSPECT_NS = 1 * NS_PER_S
REGISTER_RETRY_NS = 250 * NS_PER_MS

FOLLOW_SILENCE_NS = 1 * NS_PER_S
"""A shard publishes a frame at least every TICK_INTERVAL_NS; a stream without one for this long is not live."""
FOLLOW_RETRY_MIN_NS = 50 * NS_PER_MS
FOLLOW_RETRY_MAX_NS = 1 * NS_PER_S
"""Back-off of a consumer that asks a shard for missing frames."""
FOLLOW_HELD_FRAMES_MAX = 4_096
FOLLOW_HELD_BYTES_MAX = 16 * 1024 * 1024
"""Frames that a consumer holds while those before them are missing; beyond that it asks for all of them again."""

RING_BYTES_MAX = 64 * 1024 * 1024
RING_FRAMES_MAX = 65_536
"""Event frames that a shard keeps for re-sending."""
IMAGE_TRADES_MAX = 1_000
"""Recent trades per instrument that an image carries and that GET trades can return."""

assert BATCH_COMMANDS_MAX <= RECORD_COMMANDS_MAX
assert BATCH_BYTES_MAX <= RECORD_BYTES_MAX
assert BATCH_ORDERS_MAX <= BATCH_COMMANDS_MAX
assert BATCH_ORDERS_MAX * COMMAND_BYTES_MAX <= BATCH_BYTES_MAX
assert HTTP_BODY_BYTES_MAX <= BATCH_BODY_BYTES_MAX
assert RECORD_BYTES_MAX <= MESSAGE_BYTES_MAX
assert BEAT_SUSPECT_NS >= 3 * BEAT_INTERVAL_NS
assert FOLLOW_SILENCE_NS >= 3 * TICK_INTERVAL_NS
assert FOLLOW_RETRY_MIN_NS <= FOLLOW_RETRY_MAX_NS
assert FOLLOW_HELD_FRAMES_MAX <= SOCKET_HWM
