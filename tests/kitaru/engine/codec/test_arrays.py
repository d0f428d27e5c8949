"""numpy's arrays and scalars, and what becomes of them where numpy is not loaded."""

import subprocess
import sys
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from kitaru.engine.codec import Codec, TypeScope
from kitaru.errors import KitaruSerializationError

NOTHING = TypeScope.of()
dtypes = st.one_of(
    numpy_st.boolean_dtypes(),
    numpy_st.integer_dtypes(endianness="?"),
    numpy_st.unsigned_integer_dtypes(endianness="?"),
    numpy_st.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    numpy_st.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    numpy_st.datetime64_dtypes(),
    numpy_st.timedelta64_dtypes(),
    numpy_st.byte_string_dtypes(),
    numpy_st.unicode_string_dtypes(),
)


def recoded(value: Any) -> Any:
    return Codec().decode(Codec().encode(value, where="value", types=NOTHING), NOTHING)


@given(
    dtypes.flatmap(
        lambda dtype: numpy_st.arrays(dtype, numpy_st.array_shapes(min_dims=0, min_side=0))
    )
)
def test_arrays_survive_to_the_bit(array: Any) -> None:
    again = recoded(array)
    assert type(again) is numpy.ndarray
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()
    assert again.flags.writeable


@given(dtypes.flatmap(lambda dtype: numpy_st.arrays(dtype.newbyteorder("="), ())))
def test_scalars_survive_with_their_type(array: Any) -> None:
    scalar = array[()]
    again = recoded([scalar])[0]
    assert type(again) is type(scalar)
    assert again.tobytes() == scalar.tobytes()


def test_an_array_in_another_memory_order_has_the_same_bytes() -> None:
    array = numpy.arange(12).reshape(3, 4)
    encode = Codec().encode
    expected = encode(array, where="value", types=NOTHING)
    assert encode(numpy.asfortranarray(array), where="value", types=NOTHING) == expected
    assert encode(array.repeat(2, 0)[::2], where="value", types=NOTHING) == expected


@pytest.mark.parametrize(
    "value",
    [
        numpy.array([object()]),
        numpy.zeros(2, [("a", "i4")]),
        numpy.zeros(2, numpy.longdouble),
        numpy.longdouble(1),
        numpy.ma.masked_array([1], [True]),
        numpy.arange,
        numpy.dtype("i4"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrays_of_anything_else_are_refused(value: Any) -> None:
    with pytest.raises(KitaruSerializationError, match="result: "):
        Codec().encode(value, where="result", types=NOTHING)


@pytest.mark.parametrize(
    "parts",
    [
        '"|O",[1],"AAAAAAAAAAA="',
        '"<i4,<i4",[1],"AAAAAAAAAAA="',
        '"<i4",[-1],""',
        '"<i4",[9223372036854775807,4],""',
        '"<i4",[2],"AAAA"',
        '"<i4",[true],"AAAAAA=="',
        '"i4",[1],"AAAAAA=="',
        "{},[],3",
    ],
)
def test_malformed_arrays_are_refused(parts: str) -> None:
    with pytest.raises(KitaruSerializationError):
        Codec().decode(('{"$":["numpy.ndarray",' + parts + "]}").encode(), NOTHING)


def test_without_numpy_an_array_is_a_recorded_object() -> None:
    data = Codec().encode([numpy.arange(2), numpy.float32(1)], where="value", types=NOTHING)
    code = (
        "import sys; from kitaru.engine.codec import Codec, TypeScope;"
        f"array, scalar = Codec().decode({data!r}, TypeScope.of());"
        "assert 'numpy' not in sys.modules; print(array.shape, scalar.dtype)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2] <f4"
