"""Decodes what `mien` says on a serial line, or under `event/compact` of MQTT. Python 3.9 or newer, nothing else.

    import serial, mien_wire
    decoder = mien_wire.Decoder()
    with serial.Serial("/dev/ttyUSB0", 115200) as line:
        while True:
            for packet in decoder.feed(line.read(line.in_waiting or 1)):
                print(packet)

A packet is a dict: `type` (hello, event, heartbeat, reason, grounds, people, faces, second), `packet_seq`, and the fields of its kind. Codes come as their names; a code that
this version does not know is "other". `boot` and `bundle_hash` are hexadecimal text. Times are in ms.
"""

import struct
import zlib

VERSION = 1
PACKET_BYTES_MAX = 512
LABELS_MAX = 16
FACES_MAX = 8
FRAME_BYTES_MAX = PACKET_BYTES_MAX + PACKET_BYTES_MAX // 254 + 3
# Frozen, as in the sender: the CRC of a packet begins with the FNV-1a of its kind's line.
SCHEMA = (
    "hello minor:u8 schema:u32 boot:u64 device:str software:str purpose:str bundle:str bundle_hash:[u8;8] label_set:str labels:[str] window_ms:u32 hop_ms:u32 heartbeat_ms:u32",
    "event seq:u32 episode:u32 kind:u8 label:u8 confidence_permille:u16 track:u16 expected:u8 present:u8 cause:u8 at_ms:u64 begin_ms:u64 window_ms:u32 wall_ms:u64 wall_synced:u8 age_ms:u32",
    "heartbeat uptime_ms:u64 label:u8 episode:u32 events:u32 windows:u32 late:u32 dropped:u32 video:u8 audio:u8 muted:u8 infer_ms:u32",
    "reason episode:u32 part:u8 parts:u8 text:str",
    "grounds episode:u32 claims:u8 held:u8 contradicted:u8 unseen:u8 contradicted_bits:u32",
    "people at_ms:u64 count:u8 track:u16",
    "faces at_ms:u64 faces:[track:u16,label:u8,confidence_permille:u16]",
    "second at_ms:u64 episode:u32 label:u8 confidence_permille:u16",
)
KIND = ("other", "begin", "change", "end", "unknown")
CAUSE = (
    "other", "none", "faded", "replaced", "low_confidence", "no_video", "no_audio", "no_input", "muted", "shutdown", "restart", "input_end",
    "model_error", "nobody",
)
HEALTH = ("other", "off", "ok", "stalled", "absent", "muted", "ended")
CODES = {("event", "kind"): KIND, ("event", "cause"): CAUSE, ("heartbeat", "video"): HEALTH, ("heartbeat", "audio"): HEALTH}


class Refused(ValueError):
    """A frame that is no packet: `framing`, `length`, `version`, `unknown`, `crc` or `payload`."""


def _fnv1a(text):
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


_KINDS = [(line.split()[0], [field.split(":", 1) for field in line.split()[1:]], struct.pack("<I", _fnv1a(line))) for line in SCHEMA]


def _uncobs(frame):
    out, at = bytearray(), 0
    while at < len(frame):
        code = frame[at]
        block = frame[at + 1 : at + code]
        if code == 0 or len(block) != code - 1 or 0 in block:
            raise Refused("framing")
        out += block
        at += code
        if code < 0xFF and at < len(frame):
            out.append(0)
    return bytes(out)


class _Body:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise Refused("payload")
        self.at += count
        return piece

    def varint(self, bits):
        value = 0
        for shift in range(0, 7 * -(-bits // 7), 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    break
                return value
        raise Refused("payload")

    def text(self):
        try:
            return self.take(self.varint(64)).decode()
        except UnicodeDecodeError:
            raise Refused("payload") from None

    def value(self, kind):
        if kind == "u8":
            return self.take(1)[0]
        if kind == "str":
            return self.text()
        if kind == "[str]":
            count = self.varint(64)
            if count > LABELS_MAX:
                raise Refused("payload")
            return [self.text() for _ in range(count)]
        if kind == "[u8;8]":
            return self.take(8).hex()
        if kind.startswith("["):
            fields = [field.split(":") for field in kind[1:-1].split(",")]
            count = self.varint(64)
            if count > FACES_MAX:
                raise Refused("payload")
            return [{field: self.value(each) for field, each in fields} for _ in range(count)]
        return self.varint(int(kind[1:]))


def decode(frame):
    """The packet of one frame: the bytes between two zeros. Raises `Refused`."""
    raw = _uncobs(bytes(frame))
    if not 8 <= len(raw) <= PACKET_BYTES_MAX:
        raise Refused("length")
    if raw[0] != VERSION:
        raise Refused("version")
    if raw[3] >= len(_KINDS):
        raise Refused("unknown")
    name, fields, schema = _KINDS[raw[3]]
    if zlib.crc32(schema + raw[:-4]) != struct.unpack("<I", raw[-4:])[0]:
        raise Refused("crc")
    body = _Body(raw[4:-4])
    packet = {"type": name, "packet_seq": struct.unpack("<H", raw[1:3])[0]}
    for field, kind in fields:
        value = body.value(kind)
        codes = CODES.get((name, field))
        if codes:
            value = codes[value] if value < len(codes) else "other"
        packet[field] = f"{value:016x}" if field == "boot" else value
    if body.at != len(body.data):
        raise Refused("payload")
    return packet


class Decoder:
    """Finds packets in a stream that may begin and break anywhere; counts what is lost: `errors`, `gaps`, and the packets `missed` in them."""

    def __init__(self):
        self.packets = self.errors = self.gaps = self.missed = 0
        self._frame, self._overlong, self._last, self._boot = bytearray(), False, None, None

    def _count(self, packet):
        restarted = False
        if packet["type"] == "hello":
            restarted = packet["packet_seq"] == 0 or self._boot not in (None, packet["boot"])
            self._boot = packet["boot"]
        skipped = 0 if self._last is None or restarted else (packet["packet_seq"] - self._last - 1) & 0xFFFF
        self._last = packet["packet_seq"]
        self.packets += 1
        self.gaps += skipped > 0
        self.missed += skipped

    def feed(self, data):
        """The packets that end in `data`."""
        found = []
        for byte in data:
            if byte:
                if len(self._frame) < FRAME_BYTES_MAX:
                    self._frame.append(byte)
                else:
                    self._overlong = True
                continue
            frame, overlong = bytes(self._frame), self._overlong
            self._frame.clear()
            self._overlong = False
            if not frame and not overlong:
                continue
            try:
                if overlong:
                    raise Refused("length")
                packet = decode(frame)
            except Refused:
                self.errors += 1
                continue
            self._count(packet)
            found.append(packet)
        return found
