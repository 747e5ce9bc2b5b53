//! What the page shows: the last hour of events, reasons and scores, and the newest counts of the run.

use super::metrics;
use crate::{
    machine,
    sink::{Message, Snapshot, Speaker, WindowScores, json::Line},
    wire::Health,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Of history; the oldest goes first.
pub const HISTORY_BYTES_MAX: usize = 2 << 20;
/// Between two lines with the counts of the run.
const RUN_STEP: Duration = Duration::from_secs(1);
/// Windows that are missing for so many hops are a stall.
const STALL_HOPS: u32 = 5;

/// Takes one line for a reader; false when the reader is gone or too slow.
pub type Reader = Box<dyn FnMut(&str) -> bool + Send>;

pub struct Shown {
    speaker: Arc<Speaker>,
    history_ms: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    history: VecDeque<(u64, String)>,
    bytes: usize,
    run: Option<Snapshot>,
    scores: Option<WindowScores>,
    readers: Vec<Reader>,
    /// When the counts were shown last.
    told: Instant,
    /// When the last window was scored, or the run began.
    scored: Instant,
}

impl Shown {
    pub fn new(speaker: &Arc<Speaker>, history_s: u32) -> Shown {
        let now = Instant::now();
        let inner = Inner {
            history: VecDeque::new(),
            bytes: 0,
            run: None,
            scores: None,
            readers: Vec::new(),
            told: now,
            scored: now,
        };
        Shown {
            speaker: Arc::clone(speaker),
            history_ms: u64::from(history_s) * 1000,
            inner: Mutex::new(inner),
        }
    }

    /// Keeps and shows a message; heartbeats are in the counts of the run.
    pub fn tell(&self, message: &Message) {
        let at_ms = match message {
            Message::Heartbeat(_) => return,
            Message::Scores(scores) if scores.labels == 0 => return,
            Message::Event(event) => event.at_ms,
            Message::Reason(reason) => reason.at_ms,
            Message::People(people) => people.at_ms,
            Message::Faces(faces) => faces.at_ms,
            Message::Second(second) => second.at_ms,
            Message::Scores(scores) => scores.at_ms,
        };
        let text = Line::of(message, &self.speaker).text();
        let mut inner = self.lock();
        if let Message::Scores(scores) = message {
            inner.scores = Some(*scores);
            inner.scored = Instant::now();
        }
        inner.show(&text);
        inner.keep(at_ms, text, self.history_ms);
    }

    pub fn watch(&self, run: Snapshot) {
        let mut inner = self.lock();
        if inner.told.elapsed() >= RUN_STEP && !inner.readers.is_empty() {
            inner.told = Instant::now();
            let text = run_line(&run);
            inner.show(&text);
        }
        inner.run = Some(run);
    }

    /// Adds a reader, who first gets the hello, the history and the counts.
    pub fn add(&self, mut reader: Reader) {
        let mut inner = self.lock();
        let mut text = format!("data: {}\n\n", Line::hello(&self.speaker).text());
        for (_, line) in &inner.history {
            text.push_str(&format!("data: {line}\n\n"));
        }
        if let Some(run) = &inner.run {
            text.push_str(&format!("data: {}\n\n", run_line(run)));
        }
        if reader(&text) {
            inner.readers.push(reader);
        }
    }

    pub fn metrics(&self) -> String {
        let inner = self.lock();
        metrics::text(&self.speaker, inner.run.as_ref(), inner.scores.as_ref())
    }

    /// Whether windows come; and one line that says so.
    pub fn health(&self) -> (bool, String) {
        let inner = self.lock();
        let hop = Duration::from_millis(u64::from(self.speaker.hop_ms.max(200)));
        let silent = inner.scored.elapsed();
        let beat = inner.run.as_ref().map(|run| run.heartbeat);
        let muted = beat.is_some_and(|beat| beat.muted != 0);
        let ended = beat.is_some_and(|beat| [beat.video, beat.audio].contains(&Health::Ended));
        let well = muted || ended || silent < hop * STALL_HOPS + Duration::from_secs(2);
        let text = format!("{{\"ok\":{well},\"muted\":{muted},\"silent_ms\":{}}}\n", silent.as_millis());
        (well, text)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts of the run as the page reads them.
fn run_line(run: &Snapshot) -> String {
    let beat = &run.heartbeat;
    let sources: Vec<_> = run
        .sources
        .iter()
        .map(|(name, of)| {
            serde_json::json!({"name": name, "readings": of.readings, "gaps": of.gaps, "broken": of.broken, "losses": of.losses})
        })
        .collect();
    let sinks: Vec<_> = run
        .sinks
        .iter()
        .map(|(name, of)| {
            serde_json::json!({"name": name, "sent": of.sent, "dropped": of.dropped, "losses": of.losses, "waiting": of.waiting})
        })
        .collect();
    let stages: Vec<_> = run
        .stages
        .iter()
        .map(
            |(name, took)| serde_json::json!({"name": name, "ms": (took.as_secs_f64() * 1e4).round() / 10.0}),
        )
        .collect();
    let resident = machine::resident();
    serde_json::json!({
        "type": "run", "uptime_ms": beat.uptime_ms, "windows": beat.windows, "late": beat.late, "events": beat.events,
        "dropped": beat.dropped, "queue_drops": run.queue_drops, "infer_ms": beat.infer_ms,
        "busy_ms": run.busy.as_millis() as u64, "video": beat.video.name(), "audio": beat.audio.name(),
        "muted": beat.muted != 0, "resident_bytes": resident.own + resident.files, "stages": stages, "sources": sources, "sinks": sinks,
    })
    .to_string()
}

impl Inner {
    fn show(&mut self, line: &str) {
        if !self.readers.is_empty() {
            let text = format!("data: {line}\n\n");
            self.readers.retain_mut(|reader| reader(&text));
        }
    }

    fn keep(&mut self, at_ms: u64, line: String, history_ms: u64) {
        self.bytes += line.len();
        self.history.push_back((at_ms, line));
        while let Some((oldest_ms, line)) = self.history.front()
            && (self.bytes > HISTORY_BYTES_MAX || oldest_ms + history_ms < at_ms)
        {
            self.bytes -= line.len();
            self.history.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn scores(at_ms: u64) -> Message {
        let all = [0.125; crate::wire::LABELS_MAX];
        Message::Scores(WindowScores {
            at_ms,
            expected: 1,
            present: 1,
            nobody: false,
            labels: 3,
            plain: all,
            smoothed: all,
        })
    }

    fn shown(history_s: u32) -> Shown {
        let labels = ["a", "b", "c"].map(String::from).to_vec();
        Shown::new(&Arc::new(Speaker { labels, hop_ms: 1000, ..metrics::tests::speaker() }), history_s)
    }

    #[test]
    fn history_is_bounded_in_time_and_bytes() {
        let short = shown(60);
        (0..200).for_each(|second| short.tell(&scores(second * 1000)));
        assert_eq!(short.lock().history.len(), 61);
        let long = shown(86_400);
        (0..40_000).for_each(|second| long.tell(&scores(second * 1000)));
        let inner = long.lock();
        assert!(inner.bytes <= HISTORY_BYTES_MAX && inner.history.len() > 5_000, "{}", inner.history.len());
        assert_eq!(inner.bytes, inner.history.iter().map(|(_, line)| line.len()).sum::<usize>());
    }

    #[test]
    fn a_reader_gets_the_past_then_what_comes_and_is_forgotten_when_gone() {
        let shown = shown(3_600);
        shown.tell(&scores(1000));
        let (send, lines) = mpsc::channel();
        shown.add(Box::new(move |text| send.send(text.to_string()).is_ok()));
        let past = lines.recv().unwrap();
        assert!(past.starts_with("data: {\"type\":\"hello\"") && past.contains("\"at_ms\":1000"), "{past}");
        shown.tell(&scores(2000));
        assert!(lines.recv().unwrap().contains("\"at_ms\":2000"));
        drop(lines);
        shown.tell(&scores(3000));
        assert!(shown.lock().readers.is_empty());
    }
}
