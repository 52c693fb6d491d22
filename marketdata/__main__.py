"""python -m marketdata --config cluster.toml --name m0"""

from exchange.process import main
from marketdata.server import serve

if __name__ == "__main__":
    main("marketdata", serve)
