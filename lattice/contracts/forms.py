"""The forms in which the argument of a contract travels, and which of them an answer takes.

Nearly all contracts are msgpack. Those declared as protocol "2" (blobstore, mlinference, testing) were CBOR for some
years: the Rust generator writes ``7f`` and CBOR with structures as arrays, and reads msgpack as well; TinyGo writes and
reads CBOR without that prefix, with structures as maps. Sources: wasmCloud/weld ``rpc-rs/src/common.rs`` and
``codegen/src/encode_rust.rs``, wasmCloud/tinygo-cbor and the generated Go of the interfaces.
"""

from __future__ import annotations

from enum import Enum, auto


class Form(Enum):
    """How a value travels."""

    MSGPACK = auto()
    """Structures as maps by member name, without a prefix."""
    PREFIXED_CBOR = auto()
    """``7f``, then CBOR with structures as arrays by member number."""
    BARE_CBOR = auto()
    """CBOR with structures as maps by member name."""

    @property
    def of_answer(self) -> Form:
        """How to answer, or call back, somebody who sent this form.

        Whoever sends ``7f`` also reads msgpack, where a timestamp has a form that any decoder can follow.
        """
        return Form.BARE_CBOR if self is Form.BARE_CBOR else Form.MSGPACK
