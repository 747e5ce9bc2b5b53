// Decodes what `mien` says on a serial line, or under `event/compact` of MQTT. Node 16 or newer, or a browser with Web Serial; nothing else.
//
//   import { Decoder } from "mien-wire";
//   const decoder = new Decoder();
//   port.on("data", bytes => { for (const packet of decoder.feed(bytes)) console.log(packet); });
//
// A packet is an object: `type` (hello, event, heartbeat, reason, grounds, people, faces, second), `packet_seq`, and the fields of its kind. Codes come as their names; a code
// that this version does not know is "other". `boot` and `bundle_hash` are hexadecimal text. Times are in ms; a number above
// Number.MAX_SAFE_INTEGER is a BigInt.

export const VERSION = 1;
export const PACKET_BYTES_MAX = 512;
export const LABELS_MAX = 16;
export const FACES_MAX = 8;
const FRAME_BYTES_MAX = PACKET_BYTES_MAX + Math.floor(PACKET_BYTES_MAX / 254) + 3;
// Frozen, as in the sender: the CRC of a packet begins with the FNV-1a of its kind's line.
export const SCHEMA = [
  "hello minor:u8 schema:u32 boot:u64 device:str software:str purpose:str bundle:str bundle_hash:[u8;8] label_set:str labels:[str] window_ms:u32 hop_ms:u32 heartbeat_ms:u32",
  "event seq:u32 episode:u32 kind:u8 label:u8 confidence_permille:u16 track:u16 expected:u8 present:u8 cause:u8 at_ms:u64 begin_ms:u64 window_ms:u32 wall_ms:u64 wall_synced:u8 age_ms:u32",
  "heartbeat uptime_ms:u64 label:u8 episode:u32 events:u32 windows:u32 late:u32 dropped:u32 video:u8 audio:u8 muted:u8 infer_ms:u32",
  "reason episode:u32 part:u8 parts:u8 text:str",
  "grounds episode:u32 claims:u8 held:u8 contradicted:u8 unseen:u8 contradicted_bits:u32",
  "people at_ms:u64 count:u8 track:u16",
  "faces at_ms:u64 faces:[track:u16,label:u8,confidence_permille:u16]",
  "second at_ms:u64 episode:u32 label:u8 confidence_permille:u16",
];
export const KIND = ["other", "begin", "change", "end", "unknown"];
export const CAUSE = [
  "other", "none", "faded", "replaced", "low_confidence", "no_video", "no_audio", "no_input", "muted", "shutdown", "restart", "input_end",
  "model_error", "nobody",
];
export const HEALTH = ["other", "off", "ok", "stalled", "absent", "muted", "ended"];
const CODES = { "event.kind": KIND, "event.cause": CAUSE, "heartbeat.video": HEALTH, "heartbeat.audio": HEALTH };

/** A frame that is no packet: `framing`, `length`, `version`, `unknown`, `crc` or `payload`. */
export class Refused extends Error {}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

const crc32 = (bytes, crc = 0) => {
  crc = ~crc;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
};

const fnv1a = text => [...new TextEncoder().encode(text)].reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193) >>> 0, 0x811c9dc5);
const hex = (value, digits) => value.toString(16).padStart(digits, "0");

const KINDS = SCHEMA.map(line => {
  const [name, ...fields] = line.split(" ");
  const schema = new Uint8Array(4);
  new DataView(schema.buffer).setUint32(0, fnv1a(line), true);
  return { name, fields: fields.map(field => field.split(/:(.*)/s)), schema };
});

function uncobs(frame) {
  const out = [];
  for (let at = 0; at < frame.length; ) {
    const code = frame[at];
    if (code === 0 || at + code > frame.length) throw new Refused("framing");
    for (let i = at + 1; i < at + code; i++) {
      if (frame[i] === 0) throw new Refused("framing");
      out.push(frame[i]);
    }
    at += code;
    if (code < 0xff && at < frame.length) out.push(0);
  }
  return Uint8Array.from(out);
}

class Body {
  constructor(data) { this.data = data; this.at = 0; }

  take(count) {
    if (count > this.data.length - this.at) throw new Refused("payload");
    this.at += count;
    return this.data.subarray(this.at - count, this.at);
  }

  varint(bits) {
    let value = 0n;
    for (let shift = 0; shift < 7 * Math.ceil(bits / 7); shift += 7) {
      const byte = this.take(1)[0];
      value |= BigInt(byte & 0x7f) << BigInt(shift);
      if (byte < 0x80) {
        if (value >> BigInt(bits)) break;
        return value;
      }
    }
    throw new Refused("payload");
  }

  number(bits) {
    const value = this.varint(bits);
    return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
  }

  text() {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.take(Number(this.varint(64))));
    } catch {
      throw new Refused("payload");
    }
  }

  list(kind) {
    const fields = kind.slice(1, -1).split(",").map(field => field.split(":"));
    const count = this.varint(64);
    if (count > BigInt(FACES_MAX)) throw new Refused("payload");
    return Array.from({ length: Number(count) }, () => Object.fromEntries(fields.map(([field, each]) => [field, this.value(each)])));
  }

  value(kind) {
    switch (kind) {
      case "u8": return this.take(1)[0];
      case "str": return this.text();
      case "[u8;8]": return [...this.take(8)].map(byte => hex(byte, 2)).join("");
      case "[str]": {
        const count = this.varint(64);
        if (count > BigInt(LABELS_MAX)) throw new Refused("payload");
        return Array.from({ length: Number(count) }, () => this.text());
      }
      default: return kind.startsWith("[") ? this.list(kind) : this.number(Number(kind.slice(1)));
    }
  }
}

/** The packet of one frame: the bytes between two zeros. Throws `Refused`. */
export function decode(frame) {
  const raw = uncobs(frame);
  if (raw.length < 8 || raw.length > PACKET_BYTES_MAX) throw new Refused("length");
  if (raw[0] !== VERSION) throw new Refused("version");
  const kind = KINDS[raw[3]];
  if (!kind) throw new Refused("unknown");
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  if (crc32(raw.subarray(0, -4), crc32(kind.schema)) !== view.getUint32(raw.length - 4, true)) throw new Refused("crc");
  const body = new Body(raw.subarray(4, -4));
  const packet = { type: kind.name, packet_seq: view.getUint16(1, true) };
  for (const [field, type] of kind.fields) {
    const value = body.value(type);
    const codes = CODES[`${kind.name}.${field}`];
    packet[field] = codes ? codes[value] ?? "other" : field === "boot" ? hex(value, 16) : value;
  }
  if (body.at !== body.data.length) throw new Refused("payload");
  return packet;
}

/** Finds packets in a stream that may begin and break anywhere; counts what is lost: `errors`, `gaps`, and the packets `missed` in them. */
export class Decoder {
  packets = 0;
  errors = 0;
  gaps = 0;
  missed = 0;
  #frame = [];
  #overlong = false;
  #last;
  #boot;

  #count(packet) {
    let restarted = false;
    if (packet.type === "hello") {
      restarted = packet.packet_seq === 0 || (this.#boot !== undefined && this.#boot !== packet.boot);
      this.#boot = packet.boot;
    }
    const skipped = this.#last === undefined || restarted ? 0 : (packet.packet_seq - this.#last - 1) & 0xffff;
    this.#last = packet.packet_seq;
    this.packets++;
    if (skipped) this.gaps++;
    this.missed += skipped;
  }

  /** The packets that end in `data`. */
  feed(data) {
    const found = [];
    for (const byte of data) {
      if (byte) {
        if (this.#frame.length < FRAME_BYTES_MAX) this.#frame.push(byte);
        else this.#overlong = true;
        continue;
      }
      const frame = Uint8Array.from(this.#frame), overlong = this.#overlong;
      this.#frame = [];
      this.#overlong = false;
      if (!frame.length && !overlong) continue;
      try {
        if (overlong) throw new Refused("length");
        const packet = decode(frame);
        this.#count(packet);
        found.push(packet);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.errors++;
      }
    }
    return found;
  }
}
