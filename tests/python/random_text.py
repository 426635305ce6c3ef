"""Random text that makes tokenizers differ: many scripts, white space of all kinds, digits, marks, contractions."""

from __future__ import annotations

import random

_WORDS = (
    "the quick Brown fox HELLO World isn't I'M you'RE We'Ve a'lL it's 'S don't 'twas camelCase HTMLParser x1y2 "
    "nai\u0308ve na\u00efve caf\u00e9 stra\u00dfe \u0130stanbul \u01c5ungla \u043f\u0440\u0438\u0432\u0435\u0442 "
    "\u4f60\u597d\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 "
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0645\u0631\u062d\u0628\u0627 \u1780\u17b6\u1793\u17cb "
    "1 12 123 1234 1234567 3.14 1,000,000 \u0663\u0664\u0665 \u00bd \u2167 <s> </s> <mask> [MASK] <0x0A> \u2581 "
    "... !!! ?! -- == =>  /* */ // \\n http://x.y/z?q=1 a_b_c @user #tag $9.99 100% \u20ac5 \u2026 \u3002 \u060c"
)
_SPACES = " \t\n\r\x0b\x0c\x1c\x85\u00a0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff"
_RANGES = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x250, 0x36F),
    (0x370, 0x5FF),
    (0x600, 0x1FFF),
    (0x2000, 0x2BFF),
    (0x2E80, 0x33FF),
    (0x3400, 0x9FFF),
    (0xA000, 0xD7FF),
    (0xE000, 0xFFFF),
    (0x10000, 0x1FFFF),
    (0x20000, 0x32000),
    (0x0, 0x1F),
)


def random_text(seed: int, pieces: int = 40) -> str:
    """Up to `pieces` words, spaces, numbers, runs and single characters, the same for the same seed."""
    rng = random.Random(seed)
    made: list[str] = []
    for _ in range(rng.randint(0, pieces)):
        choice = rng.random()
        if choice < 0.4:
            made.append(rng.choice(_WORDS.split()))
        elif choice < 0.6:
            made.append(" " * rng.choice((1, 1, 1, 2, 3, 8, 20)))
        elif choice < 0.7:
            made.append("".join(rng.choices(_SPACES, k=rng.randint(1, 4))))
        elif choice < 0.75:
            made.append("\n" * rng.randint(1, 5))
        elif choice < 0.82:
            made.append(str(rng.randint(0, 10 ** rng.randint(1, 12))))
        elif choice < 0.87:
            made.append(rng.choice("a.-'\u4e00e\u0301 =!") * rng.randint(1, 12))
        else:
            low, high = rng.choice(_RANGES)
            made.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5))))
    return "".join(made)
