"""Evaluates and compares expressions: exactly where values are rational, else with as many digits as needed."""

from collections.abc import Mapping
from fractions import Fraction
from math import comb, factorial, gcd, isqrt, lcm
from typing import Any, Literal

from mpmath import mp, mpc, mpf

from tenner.core.seeds import digest
from tenner.evaluation.grading.maths.expressions import UNSTATED_BASE, VARIADIC, Node, symbols_in
from tenner.evaluation.grading.maths.notation import Unreadable

EXACT_BITS_MAX = 30_000
"""Larger numbers are not computed: a power tower would exhaust the memory."""
FACTORIAL_MAX = 3_000
MAGNITUDE_BITS_MAX = 4_000
WORK_MAX = 2_000_000
"""Limit of one evaluation: operations times the bits of their precision."""
PRECISION_BITS = 200
TOLERANCE_BITS = 150
POINTS = 10
POINTS_MIN = 3
"""Expressions with symbols are compared at POINTS points, and must be defined at POINTS_MIN of them to be equal."""
FLOAT_DIGITS = 15
DIGITS_MIN = 12
"""A decimal with at least this many significant digits is accepted for the number that it rounds."""

Value = Fraction | Any  # Any: an mpf or mpc; mpmath is untyped


class Undefined(ArithmeticError):
    """The expression has no value here."""


class _Evaluation:
    """One pass over a tree. `bits` is the largest magnitude of an intermediate value, as |log2|."""

    def __init__(self, at: Mapping[str, Fraction]) -> None:
        self._at = at
        self._work = 0
        self.bits = 0

    def value(self, node: Node) -> Value:
        self._work += mp.prec
        if self._work > WORK_MAX:
            raise Unreadable("too much to be computed")
        found = self._value(node)
        if isinstance(found, Fraction):
            size = max(found.numerator.bit_length(), found.denominator.bit_length())
            if size > EXACT_BITS_MAX:
                raise Unreadable("a number too large to be computed")
            magnitude = abs(found.numerator.bit_length() - found.denominator.bit_length())
        elif mp.isnan(found):
            raise Undefined("not a number")
        elif mp.isinf(found) or found == 0:
            return found
        else:
            magnitude = abs(int(mp.mag(found)))
        if magnitude > MAGNITUDE_BITS_MAX and not isinstance(found, Fraction):
            raise Unreadable("a number too large to be computed")
        self.bits = max(self.bits, min(magnitude, MAGNITUDE_BITS_MAX))
        return found

    def _value(self, node: Node) -> Value:
        if node.head == "number":
            return node.value
        if node.head == "constant":
            return mp.pi if node.name == "pi" else mp.inf
        if node.head == "symbol":
            if node.name in CONSTANT_SYMBOLS:
                return mpc(0, 1) if node.name == "i" else mp.e
            return self._at[node.name]
        args = [self.value(arg) for arg in node.args]
        if node.head in ("+", "*"):
            return _sum_or_product(node.head, *args)
        if node.head == "neg":
            return -args[0]
        if node.head == "/":
            if args[1] == 0:
                raise Undefined("division by zero")
            return args[0] / args[1] if _exact(*args) else _real(args[0]) / _real(args[1])
        if node.head == "^":
            return _power(*args)
        if node.head == "root":
            return _root(*args)
        if node.head in VARIADIC:
            return _variadic(node.head, args)
        if node.head in ("!", "factorial", "binom"):
            return _combinatorial(args)
        return _function(node.head, args)


CONSTANT_SYMBOLS = frozenset("ie")


def _exact(*values: Value) -> bool:
    return all(isinstance(value, Fraction) for value in values)


def _real(value: Value) -> Any:
    """Converted to an mpmath number."""
    return mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _sum_or_product(head: str, *values: Value) -> Value:
    if not _exact(*values):
        values = tuple(_real(value) for value in values)
    if head == "+":
        return sum(values[1:], values[0])
    result = values[0]
    for value in values[1:]:
        result = result * value
        if isinstance(result, Fraction) and result.numerator.bit_length() > EXACT_BITS_MAX:
            raise Unreadable("a number too large to be computed")
    return result


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        n = exponent.numerator
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size > 1 and size * abs(n) > EXACT_BITS_MAX:
            raise Unreadable("a power too large to be computed")
        if base == 0 and n < 0:
            raise Undefined("division by zero")
        if abs(base) == 1:
            return Fraction(1) if base == 1 or n % 2 == 0 else Fraction(-1)
        return base**n
    if isinstance(exponent, Fraction) and isinstance(base, Fraction) and exponent.denominator <= 100:
        return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    if base == 0:
        if _real(exponent) > 0:
            return Fraction(0)
        raise Undefined("a power of zero")
    if mp.isinf(_real(exponent)) or mp.isinf(_real(base)):
        raise Unreadable("a power of infinity")
    if abs(_real(exponent)) * (abs(mp.log(abs(_real(base)))) + 1) > MAGNITUDE_BITS_MAX:
        raise Unreadable("a power too large to be computed")
    return mp.power(_real(base), _real(exponent))


def _root(value: Value, degree: Value) -> Value:
    """The real root of a real number if it has one: the cube root of -8 is -2."""
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 0 < degree <= 100:
        return mp.power(_real(value), 1 / _real(degree)) if degree != 0 else _undefined()
    n = degree.numerator
    if isinstance(value, Fraction):
        if value < 0 and n % 2:
            return -_root(-value, degree)
        if value >= 0:
            top, bottom = _whole_root(value.numerator, n), _whole_root(value.denominator, n)
            if top is not None and bottom is not None:
                return Fraction(top, bottom)
    elif n % 2 and mp.im(value) == 0 and value < 0:
        return -mp.root(-value, n)
    return mp.sqrt(_real(value)) if n == 2 else mp.root(_real(value), n)


def _undefined() -> Value:
    raise Undefined("a root of degree zero")


def _whole_root(n: int, degree: int) -> int | None:
    if degree == 2:
        guess = isqrt(n)
    elif n.bit_length() > 1_000:
        return None
    else:
        guess = int(mp.nint(mp.root(mpf(n), degree)))
    return guess if guess**degree == n else None


def _variadic(name: str, args: list[Value]) -> Value:
    """max, min, gcd and lcm of rational numbers."""
    if not _exact(*args):
        raise Unreadable(f"{name} of what is not rational")
    if name in ("max", "min"):
        return max(args) if name == "max" else min(args)
    if any(a.denominator != 1 for a in args):
        raise Undefined("a divisor of what is no whole number")
    return Fraction((gcd if name == "gcd" else lcm)(*(a.numerator for a in args)))


def _combinatorial(args: list[Value]) -> Value:
    if not all(isinstance(a, Fraction) and a.denominator == 1 and a >= 0 for a in args):
        raise Undefined("a factorial of what is no whole number")
    n, *rest = (a.numerator for a in args)
    if n > FACTORIAL_MAX:
        raise Unreadable("a factorial too large to be computed")
    return Fraction(comb(n, *rest) if rest else factorial(n))


def _function(name: str, args: list[Value]) -> Value:
    x = args[0]
    if name == "abs":
        return abs(x) if isinstance(x, Fraction) else mp.fabs(x)
    if name in ("floor", "ceil"):
        if isinstance(x, Fraction):
            return Fraction(x.__floor__() if name == "floor" else x.__ceil__())
        if mp.isinf(x) or mp.im(x) != 0:
            raise Undefined("no whole number")
        return Fraction(int(mp.floor(x) if name == "floor" else mp.ceil(x)))
    real = _real(x)
    if mp.isinf(real):
        raise Undefined("a function of infinity")
    if name in ("ln", "lg", "logbase"):
        base = _real(args[1]) if name == "logbase" else mpf(10) if name == "lg" else mp.e
        if real == 0 or base in (0, 1):
            raise Undefined("a logarithm that does not exist")
        return mp.log(real) if base is mp.e else mp.log(real) / mp.log(base)
    if mp.mag(real) > MAGNITUDE_BITS_MAX or (
        name in ("exp", "sinh", "cosh", "tanh") and abs(real) > MAGNITUDE_BITS_MAX
    ):
        raise Unreadable("an argument too large to be computed")
    try:
        return getattr(mp, name)(real)
    except ZeroDivisionError as e:
        raise Undefined("a pole") from e


def exact_value(node: Node) -> Fraction | None:
    """The value of an expression that is a rational number; None for anything else."""
    if symbols_in(node):
        return None
    try:
        value = _Evaluation({}).value(node)
    except (Undefined, Unreadable):
        return None
    return value if isinstance(value, Fraction) else None


Agreement = Literal["same", "different", "undecided"]


def compare(a: Node, b: Node) -> Agreement:
    """Whether two expressions have the same value; expressions with symbols are compared at ten seeded points.

    Some points are negative, so that |x| is not x. Points where neither has a real value are skipped, so that
    sqrt(1/n) equals 1/sqrt(n). Undecided where numbers would be too large, or too few points could be compared.
    """
    symbols = sorted((symbols_in(a) | symbols_in(b)) - CONSTANT_SYMBOLS)
    complex_too = "i" in symbols_in(a) | symbols_in(b)
    compared = 0
    for i in range(POINTS if symbols else 1):
        at = {name: _point(name, i) for name in symbols}
        try:
            same = _same_at(a, b, at, complex_too=complex_too)
        except Unreadable:
            return "undecided"
        if same is False:
            return "different"
        compared += same is not None
    return "same" if compared >= (POINTS_MIN if symbols else 1) else "undecided"


def _point(name: str, i: int) -> Fraction:
    """Four positive fractions, three negative ones and three whole numbers, different for every symbol."""
    draw = int(digest("point", name, i)[:8], 16)
    if i >= 7 or name == UNSTATED_BASE:
        return Fraction(3 + draw % 17)
    return Fraction(1 + draw % 300, 101) * (-1 if i >= 4 else 1)


def _same_at(a: Node, b: Node, at: Mapping[str, Fraction], *, complex_too: bool) -> bool | None:
    """Whether both have the same value at a point; None where a value is undefined or neither is real."""
    with mp.workprec(PRECISION_BITS):
        first = _Evaluation(at)
        try:
            x, y = first.value(a), first.value(b)
        except Undefined:
            return None
        bits = first.bits
    if _exact(x, y):
        return bool(x == y)
    with mp.workprec(PRECISION_BITS + 2 * bits):
        second = _Evaluation(at)
        x, y = _real(second.value(a)), _real(second.value(b))
        if mp.isinf(x) or mp.isinf(y):
            return bool(x == y)
        # No intermediate value was above 2^bits, so the error is below 2^-(190 + bits).
        tiny = mpf(2) ** -(TOLERANCE_BITS + bits)
        if not complex_too:
            x_is_real, y_is_real = abs(mp.im(x)) <= tiny, abs(mp.im(y)) <= tiny
            if not x_is_real and not y_is_real and at:
                return None
            if x_is_real != y_is_real:
                return False
        return bool(abs(x - y) <= tiny)


def proportional(a: Node, b: Node) -> Agreement:
    """Whether one expression is a nonzero constant multiple of the other: then a = 0 and b = 0 are equivalent."""
    symbols = sorted((symbols_in(a) | symbols_in(b)) - CONSTANT_SYMBOLS)
    if symbols_in(a) - CONSTANT_SYMBOLS != symbols_in(b) - CONSTANT_SYMBOLS or not symbols:
        return "different"
    at = {name: _point(name, 0) for name in symbols}
    with mp.workprec(PRECISION_BITS):
        try:
            x, y = _Evaluation(at).value(a), _Evaluation(at).value(b)
        except (Undefined, Unreadable):
            return "undecided"
    if x == 0 or y == 0 or not _exact(x, y):
        return "undecided" if x == 0 or y == 0 else compare(Node("*", (a, _at(b, at))), Node("*", (b, _at(a, at))))
    return compare(Node("*", (a, Node("number", value=y))), Node("*", (b, Node("number", value=x))))


def _at(node: Node, at: Mapping[str, Fraction]) -> Node:
    """The expression with its symbols replaced by numbers."""
    if node.head == "symbol" and node.name in at:
        return Node("number", value=at[node.name])
    return node._replace(args=tuple(_at(arg, at) for arg in node.args))


def is_near(exact: Node, decimal: Node) -> bool:
    """Whether a decimal approximates a real number to within one per cent."""
    if symbols_in(exact) - CONSTANT_SYMBOLS or symbols_in(decimal):
        return False
    with mp.workprec(PRECISION_BITS):
        try:
            x, y = _real(_Evaluation({}).value(exact)), _real(_Evaluation({}).value(decimal))
        except (Undefined, Unreadable):
            return False
        return bool(mp.im(x) == 0 and not mp.isinf(x) and abs(x - y) <= abs(x) / 100)


def rounds_to(value: Node, decimal: str) -> bool:
    """Whether a decimal of at least `DIGITS_MIN` significant digits is the value, rounded or cut to these digits.

    The nearest double, as computers print it, counts too. A value that has so few digits itself must be exact.
    """
    whole, _, digits = decimal.lstrip("-").partition(".")
    if len((whole + digits).lstrip("0")) < DIGITS_MIN or symbols_in(value) - CONSTANT_SYMBOLS:
        return False
    exact = exact_value(value)
    if exact is not None and 10 ** len(digits) % exact.denominator == 0:
        return False  # it could have been written out
    with mp.workprec(PRECISION_BITS + 4 * len(decimal)):
        try:
            found = _real(_Evaluation({}).value(value))
        except (Undefined, Unreadable):
            return False
        if mp.isinf(found) or mp.im(found) != 0 or mp.mag(found) > 4 * len(decimal) + 60:
            return False
        scaled, written = abs(mp.re(found)) * 10 ** len(digits), int(whole + digits)
        same_sign = (mp.re(found) < 0) == decimal.startswith("-")
        as_float = len(whole + digits) > FLOAT_DIGITS and float(decimal) == float(mp.re(found))
        return as_float or (same_sign and written in (int(mp.nint(scaled)), int(mp.floor(scaled))))
