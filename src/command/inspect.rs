//! `mien inspect`: what a bundle holds, as tables.

use crate::bundle::{Bundle, OtherKind, Piece, Stack, Tensor, Words};
use crate::command::{Refused, open_bundle};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Show what a bundle holds, and check that it is whole.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Bundle made by `mien pack`.
    bundle: PathBuf,
    /// List every tensor instead of groups.
    #[arg(long)]
    tensors: bool,
}

pub fn run(args: Args) -> Result<()> {
    let refuse = || Refused(format!("cannot use the recogniser {}", args.bundle.display()));
    match Words::open(&args.bundle) {
        Ok(words) => {
            words.verify().with_context(refuse)?;
            print!("{}", recogniser(&words));
            return Ok(());
        }
        Err(error) if Bundle::open(&args.bundle).is_err_and(|other| other.is::<OtherKind>()) => {
            return Err(error).with_context(refuse);
        }
        Err(_) => {}
    }
    let bundle = open_bundle(&args.bundle)?;
    bundle.verify().with_context(|| Refused(format!("cannot use the bundle {}", args.bundle.display())))?;
    print!("{}", report(&bundle, args.tensors));
    Ok(())
}

/// The same of a speech recogniser.
fn recogniser(words: &Words) -> String {
    let mut out = String::new();
    let head = words.header();
    let mut general = Table::new("Speech recogniser", &["", ""]);
    general.row(["name", &head.name]);
    general.row(["licence", &head.license]);
    general.row(["matrices", head.quant.name()]);
    general.row(["file", &bytes(words.file_bytes())]);
    general.row(["hears", &format!("{} ms at once", head.shape.hears_ms())]);
    general.row(["tensors sha256", &format!("{} (each matches)", words.digest())]);
    let opening = head.vocabulary.names(&head.transcript.opening);
    general.row(["begins with", &opening]);
    for source in &head.sources {
        general.row(["packed from", source]);
    }
    general.print(&mut out);
    let mut sizes = Table::new("Sizes", &["", "layers", "width", "ffn", "heads"]);
    for (name, stack) in [("encoder", &head.shape.audio), ("decoder", &head.shape.words)] {
        let numbers = [stack.layers, stack.hidden, stack.ffn, stack.n_heads].map(|n| n.to_string());
        sizes.row([name, &numbers[0], &numbers[1], &numbers[2], &numbers[3]]);
    }
    sizes.print(&mut out);
    out
}

/// The tables as text.
pub fn report(bundle: &Bundle, all_tensors: bool) -> String {
    let mut out = String::new();
    let head = bundle.header();
    let sum: usize = bundle.tensors().map(|t| t.data.len()).sum();
    let mut general = Table::new("General", &["", ""]);
    general.row(["name", &head.name]);
    general.row(["description", &head.description]);
    general.row(["licence", &head.license]);
    general
        .row(["trained", if head.trained { "yes" } else { "NO: random weights, its answers mean nothing" }]);
    general.row(["matrices", head.quant.name()]);
    general.row(["file", &bytes(bundle.file_bytes())]);
    general.row(["tensors", &format!("{} in {}", bundle.tensors().count(), bytes(sum))]);
    general.row(["header sha256", &format!("{} (matches)", bundle.header_digest())]);
    general.row(["tensors sha256", &format!("{} (each matches)", bundle.digest())]);
    let test = match &head.self_test {
        Some(test) => format!("prompt {}, labels {}: {:.3?}", test.prompt, test.labels, test.scores),
        None => "none: `mien pack BUNDLE -o BUNDLE` adds one".to_owned(),
    };
    general.row(["self-test", &test]);
    for source in &head.sources {
        general.row(["packed from", source]);
    }
    general.print(&mut out);
    sizes(bundle).print(&mut out);
    if all_tensors {
        let mut table = Table::new("Tensors", &["name", "kind", "rows", "cols", "bytes"]);
        for t in bundle.tensors() {
            let (rows, cols) = (t.rows.to_string(), t.cols.to_string());
            table.row([t.name, t.kind.name(), &rows, &cols, &t.data.len().to_string()]);
        }
        table.print(&mut out);
    } else {
        groups(bundle).print(&mut out);
    }
    parts(bundle, sum).print(&mut out);
    prompts(bundle).print(&mut out);
    for prompt in &head.prompts {
        let _ = writeln!(out, "  {}: {}", prompt.name, prompt.instruction.escape_debug());
    }
    label_sets(bundle).print(&mut out);
    let mut generation = Table::new("Generation", &["", ""]);
    generation.row(["ends with", &bundle.vocabulary().names(&head.generation.eos)]);
    generation.row(["repetition penalty", &head.generation.repetition_penalty.to_string()]);
    generation.row(["tokens at most", &head.generation.max_new_tokens.to_string()]);
    generation.print(&mut out);
    out
}

fn sizes(bundle: &Bundle) -> Table {
    let shape = bundle.shape();
    let mut table = Table::new(
        "Sizes",
        &["part", "layers", "hidden", "ffn", "heads", "kv heads", "head", "eps", "in", "tokens"],
    );
    let mut row = |name: &str, s: &Stack, input: String, tokens: String| {
        let numbers = [s.layers, s.hidden, s.ffn, s.n_heads, s.n_kv_heads, s.head_dim].map(|n| n.to_string());
        let mut cells = vec![name.to_owned()];
        cells.extend(numbers);
        cells.extend([format!("{:e}", s.eps), input, tokens]);
        table.row(cells);
    };
    let (frames, image, patch) = (shape.frames, shape.image, shape.patch);
    row(
        "vision",
        &shape.vision,
        format!("{frames} x {image} px / {patch}"),
        shape.visual_tokens().to_string(),
    );
    let (rows, hears_ms) = (shape.audio_positions, shape.hears_ms());
    let audio = format!("{hears_ms} ms, {} mels, {rows} rows / {}", shape.mels, shape.audio_pool);
    row("audio", &shape.audio, audio, shape.audio_tokens().to_string());
    row(
        "decoder",
        &shape.decoder,
        format!("vocabulary {}", shape.vocab),
        format!("context {}", shape.context),
    );
    table
}

/// Tensors of one kind and shape in one row: numbers and branches in names become `*`.
fn groups(bundle: &Bundle) -> Table {
    let mut found: Vec<(String, usize, usize)> = Vec::new();
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for t in bundle.tensors() {
        let part = |part: &str| match part {
            "video" | "body" => "*".to_owned(),
            number if number.parse::<u32>().is_ok() => "*".to_owned(),
            other => other.replace(|c: char| c.is_ascii_digit(), "*"),
        };
        let name: Vec<String> = t.name.split('.').map(part).collect();
        let key = format!("{}\t{}\t{} x {}", name.join("."), t.kind.name(), t.rows, t.cols);
        let index = *at.entry(key.clone()).or_insert(found.len());
        if index == found.len() {
            found.push((key, 0, 0));
        }
        found[index].1 += 1;
        found[index].2 += t.data.len();
    }
    let mut table = Table::new("Tensors", &["name", "kind", "shape", "count", "bytes"]);
    for (key, count, sum) in found {
        let mut cells: Vec<String> = key.split('\t').map(str::to_owned).collect();
        cells.extend([count.to_string(), sum.to_string()]);
        table.row(cells);
    }
    table
}

fn parts(bundle: &Bundle, sum: usize) -> Table {
    let part = |t: &Tensor<'_>| match t.name {
        "decoder.embed.weight" | "decoder.head.weight" => "embedding and head",
        name if name.starts_with("decoder") => "decoder layers",
        name if name.starts_with("vision") => "vision tower",
        name if name.starts_with("audio") => "audio tower",
        name if name.starts_with("fusion.audio") => "audio projector",
        name if name.starts_with("fusion.face") => "face branch",
        name if name.starts_with("fusion.body") => "body branch",
        _ => "video branch",
    };
    let mut found: Vec<(&str, usize, usize)> = Vec::new();
    for t in bundle.tensors() {
        let name = part(&t);
        if !found.iter().any(|(other, ..)| *other == name) {
            found.push((name, 0, 0));
        }
        let (_, values, bytes) =
            found.iter_mut().find(|(other, ..)| *other == name).expect("it was pushed above");
        *values += t.rows * t.cols;
        *bytes += t.data.len();
    }
    let mut table = Table::new("Bytes", &["part", "values", "bytes", "share"]);
    for (name, values, bytes) in found {
        let share = format!("{:.1} %", 100.0 * bytes as f64 / sum as f64);
        table.row([name, &values.to_string(), &bytes.to_string(), &share]);
    }
    table
}

fn prompts(bundle: &Bundle) -> Table {
    let head = ["name", "video", "body", "face", "text ids v+a", "v", "a", "positions v+a", "v", "a"];
    let mut table = Table::new("Prompts: gate weights of the branches, tokens", &head);
    for prompt in bundle.prompts() {
        let mut cells = vec![prompt.name.clone()];
        cells.extend(prompt.gate.iter().map(|g| format!("{g:.6}")));
        let lists = prompt.variants();
        let text = |pieces: &[Piece]| -> usize {
            pieces.iter().map(|p| if let Piece::Text(ids) = p { ids.len() } else { 0 }).sum()
        };
        cells.extend(lists.iter().map(|pieces| text(pieces).to_string()));
        let tokens = |piece: &Piece| piece.positions(bundle.shape());
        cells.extend(lists.iter().map(|pieces| pieces.iter().map(tokens).sum::<usize>().to_string()));
        table.row(cells);
    }
    table
}

fn label_sets(bundle: &Bundle) -> Table {
    let mut table =
        Table::new("Label sets", &["name", "labels", "prefix", "tokens", "temperature", "followed", ""]);
    for set in bundle.label_sets() {
        let tokens = set.tokens.iter().map(|t| t.len().to_string()).collect::<Vec<_>>().join(" ");
        let (count, prefix) = (set.labels.len().to_string(), set.prefix.len().to_string());
        let follows = if set.shift.is_some() { "yes" } else { "no" }.to_owned();
        table.row([
            &set.name,
            &count,
            &prefix,
            &tokens,
            &set.temperature.to_string(),
            &follows,
            &set.labels.join(", "),
        ]);
    }
    table
}

fn bytes(count: usize) -> String {
    format!("{count} bytes ({:.1} MB)", count as f64 / 1e6)
}

/// Columns as wide as their widest cell; columns of numbers stand to the right.
struct Table {
    title: &'static str,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: &'static str, head: &[&str]) -> Table {
        Table { title, head: head.iter().map(|&h| h.to_owned()).collect(), rows: Vec::new() }
    }

    fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(|c| c.as_ref().to_owned()).collect();
        assert_eq!(cells.len(), self.head.len(), "cells of a row of `{}`", self.title);
        self.rows.push(cells);
    }

    fn print(&self, out: &mut String) {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{gap}{}", self.title);
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| &r[i]).chain([&self.head[i]]);
            cells.map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let number = |cell: &str| !cell.is_empty() && cell.chars().all(|c| "0123456789.%e- x".contains(c));
        let right = |i: usize| self.rows.iter().all(|r| number(&r[i]));
        let head = self.head.iter().any(|h| !h.is_empty()).then_some(&self.head);
        for row in head.into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let width = width(i);
                let _ = if right(i) {
                    write!(line, "  {cell:>width$}")
                } else {
                    write!(line, "  {cell:<width$}")
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}
