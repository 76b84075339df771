"""Words behind a number that multiply it: dozen, million, lakh, and those of other languages."""

SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
SCALES |= {f"{name}s": factor for name, factor in SCALES.items()} | {
    "millionen": 10**6, "mio": 10**6, "milliarde": 10**9, "milliarden": 10**9, "mrd": 10**9, "millones": 10**6,
    "millón": 10**6, "milliard": 10**9, "milliards": 10**9, "milhões": 10**6, "milioni": 10**6,
    "тыс": 10**3, "тысяча": 10**3, "тысячи": 10**3, "тысяч": 10**3, "млн": 10**6, "миллион": 10**6, "миллиона": 10**6,
    "миллионов": 10**6, "млрд": 10**9, "миллиард": 10**9, "миллиарда": 10**9, "миллиардов": 10**9,
}  # fmt: skip
MYRIADS = {
    "万": 10**4,
    "萬": 10**4,
    "亿": 10**8,
    "億": 10**8,
    "만": 10**4,
    "억": 10**8,
}
"""East Asian scales: what follows in the same word is the unit, as in 万元."""
SMALL = {"十": 10, "百": 100, "千": 10**3, "백": 100, "천": 10**3, "조": 10**12}
"""Those that also begin other words (千米 is a kilometer, 조각 a piece) count alone, before a scale and a counter."""
COUNTERS = frozenset(("元", "円", "人", "个", "個", "원", "명", "개"))


def scale_of(word: str) -> tuple[int, str] | None:
    """By how much a word, in lower case, multiplies, and the unit in the same word; None for a word that does not."""
    if word in SCALES:
        return SCALES[word], ""
    first, rest = word[:1], word[1:]
    if first in MYRIADS or (first in SMALL and (not rest or rest in COUNTERS or rest[0] in MYRIADS)):
        factor = (MYRIADS | SMALL)[first]
        more, unit = scale_of(rest) or (1, rest)
        return factor * more, unit
    return None
