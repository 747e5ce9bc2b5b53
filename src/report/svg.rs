//! Pieces of SVG: a frame, text, bars, a square with axes.
//!
//! Units: pixels, `y` downwards; shares and coordinates of a square from 0 to 1, upwards.

use std::fmt::Write;

pub const INK: &str = "#52606d";
pub const BLUE: &str = "#3d7dca";

/// An SVG of so many pixels with what `fill` draws.
pub fn svg(width: f64, height: f64, fill: impl FnOnce(&mut String)) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"system-ui,sans-serif\" font-size=\"11\" fill=\"{INK}\">"
    );
    fill(&mut out);
    out.push_str("</svg>");
    out
}

pub fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = escape(what);
    let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>");
}

/// Horizontal bars: name, clips, share.
pub fn bar_chart(bars: &[(&str, usize, Option<f64>)]) -> String {
    const ROW: f64 = 22.0;
    const LEFT: f64 = 104.0;
    const LONG: f64 = 220.0;
    svg(LEFT + LONG + 110.0, ROW * bars.len() as f64 + 6.0, |out| {
        for (i, (name, clips, share)) in bars.iter().enumerate() {
            let y = ROW * i as f64 + 4.0;
            text(out, LEFT - 8.0, y + 13.0, "end", name);
            let long = LONG * share.unwrap_or(0.0);
            let _ = write!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{LONG}\" height=\"16\" fill=\"#f0f3f6\"/>\
                 <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{long:.1}\" height=\"16\" fill=\"{BLUE}\"/>"
            );
            let said = share.map_or("-".to_owned(), |s| format!("{:.1} %", 100.0 * s));
            text(out, LEFT + LONG + 8.0, y + 13.0, "start", &format!("{said}  ({clips})"));
        }
    })
}

/// Side of a square picture, and its margin.
const SIDE: f64 = 260.0;
const EDGE: f64 = 38.0;

/// A square from 0 to 1 both ways, with named axes.
pub fn square(
    across: &str,
    up: &str,
    fill: impl FnOnce(&mut String, &dyn Fn(f64, f64) -> (f64, f64)),
) -> String {
    let at = |x: f64, y: f64| (EDGE + SIDE * x, 10.0 + SIDE * (1.0 - y));
    svg(SIDE + EDGE + 24.0, SIDE + EDGE + 20.0, |out| {
        for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let ((x0, y), (x1, _), (x, y0), (_, y1)) =
                (at(0.0, tick), at(1.0, tick), at(tick, 0.0), at(tick, 1.0));
            let _ = write!(
                out,
                "<path d=\"M{x0:.1} {y:.1}H{x1:.1}M{x:.1} {y0:.1}V{y1:.1}\" stroke=\"#e4e7eb\" fill=\"none\"/>"
            );
            text(out, x0 - 5.0, y + 4.0, "end", &format!("{tick}"));
            text(out, x, y0 + 15.0, "middle", &format!("{tick}"));
        }
        text(out, at(0.5, 0.0).0, SIDE + EDGE + 8.0, "middle", across);
        let _ = write!(
            out,
            "<text x=\"10\" y=\"{0:.1}\" transform=\"rotate(-90 10 {0:.1})\" text-anchor=\"middle\">{up}</text>",
            at(0.0, 0.5).1
        );
        fill(out, &at);
    })
}

/// Text as it may stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
