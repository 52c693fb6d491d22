"""The table of messages in docs/PROTOCOL.md, made from exchange/messages.py.

`python tests/protocol_table.py` rewrites it; tests/test_tidy.py fails while page and structs differ.
"""

import inspect
import typing
from pathlib import Path

import msgspec

from exchange import messages

PAGE = Path(__file__).parents[1] / "docs" / "PROTOCOL.md"
START = "<!-- messages: made by tests/protocol_table.py -->"
END = "<!-- end of messages -->"

FAMILIES = {
    "commands": messages.Command,
    "replies": messages.Reply,
    "event frames": messages.EventFrame,
    "to a shard": messages.ShardInbound,
    "from a shard": messages.ShardOutbound,
    "published by a shard": messages.Published,
    "to the coordinator": messages.CoordinatorInbound,
    "from the coordinator": messages.CoordinatorOutbound,
    "between nodes": messages.ReplicaMessage,
    "to riskd": messages.RiskInbound,
    "from riskd": messages.RiskOutbound,
    "to marketdata": messages.MarketInbound,
    "from marketdata": messages.MarketOutbound,
}


def render() -> str:
    """All families in order; one row for each struct: tag, name, fields with their types."""
    lines = [
        START,
        "",
        "A field without a type is an integer.",
        "",
        "| family | tag | message | fields |",
        "| --- | --- | --- | --- |",
    ]
    for family, union in FAMILIES.items():
        structs_of = typing.get_args(union) or (union,)
        lines += [f"| {family} | {_tag(struct)} | {struct.__name__} | {_fields(struct)} |" for struct in structs_of]
    lines += ["", "Rows without a tag of their own, inside these:", "", "| row | fields |", "| --- | --- |"]
    lines += [f"| {struct.__name__} | {_fields(struct)} |" for struct in structs() if _tag(struct) is None]
    return "\n".join([*lines, "", END])


def structs() -> list[type[msgspec.Struct]]:
    """Every message of exchange.messages, in the order of the file."""
    found = [value for value in vars(messages).values() if inspect.isclass(value) and issubclass(value, messages.Wire)]
    return [struct for struct in found if struct is not messages.Wire]


def listed() -> list[type[msgspec.Struct]]:
    """Every message that belongs to a family."""
    return [struct for union in FAMILIES.values() for struct in (typing.get_args(union) or (union,))]


def _tag(struct: type[msgspec.Struct]) -> object:
    return struct.__struct_config__.tag


def _fields(struct: type[msgspec.Struct]) -> str:
    return ", ".join(field.name + _type(field.type) for field in msgspec.structs.fields(struct)) or "–"


def _type(annotation: object) -> str:
    if annotation is int:
        return ""
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return ": " + text.replace("exchange.messages.", "").replace("typing.", "").replace("msgspec.", "")


def main() -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + render() + after if rest else page.rstrip() + f"\n\n## 3. Messages\n\n{render()}\n")


if __name__ == "__main__":
    main()
