"""Structured logs: one JSON object a line into a file, coloured text on a terminal. Never in the engine's loop."""

import logging
import sys

import structlog


def configure(role: str, name: str) -> structlog.stdlib.BoundLogger:
    """Set up logging of this process and return its logger, bound to role and name."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger().bind(role=role, name=name)
    return logger
