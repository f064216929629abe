"""First steps, the story of releases and that of a pipeline are run as they stand, and show what is really shown."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import HOWTO, ROOT
from tests.docs.shell import Done, Shell, shell_beside_dev, shows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs bash and a terminal")
STORY = HOWTO / "releases.md"
BLOCK = re.compile(r"<!-- (run: [\w-]+|shows) -->\n+```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def steps(page: Path) -> Iterator[tuple[str, str, str | None]]:
    """How a block has to end, the block, and what the page says that it shows."""
    found = [(how.removeprefix("run: "), text) for how, text in BLOCK.findall(page.read_text("utf-8"))]
    for (how, text), following in zip(found, [*found[1:], ("", "")], strict=True):
        if how != "shows":
            yield how, text, following[1] if following[0] == "shows" else None


def follow(shell: Shell, page: Path) -> Iterator[tuple[str, Done]]:
    """Run a page; yields what has to be looked at in a way of its own."""
    for how, text, shown in steps(page):
        done = shell.run(text)
        wanted = int(how.removeprefix("exit-")) if how.startswith("exit-") else 0
        assert done.code == wanted, f"{text}\n{done.shown}"
        if shown is not None:
            assert shows(shown, done.shown), f"{text}\nshows\n{done.shown}\nand the page says\n{shown}"
        if how not in ("ok", f"exit-{wanted}"):
            yield how, done


def test_the_story_is_as_the_page_tells_it(tmp_path: Path) -> None:
    with shell_beside_dev(tmp_path) as shell:
        for how, done in follow(shell, STORY):
            assert how == "curl"
            assert '"code":' not in done.shown, done.shown
            assert done.shown.count('"revision":') >= 8


def test_what_is_not_shown_is_found_out() -> None:
    assert shows("a\n…\nb 2026-01-01T00:00:00.000Z", "a\n1\n2\nb 2026-11-28T12:04:59.267Z  \n")
    assert shows("revision 4: … added", "revision 17: 5 added\n")
    assert not shows("a\n…\nb", "a\n1\nc\n")
    assert not shows("a", "a\nb")


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_first_steps(page: str, tmp_path: Path) -> None:
    with shell_beside_dev(tmp_path) as shell:
        assert list(follow(shell, ROOT / page)) == []


def test_a_pipeline_as_the_page_has_it(tmp_path: Path) -> None:
    with shell_beside_dev(tmp_path) as shell:
        assert list(follow(shell, HOWTO / "ci.md")) == []
