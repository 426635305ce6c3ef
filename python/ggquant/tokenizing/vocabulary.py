"""Tokens, their kinds, and the special ones, from the `tokenizer.*` metadata of a GGUF file.

What a file leaves out has a default that depends on the kind of tokenizer, and some tokens are recognized by their
text; both as llama.cpp has it, since ids must be those that it would give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

from ggquant.errors import MalformedFileError, UnsupportedError
from ggquant.tokenizing.pretokenizers import PRE_TOKENIZERS, PreTokenizer

SPACE = "\u2581"
"""How SentencePiece writes a space."""


class Kind(IntFlag):
    """What a token is. Recognizing special tokens by their text can add to what the file says."""

    UNDEFINED = 0
    UNKNOWN = 1
    UNUSED = 2
    NORMAL = 4
    CONTROL = 8
    USER_DEFINED = 16
    BYTE = 32
    LSTRIP = 64
    RSTRIP = 128


_STORED_KINDS = {
    1: Kind.NORMAL,
    2: Kind.UNKNOWN,
    3: Kind.CONTROL,
    4: Kind.USER_DEFINED,
    5: Kind.UNUSED,
    6: Kind.BYTE,
}
_SPECIAL_IDS = ("bos", "eos", "eot", "eom", "unk", "sep", "pad", "mask", "prefix", "suffix", "middle")
_STORED_NAMES = {"unk": "unknown", "sep": "seperator", "pad": "padding"}

_FILL_IN = {
    "prefix": "fim_pre",
    "suffix": "fim_suf",
    "middle": "fim_mid",
    "fim_pad": "fim_pad",
    "fim_rep": "fim_rep",
    "fim_sep": "fim_sep",
}

_END_OF_TURN = (
    "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <EOT> _<EOT> [EOT] "
    "<\uff5cend\u2581of\u2581sentence\uff5c> <end_of_utterance>"
)
_BY_TEXT = {
    "eot": _END_OF_TURN,
    "eom": "<|eom_id|>",
    "prefix": "<|fim_prefix|> <fim-prefix> <fim_prefix> <\uff5cfim\u2581begin\uff5c> <PRE> \u2581<PRE> "
    "<|code_prefix|> <|prefix|>",
    "suffix": "<|fim_suffix|> <fim-suffix> <fim_suffix> <\uff5cfim\u2581hole\uff5c> <SUF> \u2581<SUF> "
    "<|code_suffix|> <|suffix|>",
    "middle": "<|fim_middle|> <fim-middle> <fim_middle> <\uff5cfim\u2581end\uff5c> <MID> \u2581<MID> "
    "<|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
_ENDINGS = (
    f"{_END_OF_TURN} <|return|> <|call|> <|flush|> <|calls|> </s> <|eom_id|> [EOS] <eos> <turn|> <|tool_response> [e~["
)
"""Tokens that end a text, whatever the file says about them."""
_GEMMA = ("gemma4", "granite-embed-multi-311m")
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


@dataclass(frozen=True, slots=True)
class _Family:
    """Defaults of one `tokenizer.ggml.model`."""

    special: Mapping[str, int]
    add_bos: bool = False
    add_eos: bool = False
    space_prefix: bool = False


_FAMILIES = {
    "llama": _Family({"bos": 1, "eos": 2, "unk": 0}, add_bos=True, space_prefix=True),
    "gpt2": _Family({"bos": 11, "eos": 11}),
    "gemma4": _Family({}),
    "whitespace": _Family({"bos": 11, "eos": 11}),
    "bert": _Family({"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103}, add_bos=True),
    "t5": _Family({"eos": 1, "unk": 2, "pad": 0}, add_eos=True),
    "rwkv": _Family({"unk": 0}),
}


@dataclass
class Vocabulary:
    """A tokenizer's tables.

    Attributes:
        model: `tokenizer.ggml.model`: llama (SentencePiece BPE), gpt2 (byte-level BPE), gemma4, whitespace (BPE on
            text), bert (WordPiece), t5 (Unigram), rwkv.
        texts: text of every token, by id.
        stored: what each token is, as the file has it.
        kinds: what each token is, after those known by their text have been recognized.
        scores: score of every token (zero where the file has none).
        ids: id of every text.
        special: ids of the special tokens by name: bos, eos, eot, unk, sep, pad, mask ...
        ends: ids that end a text.
        merges: BPE merges as they are stored.
        pre: the pre-tokenizer, for BPE.
        gemma: whether runs of line ends are looked up whole before they are merged, as Gemma 4 wants it.
        add_bos, add_eos: whether text gets these tokens around it.
        space_prefix: whether text gets a space before it.
    """

    model: str
    texts: list[str]
    stored: list[Kind]
    scores: list[float]
    metadata: Mapping[str, Any]
    path: str
    kinds: list[Kind] = field(init=False)
    ids: dict[str, int] = field(init=False)
    special: dict[str, int] = field(init=False)
    ends: set[int] = field(init=False)
    merges: list[str] = field(init=False)
    pre: PreTokenizer = field(init=False)
    gemma: bool = field(init=False)
    add_bos: bool = field(init=False)
    add_eos: bool = field(init=False)
    space_prefix: bool = field(init=False)

    def __post_init__(self) -> None:
        family = _FAMILIES[self.model]
        get = self.metadata.get
        self.pre = _pre_tokenizer(self.model, get("tokenizer.ggml.pre"), self.path)
        self.kinds = list(self.stored)
        self.ids = {text: index for index, text in enumerate(self.texts)}
        if len(self.ids) != len(self.texts):
            twice = next(text for index, text in enumerate(self.texts) if self.ids[text] != index)
            raise MalformedFileError(f"{self.path}: token {twice!r} is in the vocabulary twice", file=self.path)
        self.merges = list(get("tokenizer.ggml.merges") or [])
        self.space_prefix = bool(get("tokenizer.ggml.add_space_prefix", family.space_prefix))
        self.add_bos = bool(get("tokenizer.ggml.add_bos_token", family.add_bos or self.pre.add_bos))
        self.add_eos = bool(get("tokenizer.ggml.add_eos_token", family.add_eos))
        self.gemma = self.model == "gemma4" or (self.model == "gpt2" and get("tokenizer.ggml.pre") in _GEMMA)
        self.add_bos |= self.gemma
        self._find_special(family)
        self._recognize()
        self._strip_sides(str(get("general.name") or "").lower())

    def _find_special(self, family: _Family) -> None:
        self.special = {name: index for name, index in family.special.items() if index < len(self.texts)}
        if self.pre.no_bos:
            self.special.pop("bos", None)
        for name in _SPECIAL_IDS:
            index = self.metadata.get(f"tokenizer.ggml.{_STORED_NAMES.get(name, name)}_token_id")
            if isinstance(index, int) and 0 <= index < len(self.texts):
                self.special[name] = index
        for name, stored in _FILL_IN.items():
            index = self.metadata.get(f"tokenizer.ggml.{stored}_token_id")
            if isinstance(index, int) and 0 <= index < len(self.texts):
                self.special.setdefault(name, index)

    def _recognize(self) -> None:
        """Tokens that are special by their text."""
        for name, texts in _BY_TEXT.items():
            found = next((self.ids[text] for text in texts.split() if text in self.ids), None)
            if name not in self.special and found is not None:
                self.special[name] = found
                self.kinds[found] |= Kind.CONTROL
        self.ends = {self.special[name] for name in ("fim_pad", "fim_rep", "fim_sep") if name in self.special}
        for text in _ENDINGS.split():
            if text in self.ids:
                self.ends.add(self.ids[text])
                self.kinds[self.ids[text]] |= Kind.CONTROL
        self.ends |= {self.special[name] for name in ("eos", "eot", "eom") if name in self.special}
        for text in _ALWAYS_SHOWN:
            if text in self.ids:
                self.kinds[self.ids[text]] = Kind.USER_DEFINED
        present = {text for text in ("<|return|>", "<|call|>", "<|calls|>", "<|flush|>") if text in self.ids}
        calls = present & {"<|call|>", "<|calls|>"}
        if "<|end|>" in self.ids and calls and present & {"<|return|>", "<|flush|>"}:
            self._keep("<|end|>", Kind.USER_DEFINED)
        if "</s>" in self.ids and ("<|tool_response>" in self.ids):
            self._keep("</s>", Kind.NORMAL)

    def _keep(self, text: str, kind: Kind) -> None:
        """A token that looks like an ending and is none."""
        self.ends.discard(self.ids[text])
        self.kinds[self.ids[text]] = kind

    def _strip_sides(self, name: str) -> None:
        """Tokens that swallow the white space beside them; files do not say it, so it goes by the model's name."""
        pre = str(self.metadata.get("tokenizer.ggml.pre") or "")
        architecture = str(self.metadata.get("general.architecture") or "")
        jina = any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code"))
        if jina or any(part in architecture for part in ("nomic-bert-moe", "jina-bert-v3")):
            if "<mask>" in self.ids:
                self.kinds[self.ids["<mask>"]] |= Kind.LSTRIP
        elif "phi-3" in name or "phi3" in name:
            listed = Kind.CONTROL | Kind.USER_DEFINED | Kind.UNKNOWN
            keep = ("<unk>", "<s>", "<|endoftext|>")
            for index, (text, kind) in enumerate(zip(self.texts, self.kinds, strict=True)):
                if (kind & listed or text == "</s>") and text not in keep:
                    self.kinds[index] |= Kind.RSTRIP
        elif "modern-bert" in name and "[MASK]" in self.ids:
            self.kinds[self.ids["[MASK]"]] |= Kind.LSTRIP


def read_vocabulary(metadata: Mapping[str, Any], path: str) -> Vocabulary:
    """The vocabulary in a file's metadata (plain values).

    Raises:
        MalformedFileError: there is none, or it contradicts itself.
        UnsupportedError: a kind of tokenizer or a pre-tokenizer that is not known.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None or model in ("none", "no_vocab"):
        raise MalformedFileError(f"{path}: there is no tokenizer in this file", file=path)
    if model not in _FAMILIES:
        raise UnsupportedError(
            f"{path}: tokenizers of kind {model!r} are not supported; known are {', '.join(_FAMILIES)}", file=path
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise MalformedFileError(f"{path}: tokenizer.ggml.tokens is not a list of tokens", file=path)
    texts = [_text(token, index) for index, token in enumerate(tokens)]
    kinds = _column(metadata, "token_type", len(texts), 1, path)
    scores = _column(metadata, "scores", len(texts), 0.0, path)
    stored = [_STORED_KINDS.get(kind, Kind.UNDEFINED) for kind in kinds]
    return Vocabulary(model, texts, stored, scores, metadata, path)


def _text(token: Any, index: int) -> str:
    text = token.decode("utf-8", "surrogateescape") if isinstance(token, bytes) else str(token)
    return text or f"[EMPTY_{index}]"


def _column(metadata: Mapping[str, Any], name: str, count: int, default: float, path: str) -> list[Any]:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        return [default] * count
    if not isinstance(values, list) or len(values) < count or not all(isinstance(v, (int, float)) for v in values):
        raise MalformedFileError(
            f"{path}: tokenizer.ggml.{name} does not hold one number for each of {count} tokens", file=path
        )
    return values[:count]


def _pre_tokenizer(model: str, name: Any, path: str) -> PreTokenizer:
    if model == "gemma4":
        return PRE_TOKENIZERS["gemma4"]
    if model not in ("gpt2", "whitespace") or not name:
        return PRE_TOKENIZERS["default"]
    if name not in PRE_TOKENIZERS:
        raise UnsupportedError(f"{path}: pre-tokenizer {name!r} (tokenizer.ggml.pre) is not known", file=path)
    return PRE_TOKENIZERS[name]
