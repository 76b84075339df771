"""Mathematical expressions: from tokens to a tree, by a grammar that leaves no token unread."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from tenner.evaluation.grading.maths.notation import FUNCTIONS, Token, Unreadable

DEPTH_MAX = 60
CONSTANTS = frozenset(("pi", "infty"))
GREEK = frozenset(
    (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi "
        "omega Delta Gamma Sigma Omega Phi Theta Lambda ell"
    ).split()
)
CLOSING = {"(": ")", "[": "]", "{": "}", "{s": "}s"}


class Node(NamedTuple):
    """A number, a symbol, or an operation on other nodes.

    `head` is "number" (with its `value`), "symbol" or "constant" (with its `name`), or the name of the operation:
    + * / ^ neg ! root (of `args[0]`, the `args[1]`-th), binom, logbase, or a function.
    """

    head: str
    args: tuple["Node", ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


def number(value: Fraction | int) -> Node:
    """The node of an exact number."""
    return Node("number", value=Fraction(value))


UNSTATED_BASE = "base of log"
"""Symbol for the base of a logarithm written without one, which may be natural or decimal: an equality must hold for
any base."""
DEGREE_MARKS = (("^", "circ"), ("^", "{", "circ", "}"), ("degree",))
IN_RADIANS = Node("/", (Node("constant", name="pi"), number(180)))


def parse(tokens: Sequence[Token]) -> Node:
    """The expression that the tokens form as a whole. Raises Unreadable if they form none."""
    reader = _Reader(tokens)
    node = reader.sum()
    if reader.at < len(reader.tokens):
        raise Unreadable(f"what {reader.tokens[reader.at].text!r} means here")
    level, depth = [node], 0
    while level:
        level, depth = [arg for n in level for arg in n.args], depth + 1
    if depth > DEPTH_MAX:
        raise Unreadable("an expression too deep")
    return node


def symbols_in(node: Node) -> frozenset[str]:
    """The names of its symbols."""
    if node.head == "symbol":
        return frozenset((node.name,))
    return frozenset().union(*(symbols_in(arg) for arg in node.args))


class _Reader:
    """Recursive descent: sum, product, signed power, postfix operators, operand."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self._depth = 0
        self._bars = 0

    def _peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].text if self.at + ahead < len(self.tokens) else ""

    def _kind(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].kind if self.at + ahead < len(self.tokens) else ""

    def _is_sign(self, *signs: str) -> bool:
        return self._kind() == "sign" and self._peek() in signs

    def _next(self) -> Token:
        if self.at >= len(self.tokens):
            raise Unreadable("an expression that breaks off")
        self.at += 1
        return self.tokens[self.at - 1]

    def _expect(self, sign: str) -> None:
        if (token := self._next()).text != sign:
            raise Unreadable(f"{token.text!r} where {sign!r} should be")

    def sum(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Unreadable("brackets too deep")
        terms = [self.product()]
        while self._is_sign("+", "-"):
            sign = self._next().text
            right = self.product()
            terms.append(right if sign == "+" else Node("neg", (right,)))
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def product(self) -> Node:
        if self._is_sign("+", "-"):
            sign = self._next().text
            operand = self.product()
            return operand if sign == "+" else Node("neg", (operand,))
        factors, literal = [self.power()], self._literal_before()
        while True:
            if self._is_sign("*") or self._peek() == "cdot":
                self._next()
                factors.append(self._signed_power())
            elif self._is_sign("/"):
                self._next()
                factors.append(Node("/", (number(1), self._signed_power())))
            elif literal is not None and (part := self._fraction_part()) is not None:
                factors = [Node("+", (factors[0], part))]  # a mixed number
            elif self._begins_operand():
                if self._kind() == "number":
                    raise Unreadable("two numbers side by side")
                factors.append(self.power())
            else:
                return factors[0] if len(factors) == 1 else Node("*", tuple(factors))
            literal = None

    def _signed_power(self) -> Node:
        if self._is_sign("+", "-"):
            sign = self._next().text
            operand = self._signed_power()
            return operand if sign == "+" else Node("neg", (operand,))
        return self.power()

    def _literal_before(self) -> str | None:
        """The whole number that was just read as an operand of its own; None if it was something else."""
        before = self.tokens[self.at - 1]
        alone = self.at < 2 or self.tokens[self.at - 2].text not in ("^", "_", "/", "!")
        return before.text if before.kind == "number" and "." not in before.text and alone else None

    def _fraction_part(self) -> Node | None:
        """The proper fraction of a mixed number (`\\frac{4}{5}`, or `4/5` after a space), if one comes next."""
        if self._kind() == "command" and self._peek() == "frac":
            start = self.at
            node = self.power()
            top, bottom = node.args if node.head == "/" else (node, node)
            if top.head == bottom.head == "number" and 0 < top.value < bottom.value:
                return node
            self.at = start
            return None
        slashed = self._kind() == "number" and self._peek(1) == "/" and self._kind(2) == "number"
        if slashed and "." not in self._peek() + self._peek(2):
            top, bottom = number(int(self._peek())), number(int(self._peek(2)))
            if 0 < top.value < bottom.value:
                self.at += 3
                return Node("/", (top, bottom))
        return None

    def _begins_operand(self) -> bool:
        kind, text = self._kind(), self._peek()
        if kind == "sign":
            return text in ("(", "[", "{") or (text == "|" and self._bars == 0)
        known = text in FUNCTIONS or text in GREEK or text in CONSTANTS
        return kind in ("number", "symbol") or (kind == "command" and (known or text in OPERANDS))

    def power(self) -> Node:
        node = self._postfix(self._operand())
        if self._is_sign("^"):
            self._next()
            node = self._postfix(Node("^", (node, self._exponent())))
        return node

    def _postfix(self, node: Node) -> Node:
        while self._is_sign("!"):
            self._next()
            node = Node("!", (node,))
        for mark in DEGREE_MARKS:
            if tuple(t.text for t in self.tokens[self.at : self.at + len(mark)]) == mark:
                self.at += len(mark)
                return Node("*", (node, IN_RADIANS))
        return node

    def _exponent(self) -> Node:
        if self._is_sign("-", "+"):
            sign = self._next().text
            operand = self._exponent()
            return operand if sign == "+" else Node("neg", (operand,))
        base = self._operand()
        if self._is_sign("^"):  # towers associate to the right
            self._next()
            return Node("^", (base, self._exponent()))
        return base

    def _operand(self) -> Node:
        token = self._next()
        if token.kind == "number":
            return number(Fraction(token.text))
        if token.kind == "symbol":
            return self._symbol(token.text)
        if token.kind == "sign":
            return self._bracketed(token.text)
        if token.kind == "command":
            return self._command(token.text)
        raise Unreadable(f"the word {token.text!r}")

    def _symbol(self, name: str) -> Node:
        if (count := self._arrangements(name)) is not None:
            return count
        if name in "fgh" and self._is_sign("(") and not self.tokens[self.at].spaced:
            raise Unreadable("a function without its definition")
        if self._is_sign("_"):
            self._next()
            name = f"{name}_{self._subscript()}"
        while self._is_sign("'"):
            self._next()
            name += "'"
        return Node("symbol", name=name)

    def _arrangements(self, name: str) -> Node | None:
        """C(10, 3) as a binomial coefficient and P(5, 2) as a number of permutations; None for anything else."""
        tokens = self.tokens[self.at : self.at + 5]
        is_call = [t.text for t in tokens[0::2]] == ["(", ",", ")"] and all(t.kind == "number" for t in tokens[1::2])
        if name not in ("C", "P") or not is_call or any("." in t.text for t in tokens[1::2]):
            return None
        self.at += 5
        n, k = (number(int(t.text)) for t in tokens[1::2])
        chosen = Node("binom", (n, k))
        return chosen if name == "C" else Node("*", (chosen, Node("!", (k,))))

    def _subscript(self) -> str:
        if not self._is_sign("{"):
            return self._next().text
        self._next()
        parts = []
        while not self._is_sign("}"):
            parts.append(self._next().text)
        self._next()
        return "".join(parts)

    def _bracketed(self, sign: str) -> Node:
        if sign == "|":
            self._bars += 1
            node = self.sum()
            self._expect("|")
            self._bars -= 1
            return Node("abs", (node,))
        if sign not in ("(", "[", "{"):
            raise Unreadable(f"what {sign!r} means here")
        bars, self._bars = self._bars, 0
        node = self.sum()
        if sign == "{" and self._peek() == "choose":
            self._next()
            node = Node("binom", (node, self.sum()))
        self._expect(CLOSING[sign])
        self._bars = bars
        return node

    def _command(self, name: str) -> Node:
        if name in CONSTANTS:
            return Node("constant", name=name)
        if name in GREEK:
            return self._symbol(name)
        if name in OPERANDS:
            return self._special(name)
        if name in FUNCTIONS:
            return self._function(name)
        raise Unreadable(f"\\{name}")

    def _special(self, name: str) -> Node:
        if name in VARIADIC:
            return Node(name, self._argument_list())
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self._expect({"lfloor": "rfloor", "lceil": "rceil"}[name])
            return Node("floor" if name == "lfloor" else "ceil", (node,))
        first = self._argument()
        return Node("/" if name == "frac" else name, (first, self._argument()))

    def _argument_list(self) -> tuple[Node, ...]:
        """The arguments of a function that takes any number of them: (12, 18) or \\{2, 5\\}."""
        if not self._is_sign("(", "{s"):
            raise Unreadable("a function without its arguments")
        close = CLOSING[self._next().text]
        args = [self.sum()]
        while self._is_sign(","):
            self._next()
            args.append(self.sum())
        self._expect(close)
        return tuple(args)

    def _argument(self) -> Node:
        """The argument of a LaTeX command: a group, or a single digit or sign (`\\frac34` is three quarters)."""
        if self._kind() == "number" and len(self._peek()) > 1 and "." not in self._peek():
            token = self.tokens[self.at]
            rest = Token("number", token.text[1:])
            self.tokens = [*self.tokens[: self.at], rest, *self.tokens[self.at + 1 :]]
            return number(int(token.text[0]))
        return self._operand()

    def _function(self, name: str) -> Node:
        if name == "sqrt" and self._is_sign("["):
            self._next()
            degree = self.sum()
            self._expect("]")
            return Node("root", (self._argument(), degree))
        if name in ("sqrt", "cbrt"):
            degree = number(2 if name == "sqrt" else 3)
            return Node("root", (self._argument() if self._is_sign("{") else self._operand(), degree))
        base = power = None
        while self._is_sign("_", "^"):
            if self._next().text == "_":
                base = self._operand()
            else:
                power = self._exponent()
        argument = self._function_argument()
        if power == Node("neg", (number(1),)) and name in ("sin", "cos", "tan"):
            return Node(f"a{name}", (argument,))
        if base is None and name == "log":
            base = Node("symbol", name=UNSTATED_BASE)
        node = Node("logbase", (argument, base)) if base is not None else Node(name, (argument,))
        return node if power is None else Node("^", (node, power))

    def _function_argument(self) -> Node:
        """A bracketed argument, or the product up to the next function: sin 2x cos x is two factors."""
        if self._is_sign("(", "[", "{", "|"):
            return self.power()
        if self._is_sign("-"):
            self._next()
            return Node("neg", (self._function_argument(),))
        node = self.power()
        while self._begins_operand() and self._peek() not in FUNCTIONS - {"sqrt"} and not self._is_sign("(", "[", "|"):
            node = Node("*", (node, self.power()))
        if self._is_sign("/") and node.head == "constant":  # sin pi/6
            self._next()
            return Node("/", (node, self.power()))
        return node


VARIADIC = frozenset(("gcd", "lcm", "max", "min"))
OPERANDS = frozenset(("frac", "binom", "lfloor", "lceil")) | VARIADIC
