"""`shardex journal verify|dump|replay`: look into journals, also those of a running cluster; nothing is changed."""

from pathlib import Path
from typing import Annotated, Any

import typer

from shardex.commands.options import Json

app = typer.Typer(
    name="journal",
    help="Journals: verify, dump, replay.",
    epilog="Exit codes: 0 fine, 1 the end is torn (the next start cuts it), 2 corrupt or a digest that differs.",
    no_args_is_help=True,
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a shard, or a whole data directory.")]


@app.command()
def verify(directory: Directory, json: Json = False) -> None:
    """Check every byte: checksums, chain, sequence, snapshots."""
    from shardex import journal
    from shardex.progress import bytes_bar

    verdicts = []
    for each in journal.journal_directories(directory):
        with bytes_bar(f"verifying {each.name}") as advance:
            verdicts.append(journal.verify(each, advance))
    if json:
        _print_json(verdicts)
    else:
        for v in verdicts:
            print(f"{v.shard or v.directory}: {v.state.value}, seq {v.first_seq} to {v.last_seq}, {v.records} records")
            for sentence in (v.detail, *(f"snapshot {s.seq}: {s.detail}" for s in v.snapshots if s.detail)):
                if sentence:
                    print(f"  {sentence}")
    raise typer.Exit(max(verdict.exit_code for verdict in verdicts))


@app.command()
def dump(directory: Directory, json: Json = False) -> None:
    """Print every command: a line each, or with --json one record a line."""
    import msgspec

    from shardex import journal

    code = 0
    for each in journal.journal_directories(directory):
        records = journal.dump(each)
        while True:
            try:
                record = next(records)
            except StopIteration as end:
                state, detail = end.value
                break
            print(msgspec.json.encode(record).decode() if json else "\n".join(journal.describe(record)))
        if detail:
            typer.echo(f"shardex: {each}: {state.value}: {detail}", err=True)
        code = max(code, journal.EXIT_CODES[state])
    raise typer.Exit(code)


@app.command()
def replay(
    directory: Directory,
    reference: Annotated[bool, typer.Option("--reference", help="On the plain-Python engine.")] = False,
    json: Json = False,
) -> None:
    """Apply the journal to a fresh engine and compare it with every snapshot on the way."""
    from shardex import journal
    from shardex.progress import bytes_bar

    results = []
    for each in journal.journal_directories(directory):
        with bytes_bar(f"replaying {each.name}") as advance:
            results.append(journal.replay(each, reference=reference, progress=advance))
    if json:
        _print_json(results)
    else:
        for r in results:
            equal = sum(comparison.equal for comparison in r.comparisons)
            print(f"{r.shard}: {r.state.value}, seq {r.seq}, {r.orders} orders, digest {r.digest}, engine {r.engine}")
            print(f"  {equal} of {len(r.comparisons)} snapshots equal" + (f"; {r.detail}" if r.detail else ""))
    raise typer.Exit(max(result.exit_code for result in results))


def _print_json(results: list[Any]) -> None:
    import msgspec

    print(msgspec.json.encode(results).decode())
