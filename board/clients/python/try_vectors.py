"""Prints what the decoder makes of the stream on standard input, as JSON: packets, then counts. `tests/clients.rs` compares it with the sender's own."""

import json
import sys

import mien_wire

decoder = mien_wire.Decoder()
for packet in decoder.feed(sys.stdin.buffer.read()):
    print(json.dumps(packet, ensure_ascii=False))
print(json.dumps({"packets": decoder.packets, "errors": decoder.errors, "gaps": decoder.gaps, "missed": decoder.missed}))
