"""Write the tables of the reference pages from the tables in the code, and that of the performance page from what
`make bench ARGS=--record` has measured (`make docs`).

A page is written by hand, but for what stands between `<!-- table: NAME -->` and `<!-- end -->`. `stale()` says which
pages differ from the code; `tests/meta/test_docs.py` asks it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench import results
from bench import table as bench_table
from configsvc import errors, metrics, settings
from configsvc.settings_values import Address
from configsvc_client import metrics as client_metrics

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MEASURED = DOCS / "performance.json"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; a `|` within a cell is escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings_table() -> str:
    """Every setting, in the order of the code, which keeps what belongs together together."""
    return table(
        ("variable", "in the file", "value", "default", "meaning"),
        ((f"`{s.env}`", f"`{s.key}`", s.kind.what, _default(s.default), s.doc) for s in settings.TABLE),
    )


def _default(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:.0f}`" if value.is_integer() else f"`{value}`"
        case tuple() if not isinstance(value, Address):
            return f"`{','.join(value)}`"
        case _:
            return f"`{value}`"


def errors_table() -> str:
    """Every code with its status, and what its class says of itself."""
    return table(
        ("code", "status", "title", "meaning"),
        (
            (f"`{code}`", str(kind.status), title, " ".join((kind.__doc__ or "").split()))
            for kind in errors.ALL
            for code, title in kind.codes.items()
        ),
    )


def metrics_table(rows: Mapping[str, Any] = metrics.TABLE) -> str:
    """Every metric with its type and labels, and the service's with what several workers' values are together."""
    several = rows is metrics.TABLE
    return table(
        ("metric", "type", "labels", "meaning", *(["workers"] if several else [])),
        (
            (
                f"`{name}`",
                metric.kind,
                ", ".join(f"`{label}`" for label in metric.labels),
                metric.doc,
                *([metric.across] if several else []),
            )
            for name, metric in rows.items()
        ),
    )


def performance_table() -> str:
    """What a run of the bench has measured, where and when."""
    return bench_table.markdown(results.decode(MEASURED.read_bytes()))


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "errors": errors_table,
    "metrics": metrics_table,
    "client_metrics": lambda: metrics_table(client_metrics.TABLE),
    "performance": performance_table,
}


def render(text: str) -> str:
    """The page with its tables made anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def stale() -> list[Path]:
    """The pages that are not as the code says."""
    pages = [*sorted((DOCS / "reference").glob("*.md")), DOCS / "performance.md"]
    return [page for page in pages if render(page.read_text("utf-8")) != page.read_text("utf-8")]


def main() -> None:
    """Rewrite the stale pages and name them."""
    for page in stale():
        page.write_text(render(page.read_text("utf-8")), "utf-8")
        print(f"{page.relative_to(ROOT)} rewritten")


if __name__ == "__main__":
    main()
