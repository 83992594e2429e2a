"""Adding one more member to a Python file as it stands: text in, text out, found by parsing and not by line.

What cannot be done raises Unexpected with a reason; nothing here reads or writes a file.
"""

from __future__ import annotations

import ast
import re

#: ruff's line length (pyproject.toml)
WIDTH = 120


class Unexpected(Exception):
    """The file does not look as expected; the message says what was."""


def constants(text: str, target: str) -> set[str]:
    """Every string in the tuple, dict or Literal that the module calls ``target``."""
    found = (node.value for node in ast.walk(_value(text, target)) if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, str)}


def names(text: str) -> set[str]:
    """Every name the module binds at its top: imports, classes, functions, constants."""
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        else:
            found |= {name.id for target in _targets(node) for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def with_member(text: str, target: str, member: str) -> str:
    """The module with ``member`` (code, its continuation lines relative) as the last of ``target``."""
    value = _value(text, target)
    last = _members(value, target)[-1]
    lines = text.splitlines()
    if value.lineno == value.end_lineno:
        return _in_one_line(lines, value, member)
    closing = _line(value.end_lineno) - 1
    if lines[closing].strip()[:1] not in {")", "]", "}"}:
        raise Unexpected(f"{target} does not end on a line of its own")
    end, column = _line(last.end_lineno) - 1, last.end_col_offset or 0
    whole = lines[end].encode()
    behind = whole[column:].decode().partition("#")[0].strip()
    if behind not in {"", ","}:
        raise Unexpected(f"something stands behind the last member of {target}")
    if not behind:
        lines[end] = (whole[:column] + b"," + whole[column:]).decode()
    indent = re.match(r" *", lines[closing])[0] + "    "  # type: ignore[index]
    lines[closing:closing] = [f"{indent}{part}" for part in f"{member},".splitlines()]
    return _joined(lines)


def with_import(text: str, module: str, name: str) -> str:
    """The module with ``from module import name`` beside what it imports from there, in isort's order."""
    found = [n for n in ast.parse(text).body if isinstance(n, ast.ImportFrom) and n.module == module and not n.level]
    if len(found) != 1 or any(alias.asname for alias in found[0].names):
        raise Unexpected(f"no plain import from {module}")
    node, lines = found[0], text.splitlines()
    begin, end = node.lineno - 1, _line(node.end_lineno)
    imported = sorted([*(alias.name for alias in node.names), name], key=_natural)
    if begin + 1 == end:
        one = f"from {module} import {', '.join(imported)}"
        comment = lines[begin].encode()[node.end_col_offset :].decode().strip()
        if comment:
            raise Unexpected(f"there is a comment behind the import from {module}")
        each = [f"from {module} import (", *(f"    {part}," for part in imported), ")"]
        lines[begin:end] = [one] if len(one) <= WIDTH else each
        return _joined(lines)
    if [begin + 2 + n for n in range(len(node.names))] != [alias.lineno for alias in node.names] or (
        lines[end - 1].strip() != ")"
    ):
        raise Unexpected(f"the import from {module} does not have each name on a line of its own")
    after = next((alias for alias in node.names if _natural(alias.name) > _natural(name)), None)
    at = after.lineno - 1 if after is not None else end - 1
    lines.insert(at, f"    {name},")
    return _joined(lines)


def with_class(text: str, before: str, code: str) -> str:
    """The module with a class in front of the statement that assigns ``before``, and the comment that belongs to it."""
    at = _assignment(text, before).lineno - 1
    lines = text.splitlines()
    while at > 0 and lines[at - 1].startswith("#"):
        at -= 1
    lines[at:at] = [*code.rstrip().splitlines(), "", ""]
    return _joined(lines)


def with_row(text: str, header: str, row: str) -> str:
    """The page with one more row at the end of the table that begins with ``header``."""
    lines = text.splitlines()
    if header not in lines:
        raise Unexpected(f"no table that begins with {header!r}")
    at = lines.index(header)
    while at < len(lines) and lines[at].startswith("|"):
        at += 1
    lines.insert(at, row)
    return _joined(lines)


def call(before: str, arguments: str, after: str = ")") -> str:
    """A call as ruff formats it four columns deep: its arguments on a line of their own where one is too short."""
    one = f"{before}{arguments}{after}"
    return one if len(one) + 5 <= WIDTH else f"{before}\n    {arguments}\n{after}"


def _in_one_line(lines: list[str], value: ast.expr, member: str) -> str:
    at = value.lineno - 1
    line = lines[at].encode()
    begin, end = value.col_offset, value.end_col_offset or 0
    inside = line[begin + 1 : end - 1].decode().rstrip().removesuffix(",")
    one = f"{line[: begin + 1].decode()}{inside}, {member}{line[end - 1 :].decode()}"
    if len(one) <= WIDTH and "\n" not in member:
        lines[at] = one
        return _joined(lines)
    if not isinstance(value, ast.Tuple | ast.List | ast.Set):
        raise Unexpected(f"line {value.lineno} has no room; put each member on a line of its own first")
    each = [line[part.col_offset : part.end_col_offset].decode() for part in value.elts]
    whole = "".join(f"    {part},\n" for part in (*each, *member.splitlines()))
    lines[at] = f"{line[: begin + 1].decode()}\n{whole}{line[end - 1 :].decode()}"
    return _joined(lines)


def _members(value: ast.expr, target: str) -> list[ast.expr]:
    inner = value.slice if isinstance(value, ast.Subscript) else value
    found = inner.values if isinstance(inner, ast.Dict) else getattr(inner, "elts", None)
    if not found:
        raise Unexpected(f"{target} is no tuple, dict or Literal with members")
    return list(found)


def _assignment(text: str, target: str) -> ast.Assign | ast.AnnAssign:
    found = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and any(isinstance(one, ast.Name) and one.id == target for one in _targets(node))
    ]
    if len(found) != 1:
        raise Unexpected(f"{target} is not assigned once")
    return found[0]


def _value(text: str, target: str) -> ast.expr:
    value = _assignment(text, target).value
    if value is None:
        raise Unexpected(f"{target} has no value")
    return value


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _line(number: int | None) -> int:
    if number is None:
        raise Unexpected("the parser gives no line numbers")
    return number


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
