"""Text to token ids: from a checkpoint's tokenizer files, or from the metadata of a GGUF file alone."""

from ggquant.tokenizing.load import load_tokenizer
from ggquant.tokenizing.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
