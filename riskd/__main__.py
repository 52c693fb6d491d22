"""Door of riskd: `python -m riskd --config cluster.toml --name r0`."""

from exchange.process import main
from riskd.server import serve

if __name__ == "__main__":
    main("riskd", serve)
