"""Every row by its name, in the order of the table."""

from bench.rows import Row, changes, client, fanout, reads, start, writes

ROWS: dict[str, Row] = {
    "reads": reads.read_key,
    "scope": reads.read_scope,
    "fanout": fanout.fan_out,
    "reconnect": fanout.reconnect,
    "latency": changes.latency,
    "busy": changes.busy,
    "client": client.reads,
    "size": changes.size,
    "start": start.start,
    "imports": client.imports,
    "workers": start.workers,
    "writes": writes.writes,
}
