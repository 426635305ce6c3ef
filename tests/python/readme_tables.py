"""The tables of README.md, made from the registries. `python tests/python/readme_tables.py` renews them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import ggquant as gg
from ggquant.architectures.registry import families
from ggquant.policy import explain

README = Path(__file__).parents[2] / "README.md"


def with_tables(text: str) -> str:
    """`text` with what stands between each pair of markers made anew."""
    made = {"formats": _formats(), "variants": _variants(), "families": _families()}
    for name, table in made.items():
        text, replaced = re.subn(
            rf"<!-- {name} -->.*?<!-- end -->", f"<!-- {name} -->\n{table}\n<!-- end -->", text, flags=re.DOTALL
        )
        assert replaced == 1, f"README.md has no place for the table of {name}"
    return text


def _formats() -> str:
    return _table(
        ("format", "bits per weight", "block", "imatrix", "what a block holds"),
        (
            (f.name, f"{f.bits_per_weight:.5g}", str(f.block_len), f.imatrix, f.summary)
            for f in gg.formats()
            if f.storage
        ),
    )


def _variants() -> str:
    return _table(
        ("variant", "file type", "bits", "imatrix", "what it stores", "also called"),
        (
            (
                e.name,
                str(e.file_type),
                f"{e.bits:g}",
                "needed" if e.needs_imatrix else "",
                e.summary,
                ", ".join(e.aliases),
            )
            for e in map(explain, gg.variants())
        ),
    )


def _families() -> str:
    return _table(
        ("`general.architecture`", "classes in config.json", "tokenizers"),
        (
            (
                family.name,
                ", ".join(family.architectures),
                ", ".join(kind.replace("_", " ") for kind in family.vocabulary),
            )
            for family in families()
        ),
    )


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(cells)} |") for cells in lines)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
