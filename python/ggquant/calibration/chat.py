"""A model's chat template: conversations as the text that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox

from ggquant.errors import UsageError


class ChatTemplate:
    """The template in a model's metadata. It comes from a download, so it runs in Jinja's sandbox."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Compiles the template.

        Raises:
            UsageError: the model has none, or it is not valid.
        """
        source = metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            raise UsageError(
                "the text holds conversations, but the model has no chat template; give plain text instead"
            )
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UsageError(f"the model's chat template is not valid: {error}") from error
        self._tokens = {name: _token(metadata, name) for name in ("bos", "eos")}

    def render(self, messages: list[Any], where: str) -> str:
        """A conversation as text, without the BOS token that tokenizing puts before it.

        Args:
            messages: objects with `role` and `content`.
            where: what errors call the place they come from.

        Raises:
            UsageError: the template refuses them, or fails.
        """
        tokens = {f"{name}_token": text for name, text in self._tokens.items()}
        try:
            text = self._template.render(messages=messages, add_generation_prompt=False, **tokens)
        except Exception as error:  # a template may fail in any way that Python can
            raise UsageError(f"{where}: the model's chat template fails: {error}") from error
        bos = self._tokens["bos"]
        return text.removeprefix(bos) if bos else text


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _token(metadata: Mapping[str, Any], name: str) -> str:
    index = metadata.get(f"tokenizer.ggml.{name}_token_id")
    texts = metadata.get("tokenizer.ggml.tokens")
    if type(index) is int and texts is not None and 0 <= index < len(texts):
        return str(texts[index])
    return ""
