//! `mien draw`: draw the events of a run as a picture.
//!
//! Input is what `stdout` printed (JSON lines), or a recording of a serial line. Output is one SVG that needs nothing else.

use crate::{
    eval::page::escape,
    sink::{json, json::Line},
    wire::{Decoder, Message},
};
use anyhow::{Context, Result, ensure};
use std::{
    fmt::Write,
    fs,
    io::{self, Read},
    path::PathBuf,
};

/// Draw the events of a run as a picture.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// JSON lines of `mien run` or `mien watch --json`, a recording of a serial line, or - for standard input.
    events: PathBuf,
    /// The picture (SVG).
    #[arg(short, long, default_value = "events.svg")]
    out: PathBuf,
    /// Heading; default: device and bundle.
    #[arg(long)]
    title: Option<String>,
    /// What was really shown, JSON lines with `start_ms`, `end_ms` and `label`: drawn as outlines, and compared.
    #[arg(long)]
    truth: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let name = args.events.display().to_string();
    let mut bytes = Vec::new();
    match name.as_str() {
        "-" => io::stdin().read_to_end(&mut bytes).map(drop),
        _ => fs::read(&args.events).map(|read| bytes = read),
    }
    .with_context(|| format!("reading {name}"))?;
    let lines = lines(&bytes);
    ensure!(!lines.is_empty(), "{name} holds neither JSON lines of events nor packets");
    let mut story = Story::of(&lines);
    ensure!(story.end_ms > story.start_ms, "{name} holds no event and no scores: there is nothing to draw");
    if let Some(path) = &args.truth {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let read = text.lines().enumerate().map(|(i, line)| {
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1))
        });
        story.truth = read.collect::<Result<_>>()?;
    }
    let svg = story.draw(args.title.as_deref());
    fs::write(&args.out, svg).with_context(|| format!("writing {}", args.out.display()))?;
    story.compare();
    println!(
        "{}: {} episodes of {} labels over {:.1} s",
        args.out.display(),
        story.episodes.len(),
        story.labels.len(),
        (story.end_ms - story.start_ms) as f64 / 1000.0
    );
    Ok(())
}

/// JSON lines, or packets; what is neither is passed over.
pub fn lines(bytes: &[u8]) -> Vec<Line> {
    if bytes.first() == Some(&b'{') {
        let text = String::from_utf8_lossy(bytes);
        return text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    }
    let mut decoder = Decoder::new();
    let mut labels: Vec<String> = Vec::new();
    let mut boot = None;
    let mut lines = Vec::new();
    for &byte in bytes {
        let Some(Ok(packet)) = decoder.feed(byte) else { continue };
        match packet.message {
            Message::Hello(hello) => {
                boot = Some(hello.boot);
                let hello = json::Hello::of(&hello);
                labels = hello.labels.clone();
                lines.push(Line::Hello(hello));
            }
            Message::Event(event) => {
                let label = labels.get(usize::from(event.label)).map(String::as_str);
                lines.push(Line::Event(json::Event::of(&event, label, boot)));
            }
            Message::Heartbeat(_) | Message::Reason(_) => {}
        }
    }
    lines
}

struct Episode {
    id: u32,
    label: usize,
    begin_ms: u64,
    end_ms: u64,
    confidence: f64,
    cause: String,
}

/// A stretch of a recording of which it is known what was shown.
#[derive(serde::Deserialize)]
struct Truth {
    start_ms: u64,
    end_ms: u64,
    label: String,
}

/// A stretch in which something is unknown or missing.
struct Stretch {
    begin_ms: u64,
    end_ms: u64,
    why: String,
}

/// What there is to draw.
struct Story {
    title: String,
    labels: Vec<String>,
    start_ms: u64,
    end_ms: u64,
    episodes: Vec<Episode>,
    unknown: Vec<Stretch>,
    /// `(time, smoothed scores in the order of the labels)`.
    scores: Vec<(u64, Vec<f32>)>,
    /// Of `video` and `audio`: seen at all, and missing when.
    modalities: Vec<(&'static str, Vec<Stretch>)>,
    reasons: Vec<(u32, u64, String)>,
    truth: Vec<Truth>,
    window_ms: u64,
}

impl Story {
    fn of(lines: &[Line]) -> Story {
        let mut story = Story {
            title: "emotion events".into(),
            labels: Vec::new(),
            start_ms: u64::MAX,
            end_ms: 0,
            episodes: Vec::new(),
            unknown: Vec::new(),
            scores: Vec::new(),
            modalities: Vec::new(),
            reasons: Vec::new(),
            truth: Vec::new(),
            window_ms: 0,
        };
        let mut presence: Vec<(u64, Vec<String>, Vec<String>)> = Vec::new();
        for line in lines {
            match line {
                Line::Hello(hello) => {
                    story.title = format!("{} — {} ({})", hello.device, hello.bundle, hello.label_set);
                    story.labels.clone_from(&hello.labels);
                    story.window_ms = u64::from(hello.window_ms);
                }
                Line::Event(event) => {
                    story.span(event.at_ms);
                    story.take(event);
                    presence.push((event.at_ms, event.present.clone(), event.missing.clone()));
                }
                Line::Scores(scores) => {
                    story.span(scores.at_ms);
                    story.scores.push((scores.at_ms, scores.smoothed.clone()));
                    presence.push((scores.at_ms, scores.present.clone(), scores.missing.clone()));
                }
                Line::Reason(reason) => {
                    story.reasons.push((reason.episode, reason.at_ms, reason.text.clone()))
                }
                Line::State(_) | Line::Heartbeat(_) => {}
            }
        }
        let last_ms = story.end_ms;
        for episode in story.episodes.iter_mut().filter(|episode| episode.end_ms == u64::MAX) {
            episode.end_ms = last_ms;
        }
        for stretch in story.unknown.iter_mut().filter(|stretch| stretch.end_ms == u64::MAX) {
            stretch.end_ms = last_ms;
        }
        if story.start_ms < story.end_ms {
            story.start_ms = story.start_ms.saturating_sub(story.window_ms);
        }
        story.unknown.retain(|stretch| stretch.begin_ms < stretch.end_ms);
        story.modalities = modalities(&presence);
        story
    }

    fn span(&mut self, at_ms: u64) {
        self.start_ms = self.start_ms.min(at_ms);
        self.end_ms = self.end_ms.max(at_ms);
    }

    fn take(&mut self, event: &json::Event) {
        let label = event.label.as_deref().map(|label| self.lane(label));
        match (event.event.as_str(), label) {
            ("begin", Some(label)) => {
                if let Some(stretch) = self.unknown.last_mut() {
                    stretch.end_ms = stretch.end_ms.min(event.at_ms);
                }
                self.episodes.push(Episode {
                    id: event.episode,
                    label,
                    begin_ms: event.at_ms,
                    end_ms: u64::MAX,
                    confidence: event.confidence,
                    cause: String::new(),
                });
            }
            ("change" | "end", Some(_)) => {
                let Some(episode) =
                    self.episodes.iter_mut().rev().find(|episode| episode.id == event.episode)
                else {
                    return;
                };
                episode.confidence = episode.confidence.max(event.confidence);
                if event.event == "end" {
                    episode.end_ms = event.at_ms;
                    episode.cause = event.cause.clone().unwrap_or_default();
                }
            }
            ("unknown", _) => {
                if let Some(stretch) = self.unknown.last_mut() {
                    stretch.end_ms = stretch.end_ms.min(event.at_ms);
                }
                let why = event.cause.clone().unwrap_or_default().replace('_', " ");
                self.unknown.push(Stretch { begin_ms: event.at_ms, end_ms: u64::MAX, why });
            }
            _ => {}
        }
    }

    /// The label that was held longest in a stretch, and for how long. An event speaks of the middle of its window.
    fn held(&self, truth: &Truth) -> Option<(&str, u64)> {
        let mut held = vec![0; self.labels.len()];
        for episode in &self.episodes {
            let middle = |at_ms: u64| at_ms.saturating_sub(self.window_ms / 2);
            let begin = middle(episode.begin_ms).max(truth.start_ms);
            let end = middle(episode.end_ms).min(truth.end_ms);
            held[episode.label] += end.saturating_sub(begin);
        }
        let (label, &longest) = held.iter().enumerate().max_by_key(|(_, held)| **held)?;
        (longest > 0).then(|| (self.labels[label].as_str(), longest))
    }

    /// Prints what was shown beside what was said of it.
    fn compare(&self) {
        let mut right = 0;
        for truth in &self.truth {
            let held = self.held(truth);
            let same =
                held.is_some_and(|(label, _)| json::expression(label) == json::expression(&truth.label));
            right += usize::from(same);
            println!(
                "{:>6.1} s to {:>5.1} s  shown {:9} said {:9} for {:.1} s  {}",
                truth.start_ms as f64 / 1000.0,
                truth.end_ms as f64 / 1000.0,
                truth.label,
                held.map_or("nothing", |(label, _)| label),
                held.map_or(0.0, |(_, ms)| ms as f64 / 1000.0),
                if same { "right" } else { "WRONG" }
            );
        }
        if !self.truth.is_empty() {
            println!("{right} of {} right", self.truth.len());
        }
    }

    fn lane(&mut self, label: &str) -> usize {
        self.labels.iter().position(|known| known == label).unwrap_or_else(|| {
            self.labels.push(label.into());
            self.labels.len() - 1
        })
    }
}

/// Where each modality was missing. A mark holds until the next one.
fn modalities(presence: &[(u64, Vec<String>, Vec<String>)]) -> Vec<(&'static str, Vec<Stretch>)> {
    let mut found = Vec::new();
    for name in ["video", "audio"] {
        let expected = |(_, present, missing): &&(u64, Vec<String>, Vec<String>)| {
            present.iter().chain(missing).any(|known| known == name)
        };
        let marks: Vec<_> = presence.iter().filter(expected).collect();
        if marks.is_empty() {
            continue;
        }
        let mut gaps: Vec<Stretch> = Vec::new();
        for (i, (at_ms, _, missing)) in marks.iter().enumerate() {
            if !missing.iter().any(|known| known == name) {
                continue;
            }
            let end_ms = marks.get(i + 1).map_or(*at_ms, |next| next.0);
            match gaps.last_mut() {
                Some(gap) if gap.end_ms == *at_ms => gap.end_ms = end_ms,
                _ => gaps.push(Stretch { begin_ms: *at_ms, end_ms, why: format!("no {name}") }),
            }
        }
        found.push((name, gaps));
    }
    found
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 118.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 58.0;
const LANE: f64 = 40.0;
const THIN: f64 = 18.0;
const REASONS_MAX: usize = 5;
const REASON_CHARS: usize = 118;

impl Story {
    fn x(&self, at_ms: u64) -> f64 {
        let share = (at_ms.clamp(self.start_ms, self.end_ms) - self.start_ms) as f64
            / (self.end_ms - self.start_ms) as f64;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn seconds(&self, at_ms: u64) -> f64 {
        at_ms.saturating_sub(self.start_ms) as f64 / 1000.0
    }

    fn draw(&self, title: Option<&str>) -> String {
        let lanes = self.labels.len() as f64 * LANE;
        let thin = (1 + self.modalities.len()) as f64 * THIN;
        let axis_y = TOP + lanes + 6.0 + thin;
        let reasons = self.reasons.len().min(REASONS_MAX);
        let height = axis_y + 34.0 + if reasons > 0 { 12.0 + 18.0 * reasons as f64 } else { 0.0 };
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13">
<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#eceff3"/><rect width="2" height="6" fill="#cfd6de"/></pattern></defs>
<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>
<text x="20" y="32" font-size="17" font-weight="600" fill="#1f2933">{}</text>
<text x="{}" y="32" text-anchor="end" fill="#7b8794">{} events in {:.0} s</text>
"##,
            escape(title.unwrap_or(&self.title)),
            WIDTH - RIGHT,
            self.episodes.len(),
            self.seconds(self.end_ms),
        );
        self.draw_axis(&mut svg, axis_y);
        for (i, label) in self.labels.iter().enumerate() {
            self.draw_lane(&mut svg, i, label);
        }
        let mut y = TOP + lanes + 6.0;
        self.draw_thin(&mut svg, y, "unknown", &self.unknown, "url(#hatch)", "#eceff3");
        for (name, gaps) in &self.modalities {
            y += THIN;
            let whole =
                Stretch { begin_ms: self.start_ms, end_ms: self.end_ms, why: format!("{name} present") };
            self.draw_thin(&mut svg, y, name, &[whole], "#a8d5ba", "#a8d5ba");
            for gap in gaps {
                self.draw_gap(&mut svg, y, gap);
            }
        }
        self.draw_reasons(&mut svg, axis_y + 50.0);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axis(&self, svg: &mut String, axis_y: f64) {
        let total_s = self.seconds(self.end_ms);
        let step = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
            .into_iter()
            .find(|step| total_s / step <= 12.0)
            .unwrap_or(7200.0);
        let mut at_s = 0.0;
        while at_s <= total_s + 1e-9 {
            let x = self.x(self.start_ms + (at_s * 1000.0) as u64);
            let name = if step >= 60.0 { format!("{:.0} min", at_s / 60.0) } else { format!("{at_s:.0} s") };
            let _ = writeln!(
                svg,
                r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{axis_y:.1}" stroke="#e4e7eb"/><text x="{x:.1}" y="{:.1}" text-anchor="middle" font-size="12" fill="#7b8794">{name}</text>"##,
                axis_y + 18.0
            );
            at_s += step;
        }
    }

    fn draw_lane(&self, svg: &mut String, lane: usize, label: &str) {
        let y = TOP + lane as f64 * LANE;
        let (color, bottom) = (color(label, lane), y + LANE - 5.0);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{bottom:.1}" x2="{:.1}" y2="{bottom:.1}" stroke="#e4e7eb"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="#323f4b">{}</text>"##,
            WIDTH - RIGHT,
            LEFT - 12.0,
            y + LANE / 2.0 + 4.0,
            escape(label)
        );
        let own = |truth: &&Truth| json::expression(&truth.label) == json::expression(label);
        for truth in self.truth.iter().filter(own) {
            let (x, x2) = (self.x(truth.start_ms), self.x(truth.end_ms));
            let _ = writeln!(
                svg,
                r##"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="5" fill="none" stroke="{color}" stroke-dasharray="3 3"><title>shown: {}</title></rect>"##,
                y + 2.0,
                x2 - x,
                LANE - 5.0,
                escape(label)
            );
        }
        for episode in self.episodes.iter().filter(|episode| episode.label == lane) {
            let (x, x2) = (self.x(episode.begin_ms), self.x(episode.end_ms));
            let _ = writeln!(
                svg,
                r##"<g><title>{} {:.1} s to {:.1} s, confidence {:.2} {}</title><rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="5" fill="{color}" fill-opacity="{:.2}"/><rect x="{x:.1}" y="{:.1}" width="3" height="{:.1}" rx="1.5" fill="{color}"/></g>"##,
                escape(label),
                self.seconds(episode.begin_ms),
                self.seconds(episode.end_ms),
                episode.confidence,
                escape(&episode.cause.replace('_', " ")),
                y + 4.0,
                (x2 - x).max(3.0),
                LANE - 9.0,
                0.22 + 0.38 * episode.confidence,
                y + 4.0,
                LANE - 9.0
            );
            if x2 - x > 46.0 {
                let _ = writeln!(
                    svg,
                    r##"<text x="{:.1}" y="{:.1}" font-size="11" font-weight="600" fill="#1f2933">{:.2}</text>"##,
                    x + 9.0,
                    y + LANE - 10.0,
                    episode.confidence
                );
            }
            if let Some(number) = self.number(episode.id) {
                let _ = writeln!(
                    svg,
                    r##"<circle cx="{:.1}" cy="{:.1}" r="8" fill="#1f2933"/><text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="10" font-weight="600" fill="#ffffff">{number}</text>"##,
                    x + 1.5,
                    y + 4.0,
                    x + 1.5,
                    y + 7.5
                );
            }
        }
        let points: Vec<String> = self
            .scores
            .iter()
            .filter_map(|(at_ms, scores)| {
                let score = f64::from(*scores.get(lane)?).clamp(0.0, 1.0);
                Some(format!("{:.1},{:.1}", self.x(*at_ms), bottom - score * (LANE - 10.0)))
            })
            .collect();
        if points.len() > 1 {
            let _ = writeln!(
                svg,
                r##"<polyline points="{}" fill="none" stroke="{color}" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>"##,
                points.join(" ")
            );
        }
    }

    fn draw_thin(&self, svg: &mut String, y: f64, name: &str, stretches: &[Stretch], fill: &str, edge: &str) {
        let _ = writeln!(
            svg,
            r##"<text x="{:.1}" y="{:.1}" text-anchor="end" font-size="12" fill="#7b8794">{name}</text>"##,
            LEFT - 12.0,
            y + 12.0
        );
        for stretch in stretches {
            let (x, x2) = (self.x(stretch.begin_ms), self.x(stretch.end_ms));
            let _ = writeln!(
                svg,
                r##"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="8" rx="3" fill="{fill}" stroke="{edge}"><title>{}</title></rect>"##,
                y + 4.0,
                (x2 - x).max(2.0),
                escape(&stretch.why)
            );
        }
    }

    fn draw_gap(&self, svg: &mut String, y: f64, gap: &Stretch) {
        let (x, x2) = (self.x(gap.begin_ms), self.x(gap.end_ms));
        let width = (x2 - x).max(4.0);
        let _ = writeln!(
            svg,
            r##"<rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="10" rx="3" fill="#ffffff" stroke="#d64545" stroke-width="1.5" stroke-dasharray="4 2"><title>{}</title></rect>"##,
            y + 3.0,
            escape(&gap.why)
        );
        if width > 60.0 {
            let _ = writeln!(
                svg,
                r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="9" fill="#d64545">{}</text>"##,
                x + width / 2.0,
                y + 11.0,
                escape(&gap.why)
            );
        }
    }

    /// Reasons are numbered from 1, as many as are printed.
    fn number(&self, episode: u32) -> Option<usize> {
        self.reasons.iter().take(REASONS_MAX).position(|(id, ..)| *id == episode).map(|at| at + 1)
    }

    fn draw_reasons(&self, svg: &mut String, mut y: f64) {
        for (i, (_, at_ms, text)) in self.reasons.iter().take(REASONS_MAX).enumerate() {
            let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut short: String = plain.chars().take(REASON_CHARS).collect();
            if short.len() < plain.len() {
                short.push('…');
            }
            let _ = writeln!(
                svg,
                r##"<circle cx="30" cy="{:.1}" r="8" fill="#1f2933"/><text x="30" y="{:.1}" text-anchor="middle" font-size="10" font-weight="600" fill="#ffffff">{}</text><text x="46" y="{y:.1}" font-size="12" fill="#52606d">{:.0} s: {}</text>"##,
                y - 4.0,
                y - 0.5,
                i + 1,
                self.seconds(*at_ms),
                escape(&short)
            );
            y += 18.0;
        }
    }
}

fn color(label: &str, lane: usize) -> &'static str {
    const REST: [&str; 6] = ["#2f9e9e", "#b5651d", "#5f6caf", "#9c4f96", "#7a9a01", "#c2557a"];
    match json::expression(label) {
        "happy" => "#f0a202",
        "sad" => "#3d7dca",
        "angry" => "#d64545",
        "scared" => "#7c5cc4",
        "surprised" => "#e8743b",
        "disgusted" => "#4f9d4f",
        "neutral" | "calm" => "#8492a6",
        _ => REST[lane % REST.len()],
    }
}
