"""Tokenizer files of a checkpoint, as the `tokenizer.*` metadata of a GGUF."""

from __future__ import annotations

from ggquant.tokenizers.build import vocabulary

__all__ = ["vocabulary"]
