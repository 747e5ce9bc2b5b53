//! A report as one HTML page with its pictures inside: nothing is fetched, nothing runs.

use super::svg::{BLUE, INK, bar_chart, escape, square, svg, text};
use crate::eval::{
    record::{About, Record},
    report::Report,
};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;color:#1f2933;max-width:62rem;margin:2rem auto;padding:0 1rem}\
    h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse}td,th{padding:.15rem .7rem .15rem 0;\
    text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}.q{color:#52606d}.w{color:#b42318;font-weight:600}\
    figure{display:inline-block;margin:.5rem 1.5rem .5rem 0;vertical-align:top}figcaption{color:#52606d;font-size:.85rem}\
    svg{max-width:100%}code{background:#f0f3f6;padding:0 .2rem}";

/// Records with an error that are named.
const ERRORS_MAX: usize = 20;

pub fn draw(about: &About, report: &Report, records: &[Record]) -> String {
    let mut page = String::new();
    let mut put = |text: String| page.push_str(&text);
    let title = format!("{} on {}", about.bundle, about.manifest);
    put(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>\n",
        escape(&title)
    ));
    if !about.trained {
        put("<p class=\"w\">The bundle is untrained: its weights are random, and these numbers mean nothing.</p>\n".into());
    }
    let fold = about.fold.map_or(String::new(), |fold| format!(", fold {fold}"));
    put(format!(
        "<p class=\"q\">{} clips{fold}; {} labels ({}); given {}; {}; temperature {}; tensors <code>{}</code>, manifest <code>{}</code></p>\n",
        report.clips,
        about.labels.len(),
        escape(&about.label_set),
        escape(&about.given),
        escape(&about.quant),
        about.temperature,
        short(&about.tensors),
        short(&about.manifest_sha256)
    ));
    put("<table>\n".into());
    for (name, value, what) in report.rows() {
        put(format!("<tr><td>{name}<td class=\"n\">{value}<td class=\"q\">{what}\n"));
    }
    put("</table>\n".into());
    if report.errors > 0 {
        put(format!("<p class=\"w\">{} clips could not be read:</p><ul>\n", report.errors));
        let failed = records.iter().filter_map(|r| Some((&r.id, r.error.as_ref()?)));
        for (id, why) in failed.take(ERRORS_MAX) {
            put(format!("<li><code>{}</code> {}\n", escape(id), escape(why)));
        }
        put("</ul>\n".into());
    }
    put("<h2>Answers</h2>\n".into());
    put(figure(
        &confusion(report),
        "Clips by label (rows) and answer (columns); shade is the share of the row",
    ));
    put(figure(&recalls(report), "Recall per label, and its number of clips"));
    put("<h2>Confidence of the label scores</h2>\n".into());
    put(figure(
        &reliability(report),
        "Share right over confidence; the area of a dot is its number of clips",
    ));
    put(figure(&risk(report), "Share wrong among the surest clips, over their share of all"));
    if report.subsets.iter().any(|s| s.clips > 0) {
        put("<h2>By what the label hangs on</h2>\n".into());
        let rows: Vec<_> = report.subsets.iter().filter(|s| s.clips > 0).collect();
        let bars: Vec<_> = rows.iter().map(|s| (s.name.as_str(), s.clips, s.uar)).collect();
        put(figure(&bar_chart(&bars), "UAR per subset, and its number of clips"));
    }
    page
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn figure(svg: &str, caption: &str) -> String {
    format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>\n")
}

fn confusion(report: &Report) -> String {
    const CELL: f64 = 38.0;
    const LEFT: f64 = 96.0;
    const TOP: f64 = 78.0;
    let columns = report.columns();
    let (width, height) =
        (LEFT + CELL * columns.len() as f64 + 30.0, TOP + CELL * report.confusion.len() as f64 + 4.0);
    svg(width, height, |out| {
        for (i, name) in columns.iter().enumerate() {
            let x = LEFT + CELL * (i as f64 + 0.5);
            let (name, y) = (escape(name), TOP - 8.0);
            let _ = write!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" transform=\"rotate(-40 {x:.1} {y:.1})\">{name}</text>"
            );
        }
        for (row, counts) in report.confusion.iter().enumerate() {
            let y = TOP + CELL * row as f64;
            text(out, LEFT - 8.0, y + CELL / 2.0 + 4.0, "end", columns[row]);
            let total = counts.iter().sum::<usize>().max(1) as f64;
            for (column, count) in counts.iter().enumerate() {
                let (x, share) = (LEFT + CELL * column as f64, *count as f64 / total);
                let (fill, ink) = (
                    if row == column { "#2f855a" } else { "#c05621" },
                    if share > 0.55 { "#fff" } else { INK },
                );
                let _ = write!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{0:.1}\" height=\"{0:.1}\" fill=\"{fill}\" fill-opacity=\"{share:.3}\" \
                     stroke=\"#e4e7eb\"/>",
                    CELL - 2.0
                );
                if *count > 0 {
                    let (x, y) = (x + CELL / 2.0 - 1.0, y + CELL / 2.0 + 3.0);
                    let _ = write!(
                        out,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"{ink}\">{count}</text>"
                    );
                }
            }
        }
    })
}

fn recalls(report: &Report) -> String {
    let values = report.labels.iter().zip(&report.support).zip(&report.recall);
    let bars: Vec<_> = values.map(|((label, clips), recall)| (label.as_str(), *clips, *recall)).collect();
    bar_chart(&bars)
}

fn reliability(report: &Report) -> String {
    square("confidence", "share right", |out, at| {
        let ((x0, y0), (x1, y1)) = (at(0.0, 0.0), at(1.0, 1.0));
        let _ = write!(
            out,
            "<path d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\" stroke=\"#9aa5b1\" stroke-dasharray=\"4 3\"/>"
        );
        let most = report.bins.iter().map(|b| b.clips).max().unwrap_or(0).max(1) as f64;
        for bin in report.bins.iter().filter(|b| b.clips > 0) {
            let (x, y) = at(bin.confidence, bin.right);
            let r = 3.0 + 9.0 * (bin.clips as f64 / most).sqrt();
            let _ = write!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\" fill=\"{BLUE}\" fill-opacity=\".75\"><title>{} clips</title></circle>",
                bin.clips
            );
        }
    })
}

fn risk(report: &Report) -> String {
    square("coverage", "risk", |out, at| {
        let points: Vec<String> = report
            .risk_coverage
            .iter()
            .map(|[coverage, risk]| {
                let (x, y) = at(*coverage, *risk);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{BLUE}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    })
}
