//! A run as one SVG that needs nothing else: a lane for each label, modalities, reasons.

use super::{
    story::{Episode, Story, Stretch, Truth},
    svg::escape,
};
use crate::sink::json;
use std::fmt::Write;

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

    /// The whole picture; without a title, device and bundle.
    pub fn draw(&self, title: Option<&str>) -> String {
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
            self.draw_truth(svg, truth, y, color);
        }
        for episode in self.episodes.iter().filter(|episode| episode.label == lane) {
            self.draw_episode(svg, episode, y, color);
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

    fn draw_truth(&self, svg: &mut String, truth: &Truth, y: f64, color: &str) {
        let (x, x2) = (self.x(truth.start_ms), self.x(truth.end_ms));
        let _ = writeln!(
            svg,
            r##"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="5" fill="none" stroke="{color}" stroke-dasharray="3 3"><title>shown: {}</title></rect>"##,
            y + 2.0,
            x2 - x,
            LANE - 5.0,
            escape(&truth.label)
        );
    }

    fn draw_episode(&self, svg: &mut String, episode: &Episode, y: f64, color: &str) {
        let (x, x2) = (self.x(episode.begin_ms), self.x(episode.end_ms));
        let _ = writeln!(
            svg,
            r##"<g><title>{} {:.1} s to {:.1} s, confidence {:.2} {}</title><rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="5" fill="{color}" fill-opacity="{:.2}"/><rect x="{x:.1}" y="{:.1}" width="3" height="{:.1}" rx="1.5" fill="{color}"/></g>"##,
            escape(&self.labels[episode.label]),
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
