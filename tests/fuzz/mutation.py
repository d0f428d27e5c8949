"""Inputs made of others: bytes flipped, cut, doubled, and pieces of two put together."""

import random

_WORDS = (
    b'"$"',
    b'{"$":["',
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"NaN",
    b"\\ud800",
    b"\\u0000",
    b"../",
    b"://",
    b"\x1b[2J",
    b"[[[[[[[[",
    b"{}",
    b'"object"',
    b"\x93\xc4\xff",
    b"\xdf\xff\xff\xff\xff",
)
LONGEST = 4_096


def mutated(chance: random.Random, pool: list[bytes]) -> bytes:
    """A new input made of those in the pool."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(data))
        match chance.randrange(7):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randint(1, 16)]
            case 2:
                data[at:at] = chance.choice(_WORDS)
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 64)]
            case 4:
                other = chance.choice(pool)
                begin = chance.randint(0, len(other))
                data[at:] = other[begin:]
            case 5 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case _:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
    return bytes(data[:LONGEST])
