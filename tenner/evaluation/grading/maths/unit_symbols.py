"""The symbols of the SI and of units used with it, with all usual prefixes: their size in base units, and dimension."""

from fractions import Fraction

Powers = dict[str, int]

BASE: dict[str, tuple[str, Powers]] = {  # base units: meter, gram, second, ampere, kelvin, mole
    "m": ("1", {"length": 1}),
    "g": ("1", {"mass": 1}),
    "s": ("1", {"time": 1}),
    "A": ("1", {"current": 1}),
    "K": ("1", {"temperature": 1}),
    "mol": ("1", {"amount": 1}),
    "N": ("1000", {"mass": 1, "length": 1, "time": -2}),
    "J": ("1000", {"mass": 1, "length": 2, "time": -2}),
    "W": ("1000", {"mass": 1, "length": 2, "time": -3}),
    "Pa": ("1000", {"mass": 1, "length": -1, "time": -2}),
    "Hz": ("1", {"time": -1}),
    "C": ("1", {"current": 1, "time": 1}),
    "V": ("1000", {"mass": 1, "length": 2, "time": -3, "current": -1}),
    "\u03a9": ("1000", {"mass": 1, "length": 2, "time": -3, "current": -2}),
    "S": ("1/1000", {"mass": -1, "length": -2, "time": 3, "current": 2}),
    "F": ("1/1000", {"mass": -1, "length": -2, "time": 4, "current": 2}),
    "H": ("1000", {"mass": 1, "length": 2, "time": -2, "current": -2}),
    "T": ("1000", {"mass": 1, "time": -2, "current": -1}),
    "Wb": ("1000", {"mass": 1, "length": 2, "time": -2, "current": -1}),
    "Bq": ("1", {"time": -1}),
    "l": ("1/1000", {"length": 3}),
    "L": ("1/1000", {"length": 3}),
    "eV": ("1.602176634e-16", {"mass": 1, "length": 2, "time": -2}),
    "cal": ("4184", {"mass": 1, "length": 2, "time": -2}),
    "Wh": ("3600000", {"mass": 1, "length": 2, "time": -2}),
    "bar": ("100000000", {"mass": 1, "length": -1, "time": -2}),
    "rad": ("1", {"angle": 1}),
}
WITHOUT_PREFIX: dict[str, tuple[str, Powers]] = {
    "atm": ("101325000", {"mass": 1, "length": -1, "time": -2}),
    "\u00c5": ("1e-10", {"length": 1}),
    "M": ("1000", {"amount": 1, "length": -3}),
    "mM": ("1", {"amount": 1, "length": -3}),
    "dyn": ("0.01", {"mass": 1, "length": 1, "time": -2}),
    "erg": ("0.0001", {"mass": 1, "length": 2, "time": -2}),
}
PREFIXES = {
    "T": "1e12", "G": "1e9", "M": "1e6", "k": "1e3", "h": "100", "d": "0.1", "c": "0.01", "m": "0.001",
    "\u03bc": "1e-6", "u": "1e-6", "n": "1e-9", "p": "1e-12", "f": "1e-15",
}  # fmt: skip
AMBIGUOUS = frozenset(("min", "ft", "cd", "Gs", "hg", "dg", "ds", "cs", "hs", "dl", "dmol", "hmol", "dT", "cT", "hT"))
"""Made of a prefix and a unit, but never written, or something else."""

SI_SYMBOLS: dict[str, tuple[Fraction, Powers]] = {
    symbol: (Fraction(size), powers) for symbol, (size, powers) in (BASE | WITHOUT_PREFIX).items()
} | {
    prefix + symbol: (Fraction(factor) * Fraction(size), powers)
    for prefix, factor in PREFIXES.items()
    for symbol, (size, powers) in BASE.items()
    if prefix + symbol not in AMBIGUOUS | BASE.keys() | WITHOUT_PREFIX.keys()
}
"""Symbol -> its size in base units, and the powers of the base dimensions."""
