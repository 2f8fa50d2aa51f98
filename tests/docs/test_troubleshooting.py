"""docs/troubleshooting.md against the source: what it quotes is said there, and what it says of an error is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from sample_pictures import ROOT

from encoders.rknn_words import init_error
from vlm import errors
from vlm.errors import EncoderError, RkvlmError
from vlm.rkllm.diagnosis import Attempt, find_cause

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
VARIES = "…"
SHORTEST = 12
"""Fixed characters that a quotation has at least, so that it is found in one place rather than everywhere."""
OURS, THEIRS, CODES = "Message", "The vendor says", "Exit code"
"""The first heading of each kind of table: our own words, the vendor's, the exit codes."""
_CODE = re.compile(r"(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)")

Row = list[str]


def _tree(root: type[RkvlmError] = RkvlmError) -> Iterator[type[RkvlmError]]:
    for kind in root.__subclasses__():
        if kind.__module__ in ("vlm.errors", "encoders.errors"):
            yield kind
            yield from _tree(kind)


TREE = {kind.__name__: kind for kind in (RkvlmError, *_tree())}


def _rows(head: str) -> list[Row]:
    """The rows of all tables whose first heading is this."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    found: list[Row] = []
    inside = False
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
        if after.startswith("| ---"):
            inside = cells[0] == head
        elif inside and not line.startswith("| ---"):
            found.append(cells)
    assert found, head
    return found


def _quoted(cell: str) -> list[str]:
    return [found[1].strip() for found in _CODE.findall(cell)]


def _named(cell: str) -> set[str]:
    return set(_quoted(cell)) & set(TREE)


# --- What the source says ---------------------------------------------------------------------------------------------


def _text(node: ast.AST) -> str:
    """The text of a literal, with VARIES for what is filled in; empty for anything else."""
    match node:
        case ast.Constant(value=str(value)):
            return re.sub(r"\{\w+\}", VARIES, value)  # a template that str.format fills in
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or VARIES for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_text(left) or VARIES) + (_text(right) or VARIES)
    return ""


def _kinds(node: ast.AST) -> set[str]:
    """The errors that a call makes, or that a row of a table of causes names."""
    match node:
        case ast.Call(func=func, args=parts):
            near: list[ast.expr] = [func, *parts]
        case ast.Tuple(elts=parts):
            near = parts
        case _:
            return set()
    return {each.id for each in near if isinstance(each, ast.Name) and each.id in TREE}


def _literals(node: ast.AST, kinds: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """Every literal below a node but docstrings, and the errors that it is the text of, where that is to be seen."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    kinds = frozenset(_kinds(node)) or kinds
    if text := _text(node):
        yield text, kinds
    for child in ast.iter_child_nodes(node):
        yield from _literals(child, kinds)


@cache
def _said() -> list[tuple[str, frozenset[str]]]:
    files = [path for room in ("vlm", "encoders") for path in sorted((ROOT / room).rglob("*.py"))]
    return [pair for path in files for pair in _literals(ast.parse(path.read_text(encoding="utf-8")))]


def _is_in(quoted: str, text: str) -> bool:
    """Whether the fixed words of a quotation are in a literal, in their order."""
    pattern = ".*".join(re.escape(part.strip()) for part in quoted.split(VARIES))
    return re.search(pattern, text, re.DOTALL) is not None


# --- The page ---------------------------------------------------------------------------------------------------------

QUOTED = [(words, row) for row in _rows(OURS) for words in _quoted(row[0])]


@pytest.mark.parametrize(("words", "row"), QUOTED, ids=[words for words, _ in QUOTED])
def test_what_is_quoted_is_said_by_the_error_beside_it(words: str, row: Row) -> None:
    assert len(words.replace(VARIES, "").strip()) >= SHORTEST
    kinds = [kinds for text, kinds in _said() if _is_in(words, text)]
    assert kinds, "nothing in the source says so"
    named = _named(row[1])
    assert named, "which error is it?"
    assert any(not each or each & named for each in kinds), f"it is the text of {sorted(set().union(*kinds))}"


def test_every_row_of_a_table_is_whole() -> None:
    for head, cells in ((OURS, 3), (THEIRS, 3), (CODES, 3)):
        for row in _rows(head):
            assert len(row) == cells, row
            assert head == CODES or _quoted(row[0]), row


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_error_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_exit_codes_are_those_of_the_classes() -> None:
    """Each class that sets one is beside it, in the order of the codes; 0 and the shell's have none."""
    rows = [(row[0].split(", "), _quoted(row[1])) for row in _rows(CODES)]
    said = {name: int(code) for codes, names in rows if names for code, name in zip(codes, names, strict=True)}
    assert said == {name: kind.exit_code for name, kind in TREE.items() if "exit_code" in vars(kind)}


def test_the_http_statuses_are_those_of_the_classes() -> None:
    pairs = re.findall(r"`(\w+)`, (\d{3})\b", PAGE)
    assert pairs
    assert {name: int(status) for name, status in pairs} == {name: TREE[name].http_status for name, _ in pairs}


VENDOR = [
    (words, name) for row in _rows(THEIRS) for words in _quoted(row[0]) for name in sorted(_named(row[1])) or [""]
]


@pytest.mark.parametrize(("words", "name"), VENDOR, ids=[f"{words}-{name}" for words, name in VENDOR])
def test_the_vendors_words_become_the_error_beside_them(words: str, name: str) -> None:
    """And where none is beside them, no error of ours is made of them."""
    line = words.replace(VARIES, "1")
    encoder = type(init_error(Path("eyes.rknn"), [f"E RKNN: [12:00:00.000] {line}"]))
    cause, _ = find_cause(Attempt("words.rkllm", "librkllmrt.so", "1.2.1", code=-1, lines=[f"E rkllm: {line}"]))
    kinds = {encoder} - {EncoderError} | ({cause.kind} if cause else set())
    assert (getattr(errors, name) in kinds) if name else not kinds
