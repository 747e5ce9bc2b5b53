// Prints what the decoder makes of the stream on standard input, as JSON: packets, then counts. `tests/clients.rs` compares it with the sender's own.
import { readFileSync } from "node:fs";
import { Decoder } from "./mien_wire.js";

// JSON has whole numbers of any size; JSON.stringify does not write BigInt.
const text = value => JSON.stringify(value, (_, of) => (typeof of === "bigint" ? `#${of}#` : of)).replace(/"#(\d+)#"/g, "$1");
const decoder = new Decoder();
for (const packet of decoder.feed(readFileSync(0))) console.log(text(packet));
const { packets, errors, gaps, missed } = decoder;
console.log(text({ packets, errors, gaps, missed }));
