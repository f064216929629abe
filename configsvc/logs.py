"""Logging: one line per event, as JSON for machines or readable on a terminal, ours and the libraries' alike.

Log lines name scopes, keys and revisions, never values: nothing here or above passes a stored value to a logger.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import structlog

Format = Literal["auto", "json", "console"]


def configure(log_format: Format, level: str, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Send structlog and the standard library's logging to `stream` (stderr), in one format.

    `auto` is readable on a terminal and JSON elsewhere. Libraries are heard from `warning` on. Where this process is
    one of several workers, each line says which.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        shared.append(lambda logger, method, event: event | {"worker": worker})
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Tests configure more than once; a cached logger would keep the stream of the first time.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(console, stream)],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for library in ("aiohttp", "asyncio"):
        logging.getLogger(library).setLevel(max(number, logging.WARNING))


def _rendering(console: bool, stream: TextIO) -> list[Any]:
    if console:
        return [
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
