"""Door of the market maker."""

from exchange.process import main
from marketmaker.server import serve

if __name__ == "__main__":
    main("marketmaker", serve)
