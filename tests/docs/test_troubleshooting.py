"""The page on troubleshooting quotes what the program really says."""

import re

import pytest

from configsvc import errors
from tests.docs.pages import HOWTO, is_said

PAGE = HOWTO / "troubleshooting.md"
QUOTED = re.compile(r'`"([^`]+)"`')
EXPLAINED = {"double quotes"}


def quotes() -> list[str]:
    return sorted(set(QUOTED.findall(PAGE.read_text("utf-8"))) - EXPLAINED)


@pytest.mark.parametrize("quoted", quotes())
def test_the_program_says_it(quoted: str) -> None:
    assert is_said(quoted)


def test_what_nobody_says_is_found_out() -> None:
    assert not is_said("this is said … nowhere")
    assert len(quotes()) > 30


def test_codes_exist() -> None:
    named = set(re.findall(r"\b[45]\d\d `(\w+)`", PAGE.read_text("utf-8")))
    known = {code for kind in errors.ALL for code in kind.codes}
    assert named
    assert named - known == set()


def test_every_refusal_of_a_write_is_explained() -> None:
    text = PAGE.read_text("utf-8")
    kinds = (errors.Conflict, errors.PreconditionFailed, errors.Unprocessable, errors.OutcomeUnknown)
    assert [code for kind in kinds for code in kind.codes if f"{kind.status} `{code}`" not in text] == []
