"""Refrain's token files (src/refrain/data/token_file.h) in Python's standard library."""
import array
import pathlib
import struct

HEADER = 64
TRAILERS = {1: 32, 2: 40}  # by version


def read(path):
    """The ids as an array of 16 or 32 bits, and the header as it stands."""
    data = pathlib.Path(path).read_bytes()
    if len(data) < HEADER or data[:8] != b"RFTOKENS" or data[-8:] != b"RFTOKEND":
        raise ValueError(f"{path} is not a token file")
    version, _, width = struct.unpack_from("<3I", data, 8)
    if version not in TRAILERS:
        raise ValueError(f"{path} is a token file of version {version}, expected 1 or 2")
    count = struct.unpack_from("<Q", data, len(data) - TRAILERS[version])[0]
    return array.array({2: "H", 4: "I"}[width], data[HEADER:HEADER + count * width]), data[:HEADER]


def write(path, ids, header):
    """One document of these ids, of version 1, which needs no hashes; the rest of the header is
    that of the file that they are from."""
    body = ids.tobytes()
    pathlib.Path(path).write_bytes(
        header[:8] + struct.pack("<I", 1) + header[12:] + body + b"\0" * (-len(body) % 8) +
        struct.pack("<2Q", 0, len(ids)) + struct.pack("<3Q", len(ids), 2, len(ids)) + b"RFTOKEND")
