"""The reference engine: PROTOCOL section 1 in plain Python, the executable specification of the native one.

It has the face of `shard.core.engine.Engine` and equals the native engine byte for byte. Read it with the protocol page
open: `trading`, `administration` and `queries` have a method for each command, `rules` a function for each check,
`matching` is where orders meet, `answers` words what happened; `market` with `book` and `window` is the state, which
`snapshot` writes. It aims at being obviously right, and runs the exchange where no Rust toolchain exists.

Laws
    A record is checked whole before any of it is applied, so `apply` either raises ValueError and changes nothing or
    takes effect as a whole. A command is validated before it mutates. Nothing depends on hashes, clocks or floats.
"""

from shard.core.reference.engine import ReferenceEngine

__all__ = ["ReferenceEngine"]
