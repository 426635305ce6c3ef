"""Pre-tokenizers by the name that GGUF files give them (`tokenizer.ggml.pre`): data.

Expressions are applied one after the other, each to the pieces that the one before it left; what lies between two
matches is a piece as well. They are the ones llama.cpp uses, which often stand in for the original tokenizer's
own; where it replaces an expression by code, the expression here does what that code does.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s+(?!\S)|\s+"
_LINES_SPACES = r"\s*[\r\n]+|" + _SPACES

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_LINES_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SYMBOLS}|{_LINES_SPACES}"
_MARKED_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_MARKED_UPPER, _MARKED_LOWER = r"(?:(?=[\p{L}\p{M}])[^a-z])", r"(?:(?=[\p{L}\p{M}])[^A-Z])"
_LEAD = r"[^\r\n\p{L}\p{N}]?"


def _cased(upper: str, lower: str, ending: str) -> str:
    """Words that begin a new piece where upper case follows lower case."""
    return f"{_LEAD}{upper}*{lower}+{ending}|{_LEAD}{upper}+{lower}*{ending}"


_TEKKEN = rf"{_cased(_UPPER, _LOWER, '')}|\p{{N}}|{_SYMBOLS_SLASH}|{_LINES_SPACES}"
_GPT4O = rf"{_cased(_UPPER, _LOWER, _CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_SYMBOLS_SLASH}|{_LINES_SPACES}"
_GRANITE = _GPT4O.replace(_UPPER, _MARKED_UPPER).replace(_LOWER, _MARKED_LOWER)
_ANY_CASE = _cased(r"[\p{L}\p{M}]", r"[\p{L}\p{M}]", _CONTRACTIONS + "?")
_AYA = rf"{_ANY_CASE}|\p{{N}}{{1,3}}|{_SYMBOLS_SLASH}|{_LINES_SPACES}"

_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = rf"{_PUNCTUATED}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES_SPACES}"
_SPARK = rf"{_PUNCTUATED}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}"

# Digits in threes from the right; what stands before a number goes with its first group.
_DIGITS_IN_THREES = r"\P{N}*+\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}{3}|\P{N}+\z"
_NOT_HAN = r"(?:(?!\p{Han})\p{L})+"
_KIMI = rf"\p{{Han}}+|{_LEAD}{_NOT_HAN}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SYMBOLS}|{_LINES_SPACES}"
_NEWLINES = r"[^\n]+|[\n]+"

_LATIN_WORDS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
    "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-"
    "\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-"
    "\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0"
    "-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_WIDE_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CJK_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-"
    "\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_ASIAN_AND_PUNCTUATION = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-"
    "\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt2": (_GPT2,),
    "llama3": (_LLAMA3,),
    "jais2": (
        rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|"
        + "".join(rf"\s{{{n}}}(?!\S)|" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
        + r"\s{1}",
    ),
    "deepseek-llm": ("[\r\n]", _LATIN_WORDS, _WIDE_PUNCTUATION, r"\s+$", _CJK, r"\p{N}+"),
    "deepseek3": (r"\p{N}{1,3}", _CJK_KANA, _DEEPSEEK3),
    "spark2.5": (r"\p{N}{1,3}", _CJK_KANA, _SPARK, r"\p{N}"),
    "youtu": (
        _ASIAN_AND_PUNCTUATION,
        rf"{_ANY_CASE}|\p{{N}}|{_SYMBOLS_SLASH}|{_LINES_SPACES}",
    ),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "starcoder": (r"\p{N}", _GPT2),
    "qwen2": (_QWEN2,),
    "qwen35": (rf"{_CONTRACTIONS}|{_MARKED_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES_SPACES}",),
    "bloom": (_BLOOM,),
    "viking": (_BLOOM, r"\p{N}"),
    "tekken": (_TEKKEN,),
    "chameleon": (
        "<sentinel:[0-9]+>",
        "(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z",
        r"(?:[\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        _GPT2,
    ),
    "gpt4o": (_GPT4O,),
    "granite-embedding": (_GRANITE,),
    "aya": (_DIGITS_IN_THREES, _AYA),
    "kimi-k2": (_KIMI,),
    "superbpe": (r"\p{N}+", r"(?=(?:\d{3})+(?!\d))"),
    "bailing": (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORDS}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|{_SPACES}",),
    "seed-coder": (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES_SPACES}",),
    "ufakzeka": (rf"{_WORDS}|\p{{N}}|{_SYMBOLS}|{_LINES_SPACES}",),
    "afmoe": (_DIGITS_IN_THREES, _ASIAN, _DEEPSEEK3),
    "laguna": (_NEWLINES, _QWEN2),
    "exaone-moe": (
        rf"{_CONTRACTIONS}|{_LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|"
        rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_SPACES}",
    ),
    "newlines": (_NEWLINES,),
    "minicpm5": (
        r"\p{N}{1,3}",
        rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}+|{_SYMBOLS}|{_LINES_SPACES}",
    ),
    "whitespace": (r"\S+",),
}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What a name stands for.

    Attributes:
        expressions: key of `EXPRESSIONS`.
        ignore_merges: a piece that is a token needs no merges to become it.
        add_bos: text begins with the BOS token unless the file says otherwise.
        raw: tokens are text, spaces are U+2581 and bytes are `<0x0A>`; not GPT-2's alphabet of bytes.
        no_bos: there is no BOS token unless the file names one.
    """

    expressions: str
    ignore_merges: bool = False
    add_bos: bool = False
    raw: bool = False
    no_bos: bool = False


_NAMES: tuple[tuple[PreTokenizer, str], ...] = (
    (PreTokenizer("default"), "default"),
    (PreTokenizer("minicpm5", ignore_merges=True), "minicpm5"),
    (
        PreTokenizer("llama3", ignore_merges=True, add_bos=True),
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    ),
    (PreTokenizer("deepseek-llm"), "deepseek-llm"),
    (PreTokenizer("deepseek-coder"), "deepseek-coder"),
    (PreTokenizer("deepseek3"), "deepseek-v3 hunyuan-dense hy_v4 joyai-llm"),
    (PreTokenizer("spark2.5"), "spark2_5"),
    (PreTokenizer("youtu", ignore_merges=True), "youtu"),
    (PreTokenizer("falcon"), "falcon"),
    (
        PreTokenizer("gpt2"),
        "mpt gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
        "jina-v1-en jina-v2-code roberta-bpe olmo jais exaone4 trillion granite-docling",
    ),
    (PreTokenizer("starcoder"), "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2"),
    (PreTokenizer("jais2"), "jais-2"),
    (PreTokenizer("newlines", raw=True), "gemma4 granite-embed-multi-311m sarvam-moe"),
    (PreTokenizer("whitespace"), "whitespace"),
    (PreTokenizer("qwen2"), "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan grok-2 solar-open"),
    (PreTokenizer("qwen35"), "qwen35"),
    (PreTokenizer("llama3"), "dbrx smaug-bpe"),
    (PreTokenizer("bloom"), "poro-chat bloom gpt3-finnish"),
    (PreTokenizer("llama3", no_bos=True), "chatglm-bpe"),
    (PreTokenizer("llama3", ignore_merges=True, no_bos=True), "glm4 glm5"),
    (PreTokenizer("viking"), "viking"),
    (PreTokenizer("tekken", ignore_merges=True, add_bos=True), "tekken"),
    (PreTokenizer("exaone-moe"), "exaone-moe"),
    (PreTokenizer("chameleon", add_bos=True), "chameleon"),
    (PreTokenizer("gpt4o"), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (PreTokenizer("granite-embedding", ignore_merges=True), "granite-embed-multi-97m"),
    (PreTokenizer("aya"), "tiny_aya cohere2moe"),
    (PreTokenizer("superbpe"), "superbpe"),
    (PreTokenizer("bailing"), "bailingmoe bailingmoe2 llada-moe"),
    (PreTokenizer("seed-coder"), "seed-coder"),
    (PreTokenizer("kimi-k2"), "kimi-k2"),
    (PreTokenizer("ufakzeka"), "ufakzeka"),
    (PreTokenizer("afmoe"), "afmoe"),
    (PreTokenizer("laguna"), "laguna"),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: kind for kind, names in _NAMES for name in names.split()}
"""Every name that llama.cpp knows."""
