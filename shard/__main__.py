"""Door of the shard daemon: `python -m shard --config cluster.toml --name s0`."""

from exchange.process import main
from shard.server import serve

if __name__ == "__main__":
    main("shard", serve)
