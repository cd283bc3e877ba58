# ruff: noqa: RUF001 (the letters that look alike are the point)
"""The texts that an engine and the reference are compared on."""

import functools
import itertools
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import normalizers

from services.tokenizer.engines.structure import Structure

BLOCK = 256
"""Number of code points that are compared at a time."""
CODES = 0x110000
LONGEST = 5
"""Maximum number of characters of the sequences of classes, all of which are compared."""

CONTRACTIONS = ("s", "t", "m", "d", "re", "ve", "ll")
_PIECE = 1 << 15
_RUNS = (6, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 400)
_COMBINING = "\u0334\u05b0\u3099\u0327\u0316\u0301\u0345"
"""Marks of combining classes from 1 to 240."""
UNICODE = unicodedata.unidata_version
"""The version of Unicode that defines what can be composed."""
_NEVER_COMPOSED = (range(0x1F000, 0x1FB00), range(0x20000, 0x40000))
"""Pictographs and ideographs."""


def representatives(structure: Structure) -> str:
    """Return characters of each class that the pre-tokenizer distinguishes, for some an ASCII one and another one."""
    whole = "".join(structure.expressions)
    found = "a1! \t\n\ré—"
    if "'" in whole.replace("&'(", "") or whole == "":
        found += "'sl"
    if r"\p{Lu}" in whole:
        found += "A/"
    if r"\p{M}" in whole:
        found += "\u0301"
    if r"\p{Lo}" in whole or "\u4e00" in whole:
        found += "中"
    if r"\p{P}" in whole:
        found += "\x01"
    return found


def sequences(classes: str) -> Iterator[str]:
    """Yield texts that contain all sequences of up to LONGEST classes; the shortest also as separate texts."""
    whole = "".join(classes[number] for number in _de_bruijn(len(classes), LONGEST))
    whole += whole[: LONGEST - 1]
    for start in range(0, len(whole) - LONGEST + 1, _PIECE):
        yield whole[start : start + _PIECE + LONGEST - 1]
    for length in (1, 2, 3):
        yield from map("".join, itertools.product(classes, repeat=length))


def _de_bruijn(symbols: int, length: int) -> list[int]:
    """Return the shortest cycle with all sequences: Lyndon words in order (Fredricksen, Kessler, Maiorana)."""
    found: list[int] = []
    word = [-1]
    while word:
        word[-1] += 1
        if length % len(word) == 0:
            found += word
        word = [word[place % len(word)] for place in range(length)]
        while word and word[-1] == symbols - 1:
            word.pop()
    return found


def runs(classes: str) -> Iterator[str]:
    """Yield texts with longer runs of one class, between others, at all kinds of places in a text."""
    chance = np.random.default_rng(5)
    for character, before, after in itertools.product(classes, classes, classes):
        lengths = chance.choice(_RUNS, 2)
        yield "".join(f"{before}{character * length}{after}" for length in lengths)
    for character, length in itertools.product(classes, _RUNS):
        yield character * length


def contractions(classes: str) -> Iterator[str]:
    """Yield every contraction, in lower and upper case and both, between all pairs of classes."""
    written = {
        "'" + "".join(letters)
        for contraction in CONTRACTIONS
        for letters in itertools.product(*((letter, letter.upper()) for letter in contraction))
    }
    for contraction in sorted(written):
        yield from (contraction, contraction + contraction)
        yield " ".join(f"{before}{contraction}{after}" for before, after in itertools.product(classes, classes))
        yield from (f"{character}{contraction}" for character in classes)
        yield from (f"{contraction}{character}" for character in classes)


def characters(block: int) -> list[str]:
    """Return the characters of a block of code points, without surrogates."""
    codes = range(block * BLOCK, min((block + 1) * BLOCK, CODES))
    return [chr(code) for code in codes if not 0xD800 <= code < 0xE000]


def around(character: str, classes: str, *, composes: bool) -> list[str]:
    """Return texts with a character alone, and next to every class and in every contraction."""
    c = character
    # Each class is a neighbour on both sides, in two orders. An ASCII character represents those of its class.
    others = [other for other in classes if other not in "'slé—"]
    company = ["".join(f"{other}{c}" for other in others), "".join(f"{c}{other}" for other in reversed(others))]
    company += [f"{c * 3}  {c}  a {c} {c}{c} 1\n{c}\n\n{c}'s"]
    company += [f"'{c} x'{c}a'r{c}a'v{c}a'l{c}a'{c}ea'{c}la {c}'{c} {c}'re{c}'ll{c}"]
    if composes:
        company += [f"a{c}{mark}" for mark in _COMBINING] + [f"a{mark}{c}" for mark in _COMBINING]
        company.append(composed(c))
    return [c, "\n".join(company)]


def is_composed_alike(character: str) -> bool:
    """Return whether comparing `composed` proves how normalization form C treats a character.

    Normalization is stable: text of characters that one version of Unicode assigns is the same in all later ones, and
    in an earlier one it can differ only in that a pair of this version is not composed. Characters that UNICODE does
    not assign may be composed with any other, by an engine whose tables are newer.
    """
    return unicodedata.category(character) != "Cn" or any(ord(character) in each for each in _NEVER_COMPOSED)


def composed(character: str) -> str:
    """Return a text with a character before each one that UNICODE composes it with."""
    return "\n".join(f"{character}{second}" for second in _seconds().get(character, ()))


@functools.cache
def _seconds() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for block in range(CODES // BLOCK):
        for character in characters(block):
            parts = unicodedata.decomposition(character).split()
            if len(parts) == 2 and not parts[0].startswith("<"):
                first, second = (chr(int(part, 16)) for part in parts)
                found.setdefault(first, []).append(second)
    return found


def plain(character: str) -> str:
    """Return a short text with a character alone and next to letters, spaces and itself."""
    return f"{character} {character}\na{character} {character}a{character}{character}1{character}"


def compositions() -> Iterator[str]:
    """Yield what normalization form C composes, and marks in all orders, by the reference's tables."""
    decompose, compose = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    everything = [character for block in range(CODES // BLOCK) for character in characters(block) if character != "\n"]
    taken_apart = decompose("\n".join(everything)).split("\n")
    marks: dict[str, None] = {}
    for character, parts in zip(everything, taken_apart, strict=True):
        if parts == character:
            continue
        yield f"{parts} a{parts}b{compose(parts[:-1])}{parts[-1]}"
        marks.update(dict.fromkeys(parts[1:]))
    # A mark moves only in front of other marks: so this is a mark too.
    moved = decompose("\n".join(f"\u0345{c}" for c in everything)).split("\n")
    marks.update(dict.fromkeys(c for c, found in zip(everything, moved, strict=True) if found == f"{c}\u0345"))
    classes: list[str] = []
    for mark in marks:
        if all(decompose(mark + other) == decompose(other + mark) for other in classes):
            classes.append(mark)
    for mark in marks:
        yield "".join(f"a{mark}{other}e{other}{mark}" for other in classes)


def added(tokens: Sequence[str]) -> Iterator[str]:
    """Yield added tokens with neighbours of all kinds, and next to each other."""
    spaces = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2000\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
    for number, token in enumerate(tokens):
        yield from (token, f" {token}", f"{token} ", token + token, token[:-1], token[1:], token.swapcase())
        company = ("a{0}b", "a {0} b", "1{0}2", "\n{0}\n", "'{0}s x{0}'s", "  {0}  ", "!{0}É文{0}。", "{0}\u0301\u0338")
        yield "".join(pattern.format(token) for pattern in company)
        if number < len(CONTRACTIONS):
            yield from (f"a{space}{token}{space}{space}b{token}{space}" for space in spaces)
    for first, second in itertools.pairwise(tokens):
        yield f"x{first}{second} {first} {second} y"
    yield "".join(tokens)


def words(texts: Sequence[str]) -> Iterator[str]:
    """Yield words composed of entries of a vocabulary, of all lengths, some very long."""
    chance = np.random.default_rng(len(texts))
    letters = [text for text in texts if text.isalpha()] or ["a"]

    def joined(pool: Sequence[str], length: int) -> str:
        return "".join(pool[place] for place in chance.integers(0, len(pool), length))

    for length in (2, 3, 4, 6, 9, 14, 20, 40):
        for _ in range(100):
            yield " ".join(joined(letters, length) for _ in range(4))
    for length in (300, 3000):
        for pool in (letters, texts, "a", ["ab"], "abcdefghijklmnopqrstuvwxyz", "0123456789"):
            yield joined(pool, length)


STRINGS = (
    "",
    "   leading and trailing   ",
    "a b  c   d    e     f\tg\t\th \t i",
    "\n\n\t \r\n  mixed\u00a0white\u2003space\u3000 \u2028 \u200b\u0085\u000b\u000c x",
    "line\r\nline\rline\n\n\n  indented\n\t\ttabbed \n \n",
    "I'm you'RE they'Ve WE'LL he'D can't 'tis rock'n'roll 'S'T'M it'sit'llit've x'ſ I’m you’re",
    "e\u0301 é n\u0303 ñ \u1100\u1161\u11a8 각 ﬁ ① ﷺ a\u0301b \u0301x q\u0323\u0307 \u0307",
    "\u0928\u093f \u0915\u094d\u0937 \u0e19\u0e49\u0e33 \u1780\u17d2\u1798 \u05d0\u05b7 \u0627\u0651",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",
    "中文分词没有空格，日本語の文章です。한국어 문장 中1文a中 　全角",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c ١٢٣ ۴۵۶",
    "\x00\x01\x07\x1b[0m\x7f\x85 control\x00\x00 \x1fx\x00y",
    "<s></s><unk><|endoftext|> [CLS] [SEP] <s >< /s> <|im_start|>user<|im_end|> <pad> [MASK] <0x0A>",
    "▁ ▁▁ already ▁marked Ġ Ċ ĠĠ ##ing <0x0A> <0xFF>",
    " " * 700 + "x" + "\n" * 300 + "\t" * 200,
    "ab" * 150 + "文" * 300 + "!?" * 200 + "1234567890" * 30,
    "x=1;y=[i**2for i in range(10)]#c\n\tdef f(self,*,a:int=0)->None:...",
    "3.14159 1,000,000 0xDEADBEEF 10⁻⁹ ½ ٣ ४ 1a2b3c 123456789 Ⅷ ②",
    "Ｆｕｌｌｗｉｄｔｈ ｔｅｘｔ ǅ ß ẞ İ ı ΑΣ ςσ ŉ ǆ CamelCaseHTTPServer iOS LaTeX",
    "https://example.org/a_b?c=%20d&e=f#g user@host.com C:\\path\\to --flag=\"v\" 'q' `c` $x_{1}^2$",
    "end with newline\n",
    "end with spaces  ",
)
"""Texts of many kinds, for what the systematic ones do not contain."""
