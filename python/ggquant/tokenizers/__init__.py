"""Tokenizer files of a checkpoint, as the `tokenizer.*` metadata of a GGUF."""
