"""What is known about each variant: measured quality and size, when to choose it, and what to choose instead.

Figures are those that llama.cpp publishes: the list that `llama-quantize --help` prints (file size and
increase of perplexity) and the table in tools/quantize/README.md (bits per weight of Llama-3.1-8B). None
are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ADVICE", "BITS_LLAMA_31_8B", "PERPLEXITY", "Advice", "Perplexity"]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Size of the file in GiB and increase of perplexity over the unquantized model."""

    gib: float
    increase: float
    model: str = "Llama-3-8B"


PERPLEXITY: Mapping[str, Perplexity] = {
    "Q4_0": Perplexity(4.34, 0.4685),
    "Q4_1": Perplexity(4.78, 0.4511),
    "Q5_0": Perplexity(5.21, 0.1316),
    "Q5_1": Perplexity(5.65, 0.1062),
    "Q2_K": Perplexity(2.96, 3.5199),
    "Q2_K_S": Perplexity(2.96, 3.1836),
    "Q3_K_S": Perplexity(3.41, 1.6321),
    "Q3_K_M": Perplexity(3.74, 0.6569),
    "Q3_K_L": Perplexity(4.03, 0.5562),
    "Q4_K_S": Perplexity(4.37, 0.2689),
    "Q4_K_M": Perplexity(4.58, 0.1754),
    "Q5_K_S": Perplexity(5.21, 0.1049),
    "Q5_K_M": Perplexity(5.33, 0.0569),
    "Q6_K": Perplexity(6.14, 0.0217),
    "Q8_0": Perplexity(7.96, 0.0026),
    "F16": Perplexity(14.00, 0.0020, "Mistral-7B"),
    "BF16": Perplexity(14.00, -0.0050, "Mistral-7B"),
}
"""From the list of `llama-quantize --help`."""

BITS_LLAMA_31_8B: Mapping[str, float] = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "IQ4_XS": 4.4597,
    "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_M": 3.9960,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
}
"""Bits per weight of whole files of Llama-3.1-8B, from tools/quantize/README.md."""


@dataclass(frozen=True, slots=True)
class Advice:
    """When to choose a variant, and what to choose instead, with the reason."""

    when: str
    instead: tuple[tuple[str, str], ...] = ()


_LEGACY = "Legacy format: choose it for software that reads nothing newer."

ADVICE: Mapping[str, Advice] = {
    "F32": Advice(
        "For computing with, or as an exact intermediate file.",
        (("BF16", "half the size, exact for bf16 checkpoints"),),
    ),
    "F16": Advice(
        "As an intermediate file for software without bf16.",
        (("BF16", "keeps the range of bf16 checkpoints"),),
    ),
    "BF16": Advice("As an intermediate file: exact for bf16 checkpoints.", (("Q8_0", "about half the size"),)),
    "Q8_0": Advice(
        "When memory allows: as good as the original by any measure published.",
        (("Q6_K", "smaller at little cost"),),
    ),
    "Q6_K": Advice("Close to the original, still well under half of 16 bits.", (("Q5_K_M", "smaller at little cost"),)),
    "Q5_K_M": Advice(
        "When Q6_K does not fit and quality matters more than size.",
        (("Q4_K_M", "smaller"), ("Q6_K", "better")),
    ),
    "Q5_K_S": Advice(
        "As Q5_K_M, a little smaller.", (("Q5_K_M", "better at little cost in size"), ("Q4_K_M", "smaller"))
    ),
    "Q4_K_M": Advice(
        "The usual choice: good quality at about three tenths of 16 bits.",
        (("Q5_K_M", "better, if it fits"), ("IQ4_XS", "smaller, best with an imatrix")),
    ),
    "Q4_K_S": Advice(
        "As Q4_K_M, a little smaller.", (("Q4_K_M", "better at little cost in size"), ("IQ4_XS", "smaller"))
    ),
    "Q3_K_L": Advice(
        "Between three and four bits without codebooks.",
        (("IQ4_XS", "about as large, four bits"), ("IQ3_M", "smaller")),
    ),
    "Q3_K_M": Advice(
        "When four bits do not fit, on hardware slow with i-quants.",
        (("IQ3_M", "smaller"), ("Q4_K_S", "better, if it fits")),
    ),
    "Q3_K_S": Advice(
        "The smallest k-quant of three bits.",
        (("IQ3_S", "as large, made for these sizes"), ("IQ3_XS", "smaller")),
    ),
    "Q2_K": Advice(
        "When nothing larger fits and i-quants are too slow; the loss is plain to see.",
        (("IQ3_XXS", "about as large, best with an imatrix"), ("Q3_K_S", "better, if it fits")),
    ),
    "Q2_K_S": Advice("As Q2_K, smaller; asks for an imatrix.", (("IQ2_M", "as large, made for these sizes"),)),
    "IQ4_NL": Advice(
        "Four non-linear bits for rows that 256 does not divide.",
        (("IQ4_XS", "smaller where 256 divides the rows"),),
    ),
    "IQ4_XS": Advice(
        "The smallest four-bit variant; best with an imatrix.",
        (("Q4_K_M", "better, if it fits"), ("IQ3_M", "smaller")),
    ),
    "IQ3_M": Advice(
        "Three bits with the most important tensors at four.",
        (("IQ4_XS", "better, if it fits"), ("IQ3_XS", "smaller")),
    ),
    "IQ3_S": Advice("Three bits throughout.", (("IQ3_M", "better at little cost in size"), ("IQ3_XS", "smaller"))),
    "IQ3_XS": Advice("Between IQ3_XXS and IQ3_S; needs an imatrix.", (("IQ3_S", "better"), ("IQ3_XXS", "smaller"))),
    "IQ3_XXS": Advice(
        "The smallest variant of three bits; needs an imatrix.", (("IQ3_XS", "better"), ("IQ2_M", "smaller"))
    ),
    "IQ2_M": Advice("Large models in small memory; needs an imatrix.", (("IQ3_XXS", "better"), ("IQ2_S", "smaller"))),
    "IQ2_S": Advice("Large models in small memory; needs an imatrix.", (("IQ2_M", "better"), ("IQ2_XS", "smaller"))),
    "IQ2_XS": Advice("Large models in small memory; needs an imatrix.", (("IQ2_S", "better"), ("IQ2_XXS", "smaller"))),
    "IQ2_XXS": Advice(
        "Very large models in small memory; needs an imatrix.", (("IQ2_XS", "better"), ("IQ1_M", "smaller"))
    ),
    "IQ1_M": Advice(
        "To run a very large model at all; needs an imatrix.", (("IQ2_XXS", "better"), ("IQ1_S", "smaller"))
    ),
    "IQ1_S": Advice(
        "The smallest there is for ordinary models; needs an imatrix.",
        (("IQ1_M", "better at little cost in size"), ("IQ2_XXS", "better")),
    ),
    "Q5_1": Advice(_LEGACY, (("Q5_K_M", "better and smaller"),)),
    "Q5_0": Advice(f"{_LEGACY} Also for rows that 256 does not divide.", (("Q5_K_S", "better at the same size"),)),
    "Q4_1": Advice(_LEGACY, (("Q4_K_M", "better and smaller"),)),
    "Q4_0": Advice(
        f"{_LEGACY} Some processors have special kernels for it.",
        (("Q4_K_S", "better at about the same size"),),
    ),
    "MXFP4_MOE": Advice(
        "Mixture-of-experts models published in MXFP4, such as gpt-oss: experts in MXFP4, the rest in Q8_0.",
        (("Q4_K_M", "for models that were not trained in MXFP4"),),
    ),
    "TQ2_0": Advice(
        "Models trained with ternary weights, such as BitNet; of no use for others.",
        (("TQ1_0", "smaller, slower"),),
    ),
    "TQ1_0": Advice(
        "Models trained with ternary weights, such as BitNet; of no use for others.",
        (("TQ2_0", "faster, larger"),),
    ),
    "Q2_0": Advice("Models trained for weights of two bits; of no use for others.", (("Q2_K", "for ordinary models"),)),
    "Q1_0": Advice("Models trained for weights of one bit; of no use for others.", (("IQ1_S", "for ordinary models"),)),
    "COPY": Advice("To rewrite a file as it is: to prune layers, change metadata, or join shards."),
    "Q6_K_L": Advice(
        "As Q6_K, with the embeddings and the output in Q8_0.",
        (("Q6_K", "smaller, what others mean by six bits"),),
    ),
    "Q5_K_L": Advice("As Q5_K_M, with the embeddings and the output in Q8_0.", (("Q5_K_M", "smaller"),)),
    "Q4_K_L": Advice(
        "As Q4_K_M, with the embeddings and the output in Q8_0.",
        (("Q4_K_M", "smaller"), ("Q5_K_S", "five bits throughout")),
    ),
    "Q2_K_L": Advice(
        "As Q2_K, with the embeddings and the output in Q8_0.",
        (("Q2_K", "smaller"), ("Q3_K_S", "three bits throughout")),
    ),
}
"""Advice for every variant. The order of quality between neighbours follows the figures above and the bits
spent."""
