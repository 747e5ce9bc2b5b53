//! `mien top`: what a daemon sees and says now, in a terminal: scores as bars, what holds, reasons, devices and drops.

use crate::sink::json::{Line, People, Reason};
use anyhow::{Context, Result, bail};
use signal_hook::{consts::SIGINT, flag};
use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Between two pictures.
const STEP: Duration = Duration::from_millis(200);
/// Events and reasons that are shown.
const LINES: usize = 12;
const BAR: usize = 40;

/// Show what a daemon sees and says now.
///
/// A daemon with [sink.page] is asked over its page; else pipe its lines: mien run site.toml | mien top -
#[derive(clap::Args, Debug)]
pub struct Args {
    /// http://HOST:PORT or unix:PATH of a status page, or - for JSON lines on standard input.
    #[arg(default_value = "http://127.0.0.1:8787")]
    from: String,
    /// The page's token: a file with it on its first line.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, Arc::clone(&stop)).context("preparing for signals")?;
    let mut view = View::default();
    let terminal = io::stdout().is_terminal();
    let mut shown_at = Instant::now() - STEP;
    let outcome = lines(&args, &mut |line| {
        view.take(line);
        if terminal && shown_at.elapsed() >= STEP {
            shown_at = Instant::now();
            draw(&view);
        }
        !stop.load(Ordering::Acquire)
    });
    if terminal {
        draw(&view);
    } else {
        print!("{}", view.text());
    }
    match outcome {
        Err(error) if !stop.load(Ordering::Acquire) => Err(error),
        _ => Ok(()),
    }
}

/// Over what stands there.
fn draw(view: &View) {
    let text = view.text().replace('\n', "\x1b[K\n");
    let _ = write!(io::stdout(), "\x1b[H{text}\x1b[J").and_then(|()| io::stdout().flush());
}

/// Hands every line over, until there is none or nobody wants more.
fn lines(args: &Args, take: &mut dyn FnMut(&str) -> bool) -> Result<()> {
    let mut reader: Box<dyn BufRead> = match args.from.as_str() {
        "-" => Box::new(BufReader::new(io::stdin())),
        from => Box::new(page(from, token(args)?.as_deref())?),
    };
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) if !take(line.trim().trim_start_matches("data: ")) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("reading"),
        }
    }
}

fn token(args: &Args) -> Result<Option<String>> {
    let Some(path) = &args.token_file else { return Ok(None) };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading the token {}", path.display()))?;
    Ok(Some(text.lines().next().unwrap_or_default().into()))
}

/// The page's stream of events.
fn page(from: &str, token: Option<&str>) -> Result<BufReader<Box<dyn Read>>> {
    trait Both: Read + Write {}
    impl<T: Read + Write> Both for T {}
    let (mut stream, host): (Box<dyn Both>, &str) =
        match (from.strip_prefix("http://"), from.strip_prefix("unix:")) {
            (Some(host), _) => {
                let host = host.trim_end_matches('/');
                let next =
                    || format!("no status page answers at {from}; the config's [sink.page] says where it is");
                (Box::new(TcpStream::connect(host).with_context(next)?), host)
            }
            (None, Some(path)) => {
                let stream =
                    UnixStream::connect(path).with_context(|| format!("no status page answers at {path}"))?;
                (Box::new(stream), "localhost")
            }
            (None, None) => {
                bail!("`{from}` is no page: write http://HOST:PORT, unix:PATH, or - for standard input")
            }
        };
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    // Of version 1.0, so that the answer comes as it is and not in chunks.
    write!(stream, "GET /events HTTP/1.0\r\nHost: {host}\r\n{token}\r\n")?;
    let read: Box<dyn Read> = Box::new(stream);
    let mut reader = BufReader::new(read);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    if status.split(' ').nth(1) != Some("200") {
        let mut said = String::new();
        reader.read_to_string(&mut said)?;
        bail!("{from} says {}: {}", status.trim(), said.lines().last().unwrap_or_default());
    }
    Ok(reader)
}

/// What is known of a daemon.
#[derive(Default)]
struct View {
    title: String,
    labels: Vec<String>,
    scores: Vec<f32>,
    at_ms: u64,
    holds: Option<(String, f64)>,
    run: serde_json::Value,
    /// Events and reasons, the newest last.
    said: VecDeque<String>,
}

impl View {
    /// A line that is not known is passed over.
    fn take(&mut self, text: &str) {
        match serde_json::from_str::<Line>(text) {
            Ok(Line::Hello(hello)) => {
                self.title =
                    format!("{}  {}  {}  {}", hello.device, hello.software, hello.bundle, hello.purpose);
                self.labels = hello.labels;
            }
            Ok(Line::Scores(scores)) => (self.scores, self.at_ms) = (scores.smoothed, scores.at_ms),
            Ok(Line::Event(event)) => {
                let holds = matches!(event.event.as_str(), "begin" | "change");
                let name = event.label.clone().unwrap_or_else(|| "unknown".into());
                self.holds = holds.then(|| (name.clone(), event.confidence));
                let cause = event.cause.map(|cause| format!("  {cause}")).unwrap_or_default();
                let at_s = event.at_ms as f64 / 1_000.0;
                self.say(format!(
                    "{at_s:>9.1}s {:<8}{name:<14}{:>5.2}{cause}",
                    event.event, event.confidence
                ));
            }
            Ok(Line::Reason(Reason { text, at_ms, grounds, .. })) => {
                let grounds = grounds.map(|grounds| format!("  {}", grounds.text())).unwrap_or_default();
                self.say(format!("{:>9.1}s reason  {text}{grounds}", at_ms as f64 / 1_000.0));
            }
            Ok(Line::Heartbeat(_)) => self.run = serde_json::from_str(text).unwrap_or_default(),
            Ok(Line::People(People { at_ms, count, .. })) => {
                self.say(format!("{:>9.1}s people  {count}", at_ms as f64 / 1_000.0));
            }
            Ok(Line::Faces(faces)) => {
                self.say(format!("{:>9.1}s faces   {}", faces.at_ms as f64 / 1_000.0, faces.text()));
            }
            Ok(Line::Second(second)) => {
                self.say(format!("{:>9.1}s second  {}", second.at_ms as f64 / 1_000.0, second.text()));
            }
            Ok(Line::State(_) | Line::Grounds(_)) => {}
            Err(_) => {
                if let Ok(run) = serde_json::from_str::<serde_json::Value>(text)
                    && run["type"] == "run"
                {
                    self.run = run;
                }
            }
        }
    }

    fn say(&mut self, line: String) {
        if self.said.len() == LINES {
            self.said.pop_front();
        }
        self.said.push_back(line);
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let title = if self.title.is_empty() { "no hello yet" } else { &self.title };
        let _ = writeln!(out, "{title}");
        let number = |name: &str| self.run[name].as_u64().unwrap_or(0);
        let word = |name: &str| self.run[name].as_str().unwrap_or("-").to_owned();
        if !self.run.is_null() {
            let muted = if self.run["muted"] == true { "  MUTED" } else { "" };
            let memory = match number("resident_bytes") {
                0 => String::new(),
                bytes => format!("  {:.1} MB", bytes as f64 / 1e6),
            };
            let _ = writeln!(
                out,
                "up {} s  windows {}  late {}  dropped {}  model {} ms  video {}  audio {}{memory}{muted}",
                number("uptime_ms") / 1_000,
                number("windows"),
                number("late"),
                number("dropped"),
                number("infer_ms"),
                word("video"),
                word("audio"),
            );
        }
        let _ = writeln!(out);
        for (label, &score) in self.labels.iter().zip(&self.scores) {
            let full = (score.clamp(0.0, 1.0) * BAR as f32).round() as usize;
            let holds = self.holds.as_ref().is_some_and(|(name, _)| name == label);
            let mark = if holds { '>' } else { ' ' };
            let _ =
                writeln!(out, "{mark} {label:<14}{}{} {score:.2}", "#".repeat(full), ".".repeat(BAR - full));
        }
        let _ = writeln!(out);
        for line in &self.said {
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_this_picture() {
        let mut view = View::default();
        for line in [
            r#"{"type":"scores","at_ms":2000,"present":["video"],"plain":[0.5,0.5],"smoothed":[0.25,0.75]}"#,
            r#"{"type":"event","event":"begin","seq":0,"episode":0,"label":"happy","confidence":0.75,"track":0,"at_ms":2000,"begin_ms":2000,"window_ms":1000,"present":["video"],"age_ms":0}"#,
            r#"{"type":"reason","episode":0,"at_ms":2000,"text":"Bright."}"#,
            r#"{"type":"run","uptime_ms":9000,"windows":7,"late":1,"dropped":2,"infer_ms":31,"video":"ok","audio":"absent","muted":true,"resident_bytes":12000000}"#,
            "nonsense",
        ] {
            view.take(line);
        }
        view.labels = vec!["sad".into(), "happy".into()];
        let text = view.text();
        let wanted = [
            "no hello yet",
            "up 9 s  windows 7  late 1  dropped 2  model 31 ms  video ok  audio absent  12.0 MB  MUTED",
            "",
            "  sad           ##########.............................. 0.25",
            "> happy         ##############################.......... 0.75",
            "",
            "      2.0s begin   happy          0.75",
            "      2.0s reason  Bright.",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }
}
