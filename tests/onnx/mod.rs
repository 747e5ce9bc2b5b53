//! Nets that tests write by hand.
#![allow(dead_code, reason = "each test takes what it needs")]

/// Just enough of ONNX's protobuf.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
    fn number(mut self, field: u64, value: u64) -> Message {
        self.varint(field << 3);
        self.varint(value);
        self
    }
    fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
    fn text(self, field: u64, value: &str) -> Message {
        self.bytes(field, value.as_bytes())
    }
    fn part(self, field: u64, value: Message) -> Message {
        self.bytes(field, &value.0)
    }
}

fn value(name: &str, dims: &[&str]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| {
        let dim = match dim.parse::<u64>() {
            Ok(size) => Message::default().number(1, size),
            Err(_) => Message::default().text(2, dim),
        };
        shape.part(1, dim)
    });
    let tensor = Message::default().number(1, 1).part(2, shape);
    Message::default().text(1, name).part(2, Message::default().part(1, tensor))
}

fn weight(name: &str, dims: &[u64], values: &[f32]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let dims = dims.iter().fold(Message::default(), |message, dim| message.number(1, *dim));
    dims.number(2, 1).text(8, name).bytes(9, &bytes)
}

fn node(kind: &str, domain: &str, inputs: &[&str], output: &str) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
    node.text(2, output).text(4, kind).text(7, domain)
}

/// A face detector that sees the same everywhere: `score`, and the picture's mean times `gain`; and certain `faces`.
pub struct Detector {
    pub boxes: &'static str,
    pub numbers: u64,
    pub score: f32,
    /// Of the picture's mean, added to the score.
    pub gain: f32,
    /// Middle and side, in pixels of the 128 x 128 that the net is given.
    pub faces: &'static [(f32, f32, f32)],
    pub picture: [&'static str; 4],
    pub kind: &'static str,
    pub domain: &'static str,
}

impl Default for Detector {
    fn default() -> Self {
        let picture = ["1", "3", "128", "128"];
        Detector {
            boxes: "regressors",
            numbers: 16,
            score: -5.0,
            gain: 0.0,
            faces: &[],
            picture,
            kind: "Mul",
            domain: "",
        }
    }
}

impl Detector {
    pub fn onnx(&self) -> Vec<u8> {
        let mut boxes = vec![0.0; 896 * self.numbers as usize];
        let mut scores = [self.score; 896];
        for (x, y, side) in self.faces {
            // Two anchors to a cell of 8 x 8 pixels, in rows of 16 cells.
            let (column, row) = ((x / 8.0) as usize, (y / 8.0) as usize);
            let anchor = 2 * (16 * row + column);
            let middle = [column, row].map(|cell| 8.0 * cell as f32 + 4.0);
            boxes[anchor * 16..][..4].copy_from_slice(&[x - middle[0], y - middle[1], *side, *side]);
            scores[anchor] = 5.0;
        }
        let graph = Message::default()
            .part(1, node("ReduceMean", "", &["input"], "mean"))
            .part(1, node(self.kind, self.domain, &["mean", "gain"], "scaled"))
            .part(1, node("Reshape", "", &["scaled", "shape"], "flat"))
            .part(1, node("Add", "", &["flat", "all boxes"], self.boxes))
            .part(1, node("Add", "", &["flat", "all scores"], "classificators"))
            .text(2, "net")
            .part(5, weight("gain", &[1], &[self.gain]))
            .part(5, shape())
            .part(5, weight("all boxes", &[1, 896, self.numbers], &boxes))
            .part(5, weight("all scores", &[1, 896, 1], &scores))
            .part(11, value("input", &self.picture))
            .part(12, value(self.boxes, &["1", "896", &self.numbers.to_string()]))
            .part(12, value("classificators", &["1", "896", "1"]));
        Message::default().number(1, 8).part(7, graph).part(8, Message::default().number(2, 13)).0
    }
}

/// A net for voices: twenty times the mean loudness, and a state that stays.
pub fn listener() -> Vec<u8> {
    let graph = Message::default()
        .part(1, node("Abs", "", &["input"], "loud"))
        .part(1, node("ReduceMean", "", &["loud"], "mean"))
        .part(1, node("Mul", "", &["mean", "gain"], "output"))
        .part(1, node("Identity", "", &["state"], "stateN"))
        .text(2, "net")
        .part(5, weight("gain", &[1], &[20.0]))
        .part(11, value("input", &["1", "576"]))
        .part(11, value("state", &["2", "1", "128"]))
        .part(12, value("output", &["1", "1"]))
        .part(12, value("stateN", &["2", "1", "128"]));
    Message::default().number(1, 8).part(7, graph).part(8, Message::default().number(2, 13)).0
}

/// A net for expressions: each share is the picture's mean times a gain, and `bias`.
pub fn expression(gains: &[f32], bias: f32) -> Vec<u8> {
    let count = gains.len() as u64;
    let graph = Message::default()
        .part(1, node("ReduceMean", "", &["input"], "mean"))
        .part(1, node("Reshape", "", &["mean", "shape"], "flat"))
        .part(1, node("Mul", "", &["flat", "gains"], "scaled"))
        .part(1, node("Add", "", &["scaled", "bias"], "output"))
        .text(2, "net")
        .part(5, shape())
        .part(5, weight("gains", &[1, 1, count], gains))
        .part(5, weight("bias", &[1], &[bias]))
        .part(11, value("input", &["1", "3", "64", "64"]))
        .part(12, value("output", &["1", "1", &count.to_string()]));
    Message::default().number(1, 8).part(7, graph).part(8, Message::default().number(2, 13)).0
}

/// The constant `[1, 1, 1]` as int64.
fn shape() -> Message {
    let bytes: Vec<u8> = [1i64; 3].iter().flat_map(|v| v.to_le_bytes()).collect();
    Message::default().number(1, 3).number(2, 7).text(8, "shape").bytes(9, &bytes)
}
