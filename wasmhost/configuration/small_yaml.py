"""YAML files of settings, which may come with somebody's project: read so that none can do more than be refused.

PyYAML's safe loader builds plain values only, but follows aliases and merge keys to any size, and lets errors of other
kinds through: a date that is none, a number of 5,000 digits, nesting beyond what Python calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

LARGEST: Final = 1024 * 1024
"""Bytes of one file."""
_MOST_VALUES: Final = 100_000
"""Values in one file, each counted as often as aliases repeat it."""


class BadYaml(ValueError):
    """Text that is not what it should be. ``where`` is ``:line:column``, or empty where that is not known."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.where = where


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "too many values are merged", node.start_mark)


def read(path: Path, *, most: int = LARGEST) -> object:
    """The value in a file. Raises OSError and BadYaml."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadYaml(f"it is larger than {most} bytes")
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadYaml("it is not UTF-8 text") from error


def parse(text: str) -> object:
    """The value of a text. Raises BadYaml."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise BadYaml(reason, f":{mark.line + 1}:{mark.column + 1}" if mark is not None else "") from error
    except RecursionError as error:
        raise BadYaml("it is nested too deeply") from error
    except ValueError as error:
        raise BadYaml(f"a value cannot be read: {str(error).partition(';')[0]}") from error
    try:
        if _count(value, {}) > _MOST_VALUES:
            raise BadYaml("it stands for too many values")
    except RecursionError as error:
        raise BadYaml("it is nested too deeply, or within itself") from error
    except UnicodeEncodeError as error:
        raise BadYaml("it spells half of a surrogate pair") from error
    return value


def _count(value: object, known: dict[int, int]) -> int:
    """How many values it stands for; each alias is counted through once only. RecursionError where it holds itself."""
    if isinstance(value, str):
        value.encode()  # which nobody could print or send afterwards, if it cannot be done
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in known:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in inner)
    return known[id(value)]
