"""README.md says what the package does."""

from __future__ import annotations

import re

from ggquant.cli.outcome import FAILED, INTERRUPTED, USAGE
from readme_tables import README, with_tables


def test_the_tables_are_those_of_the_registries() -> None:
    text = README.read_text("utf-8")
    assert text == with_tables(text), "renew them: python tests/python/readme_tables.py"


def test_the_exit_codes_are_documented() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README.read_text("utf-8"), re.MULTILINE)}
    assert {0, FAILED, USAGE, INTERRUPTED} <= documented
