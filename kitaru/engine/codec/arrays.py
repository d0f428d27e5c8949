"""numpy's arrays and scalars, when the flow's own code has imported numpy."""

import math
import re
import sys
from typing import Any

from kitaru.engine.codec.leaves import Tree, base64_bytes, base64_text
from kitaru.engine.codec.refusal import RefusedError

ARRAY_TAG = "numpy.ndarray"
SCALAR_TAG = "numpy.scalar"

_DTYPE = re.compile(r"[<>|=][biufcSUmM][0-9]+(\[[0-9A-Za-z]+\])?")


def numpy_tag(kind: type) -> str | None:
    """The tag of numpy's type; None when the type is not numpy's."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or kind.__module__ != "numpy":
        return None
    if kind is numpy.ndarray:
        return ARRAY_TAG
    return SCALAR_TAG if issubclass(kind, numpy.generic) else None


def write_array(array: Any) -> list[Tree]:
    return [_dtype_text(array.dtype), list(array.shape), base64_text(array.tobytes())]


def write_scalar(scalar: Any) -> list[Tree]:
    numpy: Any = sys.modules["numpy"]
    array = numpy.array(scalar)
    if array.dtype.type is not type(scalar) or numpy.dtype(array.dtype.str).type is not type(
        scalar
    ):
        raise RefusedError(f"{type(scalar).__name__} of numpy depends on the platform; use intN")
    return [_dtype_text(array.dtype), base64_text(array.tobytes())]


def read_array(parts: list[Tree]) -> Any:
    dtype, shape, data = parts
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("not a shape")
    return _array(dtype, base64_bytes(data), tuple(shape))


def read_scalar(parts: list[Tree]) -> Any:
    dtype, data = parts
    return _array(dtype, base64_bytes(data), ())[()]


def _array(dtype_text: str, data: bytes, shape: tuple[int, ...]) -> Any:
    numpy: Any = sys.modules["numpy"]
    if not _DTYPE.fullmatch(dtype_text):
        raise ValueError("not the type of an array")
    dtype = numpy.dtype(dtype_text)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("the array's data does not fit its shape")
    # A bytearray, because numpy makes arrays over bytes read-only.
    return numpy.ndarray(shape, dtype, bytearray(data))


def _dtype_text(dtype: Any) -> str:
    text: str = dtype.str
    if dtype.hasobject or dtype.names or dtype.char in "gG" or not _DTYPE.fullmatch(text):
        raise RefusedError(
            f"a numpy array of {dtype} cannot be kept in the journal; "
            "only numbers, texts, bytes and times can"
        )
    return text
