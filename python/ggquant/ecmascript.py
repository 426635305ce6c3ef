"""ECMAScript regular expressions, as C++'s `std::regex` reads them, translated to Python's `re`.

The two share most of their notation, but not all: `[]`, `x{,3}`, `\\d` on other scripts' digits, `a++`,
`\\z`, `.` and line ends differ. A pattern is therefore read piece by piece and written anew, over bytes.
What `std::regex` refuses, and the few things it reads in ways that are not worth carrying over, raise
`PatternError` with the place.
"""

from __future__ import annotations

import re

__all__ = ["PatternError", "ecmascript_to_python"]


class PatternError(ValueError):
    """A pattern that cannot be carried over; the message says where and why."""


_CONTROLS = {"f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "0": 0}
_POSIX = {
    "alpha": b"a-zA-Z",
    "digit": b"0-9",
    "alnum": b"a-zA-Z0-9",
    "lower": b"a-z",
    "upper": b"A-Z",
    "xdigit": b"0-9a-fA-F",
    "space": rb"\x09-\x0d\x20",
}
_INTERVAL = re.compile(r"\{([0-9]{1,4})(?:,([0-9]{1,4})?)?\}")
_HEX = re.compile(r"[0-9a-fA-F]{2}")
_POSIX_CLASS = re.compile(r"\[:([a-z]+):\]")


def ecmascript_to_python(pattern: str) -> bytes:
    """Lower-cases `pattern` as llama-quantize does (ASCII letters only) and translates it for `re.compile`.

    The pattern's UTF-8 bytes are what is matched, byte by byte, as there. Lower-casing comes first, so
    `\\D` means `\\d`, as there.
    """
    # One character a byte, so that positions and repetitions count bytes.
    text = pattern.encode("utf-8", "surrogatepass").lower().decode("latin-1")
    return _Translator(text).run()


def _literal(code: int) -> bytes:
    return b"\\x%02x" % code


class _Translator:
    """One pass over a pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.out: list[bytes] = []
        self.open_groups: list[bool] = []  # whether each open group is an assertion
        self.repeatable = False  # whether a quantifier may follow

    def fail(self, why: str) -> PatternError:
        return PatternError(f"{why} (at character {self.at + 1} of '{self.text}')")

    def emit(self, piece: bytes, *, repeatable: bool) -> None:
        self.out.append(piece)
        self.repeatable = repeatable

    def run(self) -> bytes:
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "*+?{":
                self.quantifier()
                continue
            if char == "\\":
                self.escape()
                continue
            if char == "[":
                self.bracket()
                continue
            if char == "(":
                self.group()
                continue
            if char == ")":
                if not self.open_groups:
                    raise self.fail("')' closes nothing")
                self.emit(b")", repeatable=not self.open_groups.pop())
            elif char == "|":
                self.emit(b"|", repeatable=False)
            elif char == "^":
                self.emit(rb"\A", repeatable=False)
            elif char == "$":
                self.emit(rb"\Z", repeatable=False)
            elif char == ".":
                self.emit(rb"[^\n\r]", repeatable=True)
            elif char == "\0":
                raise self.fail("a pattern cannot hold a NUL")
            else:
                self.emit(_literal(ord(char)), repeatable=True)
            self.at += 1
        if self.open_groups:
            raise self.fail("a group is not closed")
        return b"".join(self.out)

    def quantifier(self) -> None:
        char = self.text[self.at]
        if not self.repeatable:
            raise self.fail(f"'{char}' has nothing to repeat")
        if char == "{":
            found = _INTERVAL.match(self.text, self.at)
            if found is None:
                raise self.fail("expected a repetition such as {2}, {2,} or {2,4}")
            if found[2] is not None and int(found[2]) < int(found[1]):
                raise self.fail("a repetition's bounds are the wrong way round")
            piece = found[0]
        else:
            piece = char
        self.at += len(piece)
        if self.text[self.at : self.at + 1] == "?":
            piece += "?"
            self.at += 1
        self.emit(piece.encode(), repeatable=False)

    def group(self) -> None:
        opening = self.text[self.at : self.at + 3]
        if not opening.startswith("(?"):
            opening = "("
        elif opening not in ("(?:", "(?=", "(?!"):
            raise self.fail("ECMAScript has no such group; use (...), (?:...), (?=...) or (?!...)")
        self.open_groups.append(opening in ("(?=", "(?!"))
        # Nothing refers back to a group, so it need not be remembered.
        self.emit(b"(?:" if opening == "(" else opening.encode(), repeatable=False)
        self.at += len(opening)

    def escaped_char(self) -> int:
        """The character that the escape at the current place stands for; moves past it."""
        char = self.text[self.at + 1]
        if char == "x":
            found = _HEX.match(self.text, self.at + 2)
            if found is None:
                raise self.fail(r"expected two hexadecimal digits after \x")
            self.at += 4
            return int(found[0], 16)
        if char in "cu" or char in "123456789":
            raise self.fail(f"\\{char} is not supported; write the characters themselves")
        self.at += 2
        return _CONTROLS.get(char, ord(char))

    def escape(self) -> None:
        if self.at + 1 == len(self.text):
            raise self.fail("a pattern cannot end in a backslash")
        char = self.text[self.at + 1]
        if char in "dsw":
            self.emit(b"\\" + char.encode(), repeatable=True)
            self.at += 2
        elif char == "b":
            self.emit(rb"\b", repeatable=False)
            self.at += 2
        else:
            self.emit(_literal(self.escaped_char()), repeatable=True)

    def bracket(self) -> None:
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        parts: list[bytes] = []
        while True:
            if self.at >= len(self.text):
                raise self.fail("a bracket expression is not closed")
            if self.text[self.at] == "]":
                break
            parts.append(self.bracket_part(first=not parts))
        if not parts:
            raise self.fail("an empty bracket expression")
        self.at += 1
        self.emit(b"[" + b"^" * negated + b"".join(parts) + b"]", repeatable=True)

    def bracket_part(self, *, first: bool) -> bytes:
        """One class, character or range inside a bracket expression."""
        posix = _POSIX_CLASS.match(self.text, self.at)
        if posix is not None:
            if posix[1] not in _POSIX:
                raise self.fail(f"no character class [:{posix[1]}:] here; known: {', '.join(_POSIX)}")
            self.at = posix.end()
            self.refuse_range("a class")
            return _POSIX[posix[1]]
        if self.text[self.at : self.at + 2] in ("[:", "[.", "[="):
            raise self.fail("collating elements are not supported")
        if self.text[self.at] == "\\" and self.text[self.at + 1 : self.at + 2] in ("d", "s", "w"):
            piece = self.text[self.at : self.at + 2].encode()
            self.at += 2
            self.refuse_range("a class")
            return piece
        dash = self.text[self.at] == "-"
        low = self.bracket_char()
        is_range = self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in (
            "]",
            "",
        )
        if dash and not first and self.text[self.at : self.at + 1] != "]":
            raise self.fail("write a dash first, last, or as \\-")
        if not is_range:
            return _literal(low)
        self.at += 1
        if self.text[self.at] == "[" or self.text[self.at : self.at + 2] in ("\\d", "\\s", "\\w"):
            raise self.fail("a range ends in a single character")
        high = self.bracket_char()
        if high < low:
            raise self.fail("a range's ends are the wrong way round")
        self.refuse_range("a range")
        return _literal(low) + b"-" + _literal(high)

    def refuse_range(self, after: str) -> None:
        if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
            raise self.fail(f"a dash after {after}; write it first, last, or as \\-")

    def bracket_char(self) -> int:
        """A single character inside a bracket expression; moves past it."""
        char = self.text[self.at]
        if char == "\\":
            if self.at + 1 == len(self.text):
                raise self.fail("a pattern cannot end in a backslash")
            if self.text[self.at + 1] == "b":
                self.at += 2
                return 8
            return self.escaped_char()
        if char == "\0":
            raise self.fail("a pattern cannot hold a NUL")
        self.at += 1
        return ord(char)
