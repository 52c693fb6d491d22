"""Door of the gateway daemon: `python -m gateway --config cluster.toml --name g0`."""

from exchange.process import main
from gateway.server import serve

if __name__ == "__main__":
    main("gateway", serve)
