"""Damage to bytes and to JSON text, drawn from a seeded source of chance."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Final

DEEP: Final = 100_000
"""Levels of nesting: far beyond what a recursive reader can follow."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[][{}:,]')
_MEMBER: Final = re.compile(rb'"\w+":(?:"[^"]*"|[^][{},]+),')

_VALUES: Final = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1e308", b"-1e308", b"1e-320", b"-0.0", b"0", b"-1", b"1.5"),
    *(b"9223372036854775807", b"9223372036854775808", b"1" + 30 * b"0", b"9" * 5000, b"1e99", b"1E5", b"+1", b"01"),
    *(
        b"null",
        b"true",
        b"false",
        b"[]",
        b"{}",
        b'""',
        b'"x"',
        b'"\\ud800"',
        b'"\\u0000"',
        b'"\xff"',
        b'"' + b"x" * 9999,
    ),
    *(b"[null]", b'{"type":"Failure"}', b'"NaN"', b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    *("٣".encode(), "\u2028".encode(), b"\x00", b" ", b"\n"),
)

_RUNS: Final = (b"\x00", b"\xff", b"\x7f", b"\x80")

Mutator = Callable[[bytes, random.Random], bytes]


def flip_bit(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes((data[place] ^ 1 << chance.randrange(8),)) + data[place + 1 :]


def set_byte(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(1) + data[place + 1 :]


def overwrite(data: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(data)), chance.choice((1, 2, 4, 8))
    return data[:place] + chance.choice(_RUNS) * length + data[place + length :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def remove(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + data[place + 1 + int(chance.expovariate(0.1)) :]


def insert(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(1 + int(chance.expovariate(0.2))) + data[place:]


def repeat(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    end = begin + 1 + int(chance.expovariate(0.02))
    return data[:end] + data[begin:end] + data[end:]


def replace_token(data: bytes, chance: random.Random) -> bytes:
    """Put something else in the place of a value, a name or a bracket."""
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return flip_bit(data, chance)
    token = chance.choice(tokens)
    other = chance.choice(tokens).group() if chance.random() < 1 / 4 else chance.choice(_VALUES)
    return data[: token.start()] + other + data[token.end() :]


def repeat_member(data: bytes, chance: random.Random) -> bytes:
    """Have a member of an object stand in it twice, or not at all."""
    members = list(_MEMBER.finditer(data))
    if not members:
        return repeat(data, chance)
    member = chance.choice(members)
    times = chance.choice((0, 2))
    return data[: member.start()] + member.group() * times + data[member.end() :]


BYTES: Final[tuple[Mutator, ...]] = (flip_bit, set_byte, overwrite, cut, remove, insert, repeat)
JSON: Final[tuple[Mutator, ...]] = (*BYTES, *4 * (replace_token,), repeat_member)


def mutants(data: bytes, mutators: tuple[Mutator, ...], chance: random.Random) -> Iterator[bytes]:
    """Yield `data` cut at every byte, if it is short, then endlessly with one to three kinds of damage."""
    if len(data) <= 4096:
        yield from (data[:end] for end in range(len(data)))
    while True:
        mutant = data
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            mutant = chance.choice(mutators)(mutant, chance) if mutant else chance.randbytes(3)
        yield mutant
