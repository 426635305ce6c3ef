"""An importance matrix without a file: collected on the spot from the text that ships with the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ggquant.calibration.collect import CollectProgress, Run, Settings
from ggquant.imatrix import Imatrix

if TYPE_CHECKING:
    import os

AUTO = "auto"
"""What stands for such an importance matrix where a file is expected. A file of that name is `./auto`."""


def auto_imatrix(
    source: str | os.PathLike[str],
    *,
    threads: int | None = None,
    pre: str | None = None,
    progress: Callable[[CollectProgress], None] | None = None,
) -> Imatrix:
    """Runs the default text through a model and gives the importances of its weights' columns.

    Args:
        source: a Hugging Face folder, or a GGUF file.
        threads: number of threads, by default one per core.
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer. Only for checkpoints.
        progress: called as work goes on.

    Raises:
        UnsupportedError: a model that cannot be run.
        Error: as for `collect_imatrix`.
    """
    run = Run(source, (), None, settings=Settings(ppl=False), threads=threads, pre=pre)
    result = run.execute(progress=progress)
    said = [f"importances were collected from {result.texts[0]}: {result.tokens} tokens in {len(run.chunks)} chunks"]
    return Imatrix(
        entries=result.statistics.means(),
        datasets=list(result.texts),
        chunk_count=result.statistics.chunk_count,
        warnings=[*said, *result.gaps.lines()],
    )
