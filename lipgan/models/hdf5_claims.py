"""Damaged HDF5 files: their errors in one line, and what they claim checked before it is read.

The HDF5 library allocates claimed sizes first, and h5py cannot limit them: a damaged length of one string takes
gigabytes.
"""

import contextlib
import math
import mmap
import struct

from lipgan.utils.cli import UserError

LONGEST_TEXT = 65_536  # bytes of one string of an attribute
LARGEST_CHUNK = 2**26  # bytes
VARIABLE_LENGTH = 9  # the class of such datatypes


@contextlib.contextmanager
def readable(path):
    """Turn what the libraries raise for a damaged file into a UserError of one line."""
    try:
        yield
    except (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, MemoryError) as e:
        reason = str(e).strip().split("\n")[0]
        raise UserError(f"{path} cannot be read whole ({reason}); copy or download it again") from e


def check_attributes(path, names):
    """Raise ValueError where an attribute of one of these names has a string of absurd length, or in an endless heap.

    Strings of variable length lie elsewhere in the file: an attribute holds their lengths and addresses only, and h5py
    tells neither. So every attribute message of these names is looked up in the file's bytes (HDF5 file format
    specification, IV.A.2.m).
    """
    heaps = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name in names:
            text, at = name.encode() + b"\0", -1
            while (at := data.find(text, at + 1)) >= 0:
                texts = _texts(data, at, len(text))
                longest = max((length for length, _ in texts), default=0)
                if longest > min(LONGEST_TEXT, len(data)):
                    raise ValueError(f"a string of {longest:,} bytes in its attribute {name}")
                heaps.update(address for _, address in texts)
        for address in heaps:
            _check_heap(data, address)


def _check_heap(data, address):
    """Raise ValueError for a global heap (III.E) with an object of no size, which the HDF5 library reads for ever."""
    head = data[address : address + 16]
    if len(head) < 16 or head[:4] != b"GCOL":
        return  # the library says so
    at, end = address + 16, min(len(data), address + struct.unpack("<8xQ", head)[0])
    while at + 16 <= end:
        number, size = struct.unpack("<H6xQ", data[at : at + 16])
        step = 16 + -(-size // 8) * 8 if number else size  # number 0 is what is free, its head included
        if step < 16:
            raise ValueError("an object of no size in its global heap")
        at += step


def _texts(data, at, name_size):
    """Return (length, heap's address) of the strings of an attribute message whose name, with its zero, is at `at`.

    Empty for other bytes, and for strings of fixed length, which lie in the message.
    """
    for version, header_size in ((1, 8), (2, 8), (3, 9)):
        header = data[max(0, at - header_size) : at]
        if len(header) == header_size and header[0] == version:
            sizes = struct.unpack("<3H", header[2:8])
            if sizes[0] == name_size:
                break
    else:
        return []
    steps = [-(-size // 8) * 8 if version == 1 else size for size in sizes]  # the first version pads to 8 bytes
    datatype, space, start = at + steps[0], at + steps[0] + steps[1], at + sum(steps)
    is_shared = version > 1 and header[1] & 1  # its datatype is elsewhere in the file
    if not is_shared and data[datatype : datatype + 1] and data[datatype] & 15 != VARIABLE_LENGTH:
        return []
    rank, first = data[space + 1 : space + 2], 8 if data[space : space + 1] == b"\1" else 4
    sides = data[space + first : space + first + 8 * (rank[0] if rank else 0)]
    count = math.prod(struct.unpack(f"<{len(sides) // 8}Q", sides[: len(sides) // 8 * 8]))
    values = data[start : start + 16 * min(count, len(data) // 16)]  # length, address of 8 bytes, number
    return list(struct.iter_unpack("<IQ4x", values[: len(values) // 16 * 16]))


def check_arrays(path, arrays):
    """Raise ValueError for arrays (h5py.Dataset) that hold no numbers, or claim more than the file can have."""
    stored = 0
    for array in arrays:
        kind, size = array.dtype.kind, array.id.get_storage_size()
        if kind not in "fiuV" or array.dtype.itemsize > 8:
            raise ValueError(f"{array.name} holds {array.dtype}, no numbers")
        if array.chunks and math.prod(array.chunks) * array.dtype.itemsize > max(LARGEST_CHUNK, array.nbytes):
            raise ValueError(f"{array.name} comes in pieces of {array.chunks}")
        if array.size and not size:
            raise ValueError(f"{array.name} is empty")
        stored += size
    if stored > path.stat().st_size:
        raise ValueError(f"its arrays claim {stored:,} bytes, more than the whole file has")
