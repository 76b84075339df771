"""Matrices, multiples and determinants of them, systems of equations in braces, and vectors by their unit vectors."""

from collections.abc import Callable, Sequence
from itertools import permutations

from tenner.evaluation.grading.maths.brackets import split
from tenner.evaluation.grading.maths.expressions import Node, number, parse, symbols_in
from tenner.evaluation.grading.maths.notation import UNIT_VECTORS, Token, Unreadable
from tenner.evaluation.grading.maths.quantities import Quantity
from tenner.evaluation.grading.maths.shapes import Equation, Listing, Matrix, Shape
from tenner.evaluation.grading.maths.values import compare

MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "array", "smallmatrix"))
SYSTEMS = frozenset(("array", "aligned", "gathered", "split"))
"""Behind an opening brace."""
DETERMINANT_ROWS_MAX = 4

Reader = Callable[[list[Token]], Shape]
"""What reads a cell, or a row of a system."""


def environment_of(tokens: list[Token], cell_of: Reader, relation_of: Reader) -> Shape | None:
    """The shape of one LaTeX environment, with a factor or `\\\\det` before it; None where none begins.

    Raises Unreadable for an environment that holds no answer, and for tokens behind it.
    """
    begin = next((i for i, t in enumerate(tokens) if t.text == "begin"), None)
    if begin is None or sum(t.text == "begin" for t in tokens) > 1:
        return None
    texts = [t.text for t in tokens]
    end = len(tokens) - 4
    if texts[begin + 1 : begin + 2] != ["{"] or end <= begin + 3 or texts[end] != "end":
        return None
    name, inside, before = texts[begin + 2], tokens[begin + 4 : end], tokens[:begin]
    if texts[end + 2] != name:
        raise Unreadable(f"the environment {name}")
    if name == "cases" and not before:
        return _system(inside, relation_of)
    if name in SYSTEMS and [t.text for t in before] == ["{s"]:
        return _system([t for t in _without_columns(inside) if t.text != "&"], relation_of)
    if name in ("vmatrix", "Vmatrix") and not before:
        return determinant(_rows(inside, cell_of))
    if name not in MATRICES:
        raise Unreadable(f"the environment {name}")
    matrix = _rows(_without_columns(inside) if name == "array" else inside, cell_of)
    if not before:
        return matrix
    return determinant(matrix) if [t.text for t in before] == ["det"] else _multiple(_factor(before), matrix)


def _without_columns(tokens: list[Token]) -> list[Token]:
    """Without what an array says of its columns: {cc}."""
    return tokens[[t.text for t in tokens].index("}") + 1 :] if tokens and tokens[0].text == "{" else tokens


def _rows(tokens: list[Token], cell_of: Reader) -> Matrix:
    rows = [row for row in split(tokens, frozenset((r"\\",))) if row]
    cells = tuple(tuple(cell_of(cell) for cell in split(row, frozenset(("&",)))) for row in rows)
    if not cells or len({len(row) for row in cells}) != 1:
        raise Unreadable("rows of different lengths")
    return Matrix(cells)


def _factor(tokens: list[Token]) -> Node:
    """What stands before a matrix: a number or an expression that it is multiplied by."""
    texts = [t.text for t in tokens]
    if texts == ["-"]:
        return number(-1)
    return parse(tokens[:-1] if texts[-1] in ("cdot", "*") else tokens)


def _multiple(factor: Node, matrix: Matrix) -> Matrix:
    return Matrix(tuple(tuple(Quantity(Node("*", (factor, _node(cell)))) for cell in row) for row in matrix.rows))


def _node(cell: Shape) -> Node:
    if not isinstance(cell, Quantity) or cell.unit is not None:
        raise Unreadable("a matrix of something else than numbers")
    return cell.node


def determinant(matrix: Matrix) -> Quantity:
    """The determinant, as the sum over all permutations of the columns. Raises Unreadable for more than four rows."""
    size = len(matrix.rows)
    if size > DETERMINANT_ROWS_MAX or size != len(matrix.rows[0]):
        raise Unreadable("the determinant of this matrix")
    terms = []
    for columns in permutations(range(size)):
        product = Node("*", (number(1), *(_node(matrix.rows[row][column]) for row, column in enumerate(columns))))
        inversions = sum(a > b for i, a in enumerate(columns) for b in columns[i + 1 :])
        terms.append(Node("neg", (product,)) if inversions % 2 else product)
    return Quantity(Node("+", tuple(terms)) if len(terms) > 1 else terms[0])


def _system(tokens: list[Token], relation_of: Reader) -> Shape:
    """x = 1, y = 2 in braces is (x, y) = (1, 2). Raises Unreadable for anything else, such as a piecewise function."""
    rows = [row for row in split(tokens, frozenset((r"\\",))) if row]
    equations = [relation_of([t for t in row if t.text not in ("&", ",")]) for row in rows]
    found = [e for e in equations if isinstance(e, Equation) and e.name]
    names = [equation.name for equation in found]
    if len(found) != len(equations) or names != sorted(set(names)) or len(names) < 2:
        raise Unreadable("a system that is not solved")
    return Equation(f"({','.join(names)})", None, Listing("(", tuple(e.right for e in found)))


def vector_of(tokens: Sequence[Token]) -> Listing | None:
    """The components of a sum of the unit vectors i, j, k; None where there are none."""
    if not any(t.text in UNIT_VECTORS for t in tokens):
        return None
    node = parse([Token("symbol", t.text, t.spaced) if t.text in UNIT_VECTORS else t for t in tokens])
    dimensions = 3 if UNIT_VECTORS[2] in symbols_in(node) else 2
    components = []
    for axis in UNIT_VECTORS:
        # The coefficient of a linear form: its value with this unit vector 1, and the others 0.
        at = {other: number(int(other == axis)) for other in UNIT_VECTORS}
        components.append(_substituted(node, at))
    sum_of_parts = Node("+", tuple(
        Node("*", (c, Node("symbol", name=axis))) for c, axis in zip(components, UNIT_VECTORS, strict=True)
    ))  # fmt: skip
    if compare(node, sum_of_parts) != "same":
        raise Unreadable("a product of vectors")
    return Listing("(", tuple(Quantity(component) for component in components[:dimensions]))


def _substituted(node: Node, at: dict[str, Node]) -> Node:
    if node.head == "symbol" and node.name in at:
        return at[node.name]
    return node._replace(args=tuple(_substituted(arg, at) for arg in node.args))
