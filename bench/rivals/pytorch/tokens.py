"""Refrain's token files (src/refrain/data/token_file.h) in Python's standard library."""
import array
import pathlib
import struct

HEADER, TRAILER = 64, 32


def read(path):
    """The ids as an array of 16 or 32 bits, and the header as it stands."""
    data = pathlib.Path(path).read_bytes()
    if data[:8] != b"RFTOKENS" or data[-8:] != b"RFTOKEND":
        raise ValueError(f"{path} is not a token file")
    width = struct.unpack_from("<I", data, 16)[0]
    count = struct.unpack_from("<Q", data, len(data) - TRAILER)[0]
    return array.array({2: "H", 4: "I"}[width], data[HEADER:HEADER + count * width]), data[:HEADER]


def write(path, ids, header):
    """One document of these ids, under the header of the file that they are from."""
    body = ids.tobytes()
    pathlib.Path(path).write_bytes(
        header + body + b"\0" * (-len(body) % 8) + struct.pack("<2Q", 0, len(ids)) +
        struct.pack("<3Q", len(ids), 2, len(ids)) + b"RFTOKEND")
