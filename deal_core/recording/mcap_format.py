"""Facts of the MCAP format that reading and writing share: https://mcap.dev/spec."""

from __future__ import annotations

import struct

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(0x01, 0x09)
STATISTICS, METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
RECORD = struct.Struct("<BQ")
"""Kind and length of the content that follows."""
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence, log time and publish time of a message, before its data."""
