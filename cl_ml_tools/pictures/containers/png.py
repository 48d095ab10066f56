"""PNG: thousands of chunks, or of profiles that are decompressed one by one."""

import struct

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures.containers.scan import Scan


def look(scan: Scan) -> None:
    """Count the chunks of a PNG."""
    position, kind, profiles = 8, b"", 0
    while kind != b"IEND":
        scan.count_part()
        size, kind = struct.unpack_from(">I4s", scan.data, position)
        if size > len(scan.data):
            # Pillow would ask for so much memory before it reads.
            raise BadInputError(f"{scan.name} ends too early; is it damaged?")
        # Each is decompressed, up to a megabyte.
        profiles += kind == b"iCCP"
        if profiles > 1:
            raise scan.refusal("has more than one colour profile")
        position += size + 12
