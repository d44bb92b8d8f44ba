"""``wasmcloud:mlinference``: what a model says about a tensor. Source: ``ml/mlinference.smithy`` of the interfaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from lattice.contracts.structures import U8, U32, Structure, Union

CONTRACT: Final = "wasmcloud:mlinference"
PREDICT: Final = "MlInference.Predict"

_VALUE_TYPES: Final = {
    0: ("U8", "U16", "U32", "U64", "U128"),
    64: ("S8", "S16", "S32", "S64", "S128"),
    129: ("F16", "F32", "F64", "F128"),
}
_ERRORS: Final = (
    "invalidModel",
    "invalidEncoding",
    "corruptInputTensor",
    "runtimeError",
    "openVinoError",
    "onnxError",
    "tensorflowError",
    "contextNotFoundError",
)


class ValueType(Union):
    """The type of the elements of a tensor: ``valueU8`` to ``valueF128``."""

    __slots__ = ()
    variants: ClassVar = {
        f"value{name}": (number, None)
        for first, names in _VALUE_TYPES.items()
        for number, name in enumerate(names, first)
    }


class MlError(Union):
    """Each with a text."""

    __slots__ = ()
    variants: ClassVar = {name: (number, str) for number, name in enumerate(_ERRORS)}


class Status(Union):
    __slots__ = ()
    variants: ClassVar = {"success": (0, None), "error": (1, MlError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor(Structure):
    dimensions: tuple[U32, ...] = ()
    value_types: tuple[ValueType, ...] = ()
    """One for all elements, or one for each dimension."""
    flags: U8 = 0
    """The lowest bit: column-major order."""
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceInput(Structure):
    model: str = ""
    tensor: Tensor
    index: U32 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOutput(Structure):
    result: Status
    tensor: Tensor
