"""A report as a table: for the terminal and for the page. Pure."""

from bench.results import Report, Result
from bench.stats import Figure

HEAD = ("row", "case", "measure", "configsvc", "reference", "ratio", "goal", "")


def number(value: float) -> str:
    """Three digits, as people read them."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def spread(figure: Figure, unit: str = "") -> str:
    """The median, and from where to where rounds went."""
    text = number(figure.median) + (f" {unit}" if unit and unit != "count" else "")
    return text if len(figure.rounds) == 1 else f"{text} ({number(figure.low)}–{number(figure.high)})"


def cells(one: Result) -> tuple[str, ...]:
    """A line of the table."""
    reference = ""
    if one.reference:
        figure = one.reference.figure
        shown = spread(figure) if figure else "left out"
        reference = f"{one.reference.name}: {shown}"
    return (
        one.row,
        one.case,
        one.measure,
        spread(one.value, one.unit) if one.value else "",
        reference,
        spread(one.ratio) if one.ratio else "",
        one.goal.text(one.unit) if one.goal else "",
        one.verdict.upper() if one.verdict in ("missed", "failed") else one.verdict,
    )


def terminal(report: Report) -> str:
    """Columns, one line each; then what is said about lines, what was left out, and the machine."""
    lines = [HEAD, *map(cells, report.results)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    text = "".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)
    return text + "\n" + "".join(f"{line}\n" for line in [*_notes(report), *_left_out(report), "", *machine(report)])


def markdown(report: Report) -> str:
    """The same for a page."""
    lines = [HEAD, ("---",) * len(HEAD)]
    lines += [_emphasised(cells(one)) for one in report.results]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    said = "".join(f"- {line}\n" for line in [*machine(report), *_notes(report), *_left_out(report)])
    return f"{table}\n{said}"


def _emphasised(line: tuple[str, ...]) -> tuple[str, ...]:
    return (*line[:-1], f"**{line[-1].lower()}**") if line[-1].isupper() else line


def machine(report: Report) -> list[str]:
    """Where, when, and with what."""
    one = report.machine
    where = (
        "one core for all"
        if one.service_core == one.load_core
        else (f"service on core {one.service_core}, load on core {one.load_core}")
    )
    versions = ", ".join(f"{name} {version}" for name, version in one.versions.items())
    kind = " in its short version" if report.quick else ""
    counted = summary(report)
    return [
        f"Measured {report.at}{kind} in {report.seconds:.0f} s: {counted}.",
        f"{one.cpu}, {one.cores} cores, {one.memory_gib:g} GiB, {one.kernel}; {where}; "
        f"load average before: {one.load_before:g}.",
        f"{one.python}; {versions}.",
    ]


def summary(report: Report) -> str:
    """How many goals are met and missed."""
    counts = {
        word: sum(one.verdict == word for one in report.results) for word in ("met", "missed", "left out", "failed")
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count or word in ("met", "missed"))


def _notes(report: Report) -> list[str]:
    """Each note once, with the lines that it is about, as few words as say which."""
    about: dict[tuple[str, str], list[Result]] = {}
    for one in report.results:
        if one.note:
            about.setdefault((one.row, one.note), []).append(one)
    lines = []
    for (row, note), results in about.items():
        cases = list(dict.fromkeys(one.case for one in results))
        everywhere = {one.case for one in report.results if one.row == row} == set(cases)
        measures = list(dict.fromkeys(one.measure for one in results))
        mentioned = [] if everywhere else cases
        if len(measures) < len({one.measure for one in report.results if one.row == row}):
            mentioned = [*mentioned, *measures]
        lines.append(f"{row}{' (' + '; '.join(mentioned) + ')' if mentioned else ''}: {note}")
    return lines


def _left_out(report: Report) -> list[str]:
    return [f"Left out: {one.what}: {one.why}" for one in report.left_out]
