"""Reading a YAML document member by member, noting every problem with its place instead of stopping at the first."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lattice.errors import Code, LatticeError
from wasmhost.apps.application import Mark

_MAX_VALUES = 100_000
"""Scalars of one document after its aliases are followed; a few short lines of aliases can mean billions."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file, where, and what to do about it."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{Mark(self.file, self.line, self.column)}: {self.message}"
        return f"{text}; {self.hint}" if self.hint else text


class ManifestError(LatticeError):
    """A manifest cannot be used; ``problems`` lists everything wrong with it, in the order of the file."""

    code = Code.INVALID

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Problems:
    """What was found wrong so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[Problem] = []

    def add(self, where: Mark, message: str, hint: str = "") -> None:
        self._found.append(Problem(where.file, where.line, where.column, message, hint))

    def mark(self, at: yaml.Node | yaml.Mark | None) -> Mark:
        """The place of a node, or of what the YAML library complains about."""
        mark = at.start_mark if isinstance(at, yaml.Node) else at
        return Mark(self.file, mark.line + 1, mark.column + 1) if mark else Mark(self.file)

    def raise_any(self) -> None:
        """Raise ManifestError if something was found."""
        if self._found:
            raise ManifestError(sorted(self._found, key=lambda problem: (problem.line, problem.column)))


class _Loader(yaml.SafeLoader):
    """Plain YAML; only ``compose`` is used, which builds no Python objects."""


def compose(problems: Problems, text: str) -> yaml.Node | None:
    """The one document in ``text``; None after noting why there is none."""
    try:
        documents = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        hint = "indent with spaces" if "'\\t'" in str(error.problem) else "check indentation, quotes and brackets"
        about = ", ".join(part for part in (error.context, error.problem) if part)
        problems.add(problems.mark(error.problem_mark or error.context_mark), f"not valid YAML: {about}", hint)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        where = Mark(problems.file, before.count("\n") + 1, column)
        problems.add(where, f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed")
    except RecursionError:
        problems.add(Mark(problems.file), "nested too deeply to be a manifest")
    else:
        if not documents:
            problems.add(Mark(problems.file), "the file is empty", "examples are in the folder manifests")
        elif len(documents) > 1:
            problems.add(problems.mark(documents[1]), "a second YAML document", "write one application per file")
        else:
            return documents[0]
    return None


def suggestion(wrong: str, known: list[str] | tuple[str, ...]) -> str:
    """A hint that names the closest of ``known``, or all of them."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5) or [
        name for name in known if name.lower() == wrong.lower()
    ]
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


class Section:
    """A mapping of the document. Ask for each member that may be there, then call :meth:`finish`."""

    def __init__(self, problems: Problems, node: yaml.Node, name: str) -> None:
        self.problems = problems
        self.name = name
        """The path of the section, as in ``spec.components[0]``; empty for the whole document."""
        self.mark = problems.mark(node)
        self._members: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        self._asked: list[str] = []
        self._readable = isinstance(node, yaml.MappingNode)
        if not isinstance(node, yaml.MappingNode):
            problems.add(self.mark, f"{self._called} is {_kind(node)} where a mapping of names to values is expected")
            return
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problems.add(problems.mark(key), f"{_kind(key)} cannot be a name")
            elif key.value in self._members:
                problems.add(problems.mark(key), f"{key.value!r} is there twice")
            else:
                self._members[key.value] = (key, value)

    @property
    def _called(self) -> str:
        return self.name or "the manifest"

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def has(self, key: str) -> bool:
        return key in self._members

    def mark_of(self, key: str) -> Mark:
        """The place of the member's value, or of the section if it is absent."""
        return self.problems.mark(self._members[key][1]) if key in self._members else self.mark

    def _value(self, key: str, *, required: bool, hint: str = "") -> yaml.Node | None:
        """The member's node; None if absent or null, noted if it is required."""
        self._asked.append(key)
        value = self._members[key][1] if key in self._members else None
        if value is not None and not _is_null(value):
            return value
        if required and self._readable:
            self.problems.add(self.mark_of(key), f"{self._path(key)} is missing", hint)
        return None

    def text(self, key: str, *, required: bool = True, example: str = "") -> str:
        """A text member; empty if it is absent or wrong, which is then noted."""
        value = self._value(key, required=required, hint=f"for example {key}: {example}" if example else "")
        if value is None:
            return ""
        text = self._as_text(value, self._path(key))
        if text is not None and not text.strip() and required:
            self.problems.add(self.problems.mark(value), f"{self._path(key)} is empty")
        return (text or "").strip()

    def _as_text(self, value: yaml.Node, path: str) -> str | None:
        if isinstance(value, yaml.ScalarNode):
            if value.tag == "tag:yaml.org,2002:str":
                return str(value.value)
            self.problems.add(
                self.problems.mark(value), f"{path} is {_kind(value)} where text is expected", f'write "{value.value}"'
            )
            return None
        self.problems.add(self.problems.mark(value), f"{path} is {_kind(value)} where text is expected")
        return None

    def count(self, key: str, *, default: int, maximum: int) -> int:
        """A whole number from 0 to ``maximum``; ``default`` if it is absent or wrong, which is then noted."""
        value = self._value(key, required=False)
        if value is None:
            return default
        number = yaml.safe_load(value.value) if _is_integer(value) else None
        if not isinstance(number, int) or not 0 <= number <= maximum:
            self.problems.add(self.problems.mark(value), f"{self._path(key)} is not a whole number from 0 to {maximum}")
            return default
        return number

    def section(self, key: str, *, required: bool = True) -> Section | None:
        """A mapping member; None if it is absent."""
        value = self._value(key, required=required)
        return None if value is None else Section(self.problems, value, self._path(key))

    def sections(self, key: str, *, required: bool = True) -> Iterator[Section]:
        """The mappings of a list member."""
        value = self._value(key, required=required)
        if value is None:
            return
        if not isinstance(value, yaml.SequenceNode):
            self.problems.add(
                self.problems.mark(value), f"{self._path(key)} is {_kind(value)} where a list is expected"
            )
            return
        for index, item in enumerate(value.value):
            yield Section(self.problems, item, f"{self._path(key)}[{index}]")

    def texts(self, key: str, *, required: bool = False, hint_if_empty: str = "") -> Mapping[str, str]:
        """A mapping member of names to texts; with ``hint_if_empty``, one without members is a problem."""
        section = self.section(key, required=required)
        if section is None:
            return {}
        if hint_if_empty and section._readable and not section._members:
            self.problems.add(self.mark_of(key), f"{self._path(key)} is empty", hint_if_empty)
        found = {}
        for name, (_, value) in section._members.items():
            text = section._as_text(value, section._path(name))
            if text is not None:
                found[name] = text
        return found

    def text_or_json(self, key: str) -> str | None:
        """A member that is text, or a mapping that becomes JSON text; None if it is absent."""
        value = self._value(key, required=False)
        if value is None:
            return None
        if isinstance(value, yaml.MappingNode):
            try:
                return json.dumps(_plain(value, [_MAX_VALUES]), separators=(",", ":"))
            except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError):
                self.problems.add(
                    self.problems.mark(value), f"{self._path(key)} cannot be written as JSON", "write it as text"
                )
                return None
        return self._as_text(value, self._path(key))

    def finish(self) -> None:
        """Note every member that was not asked for."""
        for name, (key, _) in self._members.items():
            if name not in self._asked:
                where = f" in {self.name}" if self.name else ""
                self.problems.add(
                    self.problems.mark(key), f"unknown key {name!r}{where}", suggestion(name, self._asked)
                )


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and bool(node.tag == "tag:yaml.org,2002:null")


def _is_integer(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and bool(node.tag == "tag:yaml.org,2002:int") and len(node.value) < 20


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    names = {"null": "nothing", "str": "text", "bool": "a truth value", "int": "a number", "float": "a number"}
    return names.get(node.tag.rpartition(":")[2], "a value of another type")


def _plain(node: yaml.Node, left: list[int]) -> Any:
    """The JSON value of a node; ``left`` counts how many more values a document may have."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("too many values")
    if isinstance(node, yaml.MappingNode):
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise TypeError("a name is not text")
        return {key.value: _plain(value, left) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, left) for item in node.value]
    names = {"null", "str", "bool", "int", "float"}
    if node.tag.rpartition(":")[2] not in names:
        return node.value  # a date, say, which JSON writes as text
    return _Loader("").construct_object(node)
