"""Reading what is of a type of the contract, in any thread.

msgspec finds out what a struct is made of when it first meets it. Two threads that have it do so at
the same time crash the interpreter (seen with msgspec 0.22 on Python 3.11). So that is done here,
by one at a time, before anything is read.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()


def decode(body: bytes, type_: type[T]) -> T:
    """Read a JSON document.

    Raises:
        msgspec.DecodeError: it is none, or not of that type.
    """
    decoded: T = _find_decoder(type_).decode(body)
    return decoded


def convert(plain: object, type_: type[T]) -> T:
    """Convert what JSON is made of.

    Raises:
        msgspec.ValidationError: it is not of that type.
    """
    _find_decoder(type_)
    return msgspec.convert(plain, type_)


def _find_decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    decoder = _decoders.get(type_)
    if decoder is None:
        with _making:
            decoder = _decoders.setdefault(type_, msgspec.json.Decoder(type_))
    return decoder
