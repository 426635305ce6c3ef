"""From the tokenizer files that are there to the metadata that a family wants."""

from __future__ import annotations

from collections.abc import Callable

from ggquant.architectures.config import Config
from ggquant.architectures.family import Family, write
from ggquant.model import MetaDict
from ggquant.tokenizers.bpe_fallback import write_bpe_fallback
from ggquant.tokenizers.bytelevel import write_bpe, write_wordpiece
from ggquant.tokenizers.files import TokenizerFiles
from ggquant.tokenizers.sentencepiece import write_phi3, write_sentencepiece
from ggquant.tokenizers.unigram import write_unigram

Writer = Callable[[TokenizerFiles, Config, MetaDict, str | None, list[str]], bool]

_WRITERS: dict[str, Writer] = {
    "sentencepiece": write_sentencepiece,
    "phi3": write_phi3,
    "bpe_fallback": write_bpe_fallback,
    "bpe": write_bpe,
    "wordpiece": write_wordpiece,
    "unigram": write_unigram,
}
_FILES = {
    "sentencepiece": "tokenizer.model",
    "phi3": "tokenizer.model",
    "bpe_fallback": "tokenizer.json",
    "bpe": "tokenizer.json (or vocab.json with merges.txt)",
    "wordpiece": "tokenizer.json (or vocab.txt)",
    "unigram": "tokenizer.json",
}


def vocabulary(family: Family, config: Config, pre: str | None, warnings: list[str]) -> MetaDict:
    """The `tokenizer.*` metadata, in writing order.

    Args:
        family: which kinds of tokenizer to look for, in what order, and what to write besides.
        config: hyperparameters; tokenizer files are looked for in its folder.
        pre: the pre-tokenizer's name, where the user gave one.
        warnings: gets what the user should know.

    Raises:
        CheckpointError: none of the wanted files is there.
        MalformedFileError: one is there but damaged.
        UnsupportedError: the pre-tokenizer has no name.
    """
    files = config.files
    metadata: MetaDict = {}
    write(family.tokenizer_first, config, family.name, metadata)
    for kind in family.vocabulary:
        if _WRITERS[kind](files, config, metadata, pre, warnings):
            break
    else:
        raise files.missing(" or ".join(dict.fromkeys(_FILES[kind] for kind in family.vocabulary)))
    write(family.tokenizer_extra, config, family.name, metadata)
    return metadata
