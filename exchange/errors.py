"""The exception tree. A customer's mistake is a value with a reject code and never one of these."""


class ShardexError(Exception):
    """Base of everything that shardex raises on purpose; its text is a sentence: subject, rule, offending value."""


class ConfigError(ShardexError):
    """The configuration cannot be used; `faults` names all that is wrong with it, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class WireError(ShardexError):
    """Bytes from a socket are not what the protocol allows."""


class JournalError(ShardexError):
    """A journal cannot be trusted beyond a certain point; never raised for a torn tail, which is cut."""


class StoreError(ShardexError):
    """The control store failed; the process that sees it must not decide anything more."""


class Unavailable(ShardexError):
    """A peer did not answer within its bound."""
