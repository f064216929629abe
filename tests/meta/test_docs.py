"""The documentation is complete, its links lead somewhere, and it says what the code says."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from configsvc import errors, metrics, settings
from configsvc.cli import app
from configsvc.web import routes
from tools import docs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text("utf-8")


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown page's headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_reference_tables_are_as_the_code_says():
    assert docs.stale() == [], "run `make docs` and commit the pages"


def test_every_setting_has_a_row():
    text = page("settings.md")
    assert [s.env for s in settings.TABLE if f"| `{s.env}` |" not in text] == []


def test_every_error_code_has_a_row():
    text = page("errors.md")
    assert [code for kind in errors.ALL for code in kind.codes if f"| `{code}` |" not in text] == []


def test_every_metric_has_a_row():
    text = page("metrics.md")
    assert [name for name in metrics.TABLE if f"| `{name}` |" not in text] == []


def test_every_route_is_on_the_page_of_the_http_api():
    text = page("http-api.md")
    assert [f"{r.method} {r.path}" for r in routes.ROUTES if f"`{r.method} {r.path}`" not in text] == []


def test_the_page_of_the_http_api_names_no_route_that_does_not_exist():
    documented = set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", page("http-api.md"), re.MULTILINE))
    assert documented - {f"{r.method} {r.path}" for r in routes.ROUTES} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    broken = []
    for target in LINK.findall(CODE.sub("", path.read_text("utf-8"))):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        here = ahead.pop()
        if here in seen or here.suffix != ".md":
            continue
        seen.add(here)
        targets = (t.partition("#")[0] for t in LINK.findall(here.read_text("utf-8")) if "://" not in t)
        ahead += [(here.parent / target).resolve() for target in targets if target]
    assert [str(p.relative_to(ROOT)) for p in PAGES if p not in seen] == []


def test_decisions_are_numbered_and_listed():
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text("utf-8")
    records = [p for p in sorted(folder.glob("*.md")) if p.name != "README.md"]
    assert [p.name for p in records if f"({p.name})" not in listed] == []
    for record in records:
        text = record.read_text("utf-8")
        assert text.startswith(f"# {record.name[:3]}: "), record.name
        assert [part for part in ("Context", "Choice", "Consequence") if f"\n## {part}\n" not in text] == [], (
            record.name
        )


def test_modules_that_the_docs_name_exist():
    named = set()
    for path in PAGES:
        named |= set(
            re.findall(r"`((?:configsvc|configsvc_client|tools|tests|docs)/[\w./-]+)`", path.read_text("utf-8"))
        )
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_commands_and_make_targets_that_the_docs_name_exist():
    text = "\n".join(path.read_text("utf-8") for path in PAGES)
    commands = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
    assert (
        set(re.findall(r"(?<!install )\bconfigsvc (serve|dev|version|[a-z]+)(?= --|`|$)", text, re.MULTILINE))
        - commands
        == set()
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z.-]+)", text, re.MULTILINE)) - targets == set()


def test_every_command_and_option_is_on_the_page_of_commands():
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page("commands.md"), re.DOTALL | re.MULTILINE))
    commands = get_command(app).commands
    assert {name for name in sections if name.startswith("`")} == {f"`configsvc {name}`" for name in commands}

    def documented(section):
        return set(re.findall(r"^\| `(--[a-z-]+)`", sections[section], re.MULTILINE))

    # Options of many commands have a table of their own, and those commands a link to it.
    shared = {"](#which-service)": documented("Which service"), "](#any-write)": documented("Any write")}
    for name, command in commands.items():
        options = {option for p in command.params if p.param_type_name == "option" for option in p.opts} - {"--help"}
        section = f"`configsvc {name}`"
        linked = [found for link, found in shared.items() if link in sections[section]]
        assert documented(section).union(*linked) == options, name


def test_the_changelog_has_the_version_of_the_package():
    from configsvc import __version__

    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text or f"## [{__version__}]" in text


# Written in pieces, so that this file does not match itself.
FOREIGN = re.compile(
    "|".join(
        [
            r"(?<![\w.~-])/(?:work|root|home|Users|tmp)/" + r"(?!\.\.\.)[\w.-]+",
            r"https?://[\w.-]*(?:"
            + "|".join(["py" + r"pi\.org", "pythonhosted", "npm" + "js", "proxy\\.go" + "lang"])
            + ")",
            r"\b(?:artifactory|nexus|codeartifact|devpi)\b",
        ]
    ),
    re.IGNORECASE,
)


def test_no_file_names_a_machine_path_or_a_registry():
    found = []
    for path in tracked_files():
        if path == Path(__file__):
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}: {m[0]}" for n, line in enumerate(lines, 1) if (m := FOREIGN.search(line))
        ]
    assert found == []
