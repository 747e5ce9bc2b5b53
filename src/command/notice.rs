//! `mien notice`: what people in front of a device must be told, as text and as a poster with a QR code.

use super::Refused;
use crate::{
    config::{self, Config},
    kept::{self, Durable},
    report::svg,
};
use anyhow::{Context, Result, ensure};
use qrcode::{Color, EcLevel, QrCode};
use std::{fmt::Write, path::PathBuf};

/// Write the notice for people whom a device can see or hear, from its config.
///
/// The law asks for it (EU AI Act, Art. 50(3)). The config's privacy.contact and privacy.notice_url stand in it; this is not legal
/// advice.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file (TOML).
    config: PathBuf,
    /// The poster (SVG); without it, the text is printed.
    #[arg(short, long)]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let refuse = || Refused(format!("cannot use the config {}", args.config.display()));
    let config = config::read(&args.config).with_context(refuse)?;
    ensure!(
        !config.privacy.contact.is_empty(),
        "{}: privacy.contact is not set: people must know whom they can ask",
        args.config.display()
    );
    let lines = lines(&config)?;
    match &args.out {
        Some(out) => {
            let picture = poster(&lines, &config)?;
            kept::replace(out, picture.as_bytes(), Durable::Process)
                .with_context(|| format!("writing {}", out.display()))?;
            println!("{}: written", out.display());
        }
        None => println!("{}", lines.join("\n")),
    }
    Ok(())
}

/// The heading first.
fn lines(config: &Config) -> Result<Vec<String>> {
    let privacy = &config.privacy;
    let purpose = privacy.purpose()?;
    let mut devices = Vec::new();
    for source in config.sources() {
        let gives = source.gives()?;
        devices.extend(gives.video.then_some("camera"));
        devices.extend(gives.audio.then_some("microphone"));
    }
    devices.dedup();
    let mut lines = vec!["Emotion recognition is in use here".to_owned()];
    let note =
        if privacy.purpose_note.is_empty() { String::new() } else { format!(" ({})", privacy.purpose_note) };
    lines.push(format!("What for: {}{note}.", purpose.name.replace('-', " ")));
    lines.push(format!(
        "How: a {} and a program on the device {}.",
        devices.join(", a "),
        config.device_name()
    ));
    lines.push("What it guesses: which expression a face or a voice shows. It may be wrong, and a face is not a feeling.".into());
    lines.push("What is kept: no pictures and no sound. They never leave the device; a label, a score and a time do.".into());
    if config.words.is_some() {
        lines.push("What is said is turned into text for the guess, and the text is not kept.".into());
    }
    if purpose.asks_consent() {
        lines.push("It works only while you agree, and you can take that back at any time.".into());
    }
    if privacy.pins.as_ref().is_some_and(|pins| pins.indicator.is_some()) {
        lines.push("A light on the device shines while it sees or hears.".into());
    }
    if privacy.pins.as_ref().is_some_and(|pins| pins.mute.is_some()) {
        lines.push("A switch on the device closes camera and microphone.".into());
    }
    lines.push(format!("Who is responsible: {}", privacy.contact));
    if !privacy.notice_url.is_empty() {
        lines.push(format!("More: {}", privacy.notice_url));
    }
    Ok(lines)
}

const WIDTH: f64 = 720.0;
const LINE: f64 = 34.0;
/// Letters in a line.
const LETTERS: usize = 66;

/// The lines, and a QR code of the address where more is said, else of the text.
fn poster(lines: &[String], config: &Config) -> Result<String> {
    let address = &config.privacy.notice_url;
    let content = if address.is_empty() { lines.join("\n") } else { address.clone() };
    let code = QrCode::with_error_correction_level(content, EcLevel::M)
        .context("the notice is too long for a QR code: set privacy.notice_url")?;
    let rows: Vec<String> = lines[1..].iter().flat_map(|line| wrapped(line)).collect();
    let side = 260.0;
    let top = 90.0;
    let text_end = top + LINE * rows.len() as f64;
    let body = svg::svg(WIDTH, text_end + side + 40.0, |out| {
        let _ = writeln!(out, "<g font-size=\"30\" font-weight=\"bold\">");
        svg::text(out, 40.0, 56.0, "start", &lines[0]);
        let _ = writeln!(out, "</g><g font-size=\"17\">");
        for (i, row) in rows.iter().enumerate() {
            svg::text(out, 40.0, top + LINE * i as f64 + 12.0, "start", row);
        }
        let _ = writeln!(out, "</g>");
        squares(out, &code, (WIDTH - side) / 2.0, text_end + 10.0, side);
    });
    Ok(body)
}

/// Dark modules as one path, inside the quiet zone of four modules that the standard asks for (ISO/IEC 18004, 5.3.8).
fn squares(out: &mut String, code: &QrCode, left: f64, top: f64, side: f64) {
    let modules = code.width();
    let step = side / (modules + 8) as f64;
    let _ =
        writeln!(out, "<rect x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\" fill=\"#fff\"/>");
    let _ = write!(out, "<path fill=\"#000\" d=\"");
    for (i, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = (left + step * (i % modules + 4) as f64, top + step * (i / modules + 4) as f64);
            let _ = write!(out, "M{x:.2} {y:.2}h{step:.2}v{step:.2}h-{step:.2}z");
        }
    }
    let _ = writeln!(out, "\"/>");
}

/// Rows of at most [`LETTERS`] letters.
fn wrapped(line: &str) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in line.split(' ') {
        let row = rows.last_mut().expect("there is a first row");
        if !row.is_empty() && row.chars().count() + 1 + word.chars().count() > LETTERS {
            rows.push(word.into());
        } else {
            row.push_str(if row.is_empty() { "" } else { " " });
            row.push_str(word);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_at_words() {
        let rows = wrapped(&"word ".repeat(40));
        assert!(rows.len() == 4 && rows.iter().all(|row| row.chars().count() <= LETTERS), "{rows:?}");
        assert_eq!(wrapped(&"x".repeat(100)).len(), 1);
    }
}
