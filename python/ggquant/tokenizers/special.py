"""Special tokens: their ids, which are put around a text, the chat template, merges, normalizer flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_letters, digits
from typing import Any

from ggquant.bounded_json import read_object, read_text
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict
from ggquant.tokenizers.files import SPECIAL_KINDS, TokenizerFiles
from ggquant.tokenizers.slow import merge_rules

_ID_KEYS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask",
    "eot": "eot", "eom": "eom",
}  # fmt: skip
"""Kinds that have a key, and the word in it (one of them misspelt in the format). `cls` has none."""

_ADD_KEYS = ("bos", "eos", "sep")


@dataclass
class SpecialTokens:
    """What is known about special tokens, in the order in which it was learned, the writing order."""

    kinds: list[str] = field(default_factory=lambda: list(SPECIAL_KINDS))
    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)

    def set_id(self, kind: str, value: Any, vocabulary_size: int | None) -> None:
        """Notes an id unless the kind has one, or it is not an id of this vocabulary."""
        if kind in self.ids or type(value) is not int or value < 0:
            return
        if vocabulary_size is None or value < vocabulary_size:
            self.ids[kind] = value


def write_special(
    files: TokenizerFiles,
    metadata: MetaDict,
    *,
    merges: bool,
    vocabulary_size: int | None = None,
    warnings: list[str],
) -> None:
    """Writes merges (where asked for), special ids, add flags, chat template and normalizer flags.

    Args:
        files: the folder's tokenizer files.
        metadata: to write into.
        merges: whether this kind of tokenizer has merges.
        vocabulary_size: ids from here on are left out; None does not check.
        warnings: gets a line for what could not be used.
    """
    if merges:
        rules = _merges(files)
        if rules:
            metadata["tokenizer.ggml.merges"] = MetaValue("ARRAY", rules, "STRING")
        else:
            warnings.append(f"{files.folder}: the tokenizer has no merges")
    special = find_special(files, vocabulary_size)
    for kind, token_id in special.ids.items():
        if kind in _ID_KEYS:
            metadata[f"tokenizer.ggml.{_ID_KEYS[kind]}_token_id"] = MetaValue("UINT32", token_id)
    for kind, value in special.add.items():
        if kind in _ADD_KEYS:
            metadata[f"tokenizer.ggml.add_{kind}_token"] = MetaValue("BOOL", value)
    if files.config:
        _write_chat_template(files, metadata, warnings)
    for name, flag in _normalizer_flags(files.json.get("normalizer")).items():
        metadata[f"tokenizer.ggml.normalizer.{name}"] = MetaValue("BOOL", flag)


def find_special(files: TokenizerFiles, vocabulary_size: int | None) -> SpecialTokens:
    """Special ids and add flags from the post-processor, tokenizer_config.json and config.json."""
    special = SpecialTokens()
    special.texts = {kind: files.config.get(f"{kind}_token") for kind in SPECIAL_KINDS}
    if files.json:
        for kind, other in (("bos", "cls"), ("eos", "sep")):
            if files.config and not special.texts[kind] and special.texts[other]:
                special.texts[kind] = special.texts[other]
        for processor in _processors(files.json.get("post_processor")):
            _learn_from(processor, special, bool(files.config))
    if files.config:
        ids = {entry["content"]: entry["id"] for entry in reversed(files.added_entries)} if files.json else {}
        for kind in special.kinds:
            flag = files.config.get(f"add_{kind}_token")
            if isinstance(flag, bool):
                special.add.setdefault(kind, flag)
            text = special.texts.get(kind)
            if isinstance(text, dict):
                text = text.get("content")
            if isinstance(text, str):
                special.set_id(kind, ids.get(text), vocabulary_size)
    config = files.model_config
    nested = config.get("text_config")
    for kind in special.kinds:
        value = config.get(f"{kind}_token_id")
        if value is None and isinstance(nested, dict):
            value = nested.get(f"{kind}_token_id")
        special.set_id(kind, value, vocabulary_size)
    return special


def _processors(post_processor: Any) -> list[dict[str, Any]]:
    if not isinstance(post_processor, dict):
        return []
    inner = post_processor.get("processors", [post_processor])
    return [p for p in inner if isinstance(p, dict)] if isinstance(inner, list) else []


def _learn_from(processor: dict[str, Any], special: SpecialTokens, configured: bool) -> None:
    """What one post-processor says about the tokens it puts around a text."""
    kind = processor.get("type")
    if kind == "ByteLevel":
        special.add.setdefault("bos", False)
        special.add.setdefault("eos", False)
    elif kind == "RobertaProcessing":
        special.add |= {"bos": True, "eos": True, "sep": True}
        if configured:
            for name, fallback in (("cls", "bos"), ("sep", "eos")):
                if not special.texts.get(name):
                    pair = processor.get(name)
                    special.texts[name] = pair[0] if isinstance(pair, list) and pair else special.texts.get(fallback)
    elif kind == "TemplateProcessing":
        _learn_from_template(processor, special, configured)


def _learn_from_template(processor: dict[str, Any], special: SpecialTokens, configured: bool) -> None:
    single, pair = (_pieces(processor.get(name)) for name in ("single", "pair"))
    texts = special.texts
    first = last = None
    if len(single) > 1:
        first, last = _special_id(single[0]), _special_id(single[-1])
        if first:
            known = (texts.get("bos"), texts.get("cls"))
            if not configured:
                texts["bos"] = first
            elif first not in known:
                texts["bos"] = texts.get("bos") or first
                texts["cls"] = texts.get("cls") or first
            special.add["bos"] = first in (texts.get("bos"), texts.get("cls"))
        if last:
            if configured and last != texts.get("eos"):
                # The configured end is kept as end of turn, or of message.
                for spare in ("eot", "eom"):
                    if spare not in special.kinds:
                        special.kinds.append(spare)
                        texts[spare] = texts.get("eos")
                        break
            texts["eos"] = last
            special.add["eos"] = True
    begin = 1 if first and pair and _special_id(pair[0]) == first else 0
    end = len(pair) - 1 if last and pair and _special_id(pair[-1]) == last else len(pair)
    inner = pair[begin:end]
    if len(inner) > 2 and _sequence_id(inner[0]) == "A" and _sequence_id(inner[-1]) == "B":
        between = [_special_id(piece) for piece in inner[1:-1]]
        separators = (texts.get("sep"), texts.get("eos"))
        add = bool(between[0]) and between[0] in separators and not last
        if len(between) == 2 and between[1] and between[1] in separators:
            add = True
        special.add["sep"] = add
        if add and not texts.get("sep") and configured:
            texts["sep"] = texts.get("eos")


def _pieces(template: Any) -> list[dict[str, Any]]:
    return [piece for piece in template if isinstance(piece, dict)] if isinstance(template, list) else []


def _special_id(piece: dict[str, Any]) -> str | None:
    inner = piece.get("SpecialToken")
    found = inner.get("id") if isinstance(inner, dict) else None
    return found if isinstance(found, str) else None


def _sequence_id(piece: dict[str, Any]) -> str | None:
    inner = piece.get("Sequence")
    found = inner.get("id") if isinstance(inner, dict) else None
    return found if isinstance(found, str) else None


def _merges(files: TokenizerFiles) -> list[str]:
    """Merge rules as `left right`, from tokenizer.json or merges.txt; spaces inside a part become U+0120."""
    model = files.json.get("model")
    rules = model.get("merges") if isinstance(model, dict) else None
    if not rules:
        return _merges_txt(files)
    if not isinstance(rules, list):
        raise files.malformed("'model.merges' is not a list")
    if all(isinstance(rule, str) for rule in rules):
        return rules
    if not all(isinstance(r, list) and len(r) == 2 and all(isinstance(p, str) for p in r) for r in rules):
        raise files.malformed("'model.merges' is neither a list of texts nor of pairs")
    return [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in rules]


def _merges_txt(files: TokenizerFiles) -> list[str]:
    path = files.folder / "merges.txt"
    return merge_rules(path) if path.is_file() else []


def _write_chat_template(files: TokenizerFiles, metadata: MetaDict, warnings: list[str]) -> None:
    template = files.config.get("chat_template", _template_file(files))
    if template is None:
        return
    if isinstance(template, str):
        if template:
            metadata["tokenizer.chat_template"] = MetaValue("STRING", template)
        return
    if not isinstance(template, list) or not all(isinstance(choice, dict) for choice in template):
        warnings.append(f"{files.config_path}: chat_template is neither a text nor a list; left out")
        return
    _write_named_templates(template, metadata)


def _write_named_templates(choices: Sequence[dict[str, Any]], metadata: MetaDict) -> None:
    allowed = ascii_letters + digits
    default = None
    names: set[str] = set()
    for choice in choices:
        name = "".join(c if c in allowed else "_" for c in str(choice.get("name", "")))
        text = choice.get("template")
        if not name or not isinstance(text, str):
            continue
        if name == "default":
            default = text
        else:
            names.add(name)
            if text:
                metadata[f"tokenizer.chat_template.{name}"] = MetaValue("STRING", text)
    if names:
        metadata["tokenizer.chat_templates"] = MetaValue("ARRAY", sorted(names), "STRING")
    if default:
        metadata["tokenizer.chat_template"] = MetaValue("STRING", default)


def _template_file(files: TokenizerFiles) -> Any:
    jinja, old = files.folder / "chat_template.jinja", files.folder / "chat_template.json"
    if jinja.is_file():
        text = _lines_as_one_kind(read_text(jinja))
        more = sorted((files.folder / "additional_chat_templates").glob("*.jinja"))
        if not more:
            return text
        named = [{"name": path.stem, "template": _lines_as_one_kind(read_text(path))} for path in more]
        return [{"name": "default", "template": text}, *named]
    return read_object(old).get("chat_template") if old.is_file() else None


def _lines_as_one_kind(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _normalizer_flags(normalizer: Any) -> dict[str, bool]:
    """Lowercasing and accent stripping, wherever in the normalizer they stand, in writing order."""
    found: dict[str, bool] = {}

    def visit(node: Any) -> None:
        if not isinstance(node, dict):
            return
        if node.get("type") == "Lowercase":
            found["lowercase"] = True
        elif node.get("type") == "StripAccents":
            found["strip_accents"] = True
        elif node.get("type") == "BertNormalizer":
            found.update({k: node[k] for k in ("lowercase", "strip_accents") if isinstance(node.get(k), bool)})
        elif node.get("type") == "Sequence" and isinstance(node.get("normalizers"), list):
            for inner in node["normalizers"]:
                visit(inner)

    visit(normalizer)
    return {name: found[name] for name in ("lowercase", "strip_accents") if name in found}
