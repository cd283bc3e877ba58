# ruff: noqa: RUF001 (the letters that look alike are the point)
"""Texts that tokenizers disagree about: an engine that gives the reference's ids for these knows the tokenizer."""

import itertools
from collections.abc import Sequence

STRINGS = (
    "",
    " ",
    "  ",
    "   leading and trailing   ",
    "a b  c   d    e     f\tg\t\th \t i",
    "\n",
    "\n\n\t \r\n  mixed\u00a0white\u2003space\u3000 \u2028 \u200b\u0085\u000b\u000c x",
    "line\r\nline\rline\n\n\n  indented\n\t\ttabbed \n \n",
    "I'm you'RE they'Ve WE'LL he'D can't 'tis rock'n'roll 'S'T'M it'sit'llit've x'ſ I’m you’re",
    "e\u0301 é n\u0303 ñ \u1100\u1161\u11a8 각 ﬁ ① ﷺ a\u0301b \u0301x q\u0323\u0307 \u0307",
    "\u0928\u093f \u0915\u094d\u0937 \u0e19\u0e49\u0e33 \u1780\u17d2\u1798 \u05d0\u05b7 \u0627\u0651",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd \U0001f1fa\U0001f1f3 \U0001fae8a\U0001f600b1\U0001f6002",
    "中文分词没有空格，日本語の文章です。한국어 문장 中1文a中 　全角",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c ١٢٣ ۴۵۶",
    "\x00\x01\x07\x1b[0m\x7f\x85 control\x00\x00 \x1fx\x00y",
    "<s></s><unk><|endoftext|> [CLS] [SEP] <s >< /s> <|im_start|>user<|im_end|> <pad> [MASK] <0x0A>",
    "\ufffd \ufeff \ufffe \uffff \U0010ffff \ud7ff \ue000 \ufffd\ufffda \ufeffb",
    "▁ ▁▁ already ▁marked Ġ Ċ ĠĠ ##ing <0x0A> <0xFF>",
    "a" * 3000,
    " " * 700 + "x" + "\n" * 300 + "\t" * 200,
    "antidisestablishmentarianism" * 40,
    "ab" * 150 + "文" * 300 + "!?" * 200 + "1234567890" * 30,
    "x=1;y=[i**2for i in range(10)]#c\n\tdef f(self,*,a:int=0)->None:...",
    "3.14159 1,000,000 0xDEADBEEF 10⁻⁹ ½ ٣ ४ 1a2b3c 123456789 Ⅷ ②",
    "Ｆｕｌｌｗｉｄｔｈ ｔｅｘｔ ǅ ß ẞ İ ı ΑΣ ςσ ŉ ǆ CamelCaseHTTPServer iOS LaTeX",
    "https://example.org/a_b?c=%20d&e=f#g user@host.com C:\\path\\to --flag=\"v\" 'q' `c` $x_{1}^2$",
    "…—–“”‘’«»¿¡§¶†‡•°©®™€£¥₿ ~!@#$%^&*()_+-={}[]|:;<>,./",
    "\u0378 \u0530a \u2fe0 \U0001fffe x\U000e0001y \U000e0100 \U000f0000",
    "end with newline\n",
    "end with spaces  ",
)
"""What every tokenizer is asked."""

YOUNG = (
    "\u088f\u0c5c\u0cdc\u0897\u1c89\ua7cb\ua7da\U00010940\U00011db0\U00016ea0\U000323b0\U0001e6c0\U00010d4a\U0002ebf0"
)
"""Characters that older tables of Unicode do not have: letters of its versions 15.1, 16 and 17."""

_AROUND = (
    "{0}",
    "a{0}b",
    "a {0} b",
    " {0}",
    "{0} ",
    "1{0}2",
    "{0}{0}",
    "\n{0}\n",
    "'{0}s x{0}'s",
    "  {0}  ",
    "A{0}É文{0}。",
)


def surrounded(needle: str) -> list[str]:
    """A text in the company of letters, digits, spaces and itself."""
    return [pattern.format(needle) for pattern in _AROUND]


def around_all(needles: Sequence[str]) -> list[str]:
    """Every needle alone among neighbours, and next to the others."""
    texts = [text for needle in needles for text in surrounded(needle)]
    return [
        *texts,
        "".join(needles),
        " ".join(needles),
        *(f"x{a}{b} y" for a, b in itertools.pairwise(needles)),
    ]
