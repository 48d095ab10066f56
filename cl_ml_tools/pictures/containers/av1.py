"""AV1: the size of its pictures, as the stream itself says it."""

import mmap
from collections.abc import Iterator

_SEQUENCE_HEADER = 1
_LONGEST_HEADER = 256


def sizes_in(stream: bytes | mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int]]:
    """The width and height in each sequence header of a stream; nothing from where it is damaged.

    Args:
        stream: has open bitstream units, one behind the other, as section 5.3 of the specification has them.
        at: where they begin.
        end: where they end.
    """
    end = min(end, len(stream))
    while at < end and not stream[at] & 0x80:
        kind, is_extended, has_size = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
        at += 1 + is_extended
        size = end - at
        if has_size:
            size, at = _leb128(stream, at)
        if kind == _SEQUENCE_HEADER:
            yield _size_in(stream[at : at + min(size, _LONGEST_HEADER)])
        at += size


def _leb128(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for number in range(8):
        value |= (data[at + number] & 0x7F) << 7 * number
        if not data[at + number] & 0x80:
            return value, at + number + 1
    raise IndexError


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << count) - 1


def _size_in(header: bytes) -> tuple[int, int]:
    """Section 5.5 of the specification, as far as the size."""
    bits = _Bits(header)
    bits(3 + 1)  # profile, whether it is a still picture
    if bits(1):  # the reduced header of one
        bits(5)
    else:
        _skip_to_size(bits)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    return bits(width_bits) + 1, bits(height_bits) + 1


def _skip_to_size(bits: _Bits) -> None:
    delay_bits = 0
    if bits(1):  # timing
        bits(64)
        if bits(1):  # pictures of equal length: a number in as many bits as there are zeros before it
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(zeros)
        if bits(1):  # a model of the decoder
            delay_bits = bits(5) + 1
            bits(32 + 5 + 5)
    has_display_delay = bits(1)
    for _ in range(bits(5) + 1):  # points of operation
        bits(12)
        if bits(5) > 7:
            bits(1)
        if delay_bits and bits(1):
            bits(2 * delay_bits + 1)
        if has_display_delay and bits(1):
            bits(4)
