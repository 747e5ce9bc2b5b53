//! Where log lines go: to standard error, or to systemd's journal, where `name=value` in a line is a field `MIEN_NAME` too.
//!
//! `RUST_LOG` filters both. Fields are named as systemd.journal-fields(7) asks.

use env_logger::{Builder, Env, Logger};
use log::{Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Takes the log of this process, once.
pub fn install() {
    let stderr = Builder::from_env(Env::default().default_filter_or("info")).build();
    log::set_max_level(stderr.filter());
    let journal = if connected_to_journal() { JournalLog::new().ok() } else { None };
    let logger: Box<dyn Log> = match journal {
        Some(journal) => Box::new(Journal { stderr, journal }),
        None => Box::new(stderr),
    };
    // Somebody who has the log already keeps it.
    let _ = log::set_boxed_logger(logger);
}

struct Journal {
    /// Filters, and takes what the journal does not.
    stderr: Logger,
    journal: JournalLog,
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.stderr.matches(record) {
            return;
        }
        let text = record.args().to_string();
        let fields: Vec<(String, &str)> =
            fields(&text).map(|(name, value)| (format!("mien_{name}"), value)).collect();
        if self.journal.journal_send(&record.to_builder().key_values(&fields).build()).is_err() {
            self.stderr.log(record);
        }
    }

    fn flush(&self) {}
}

/// Each `name=value` of a line; a value in quotes or brackets may hold spaces.
fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices('=').filter_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let rest =
            before.trim_end_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let name = &before[rest.len()..];
        let alone = rest.is_empty() || rest.ends_with(char::is_whitespace);
        let value = match after.chars().next()? {
            '"' => after[1..].split('"').next()?,
            '[' => &after[..=after.find(']')?],
            _ => after.split(char::is_whitespace).next()?.trim_end_matches([':', ';', ',', ')']),
        };
        (alone && name.starts_with(|c: char| c.is_ascii_lowercase()) && !value.is_empty())
            .then_some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_lines_as_they_are() {
        let of = |text| fields(text).collect::<Vec<_>>();
        assert_eq!(
            of("state=ok uptime_s=60 muted=0 clip_gaps=0"),
            [("state", "ok"), ("uptime_s", "60"), ("muted", "0"), ("clip_gaps", "0")]
        );
        assert_eq!(of("device is away, trying again device=camera: gone"), [("device", "camera")]);
        assert_eq!(
            of("backend=cpu cuda=\"no driver here\""),
            [("backend", "cpu"), ("cuda", "no driver here")]
        );
        assert_eq!(of("window at_ms=4 scores=[0.5, 0.5]"), [("at_ms", "4"), ("scores", "[0.5, 0.5]")]);
        assert_eq!(of("grüße=1 A=2 =3 a= b= 4=5 x==y (LimitMEMLOCK=infinity) a=[1"), [("x", "=y")]);
    }
}
