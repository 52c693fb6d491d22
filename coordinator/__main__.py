"""Door of the coordinator: `python -m coordinator --config cluster.toml --name c0`."""

from coordinator.server import serve
from exchange.process import main

if __name__ == "__main__":
    main("coordinator", serve)
