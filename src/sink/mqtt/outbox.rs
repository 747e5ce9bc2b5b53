//! Messages that wait for a broker, in order, bounded; on disk where there is a folder, so that they survive a crash and a power cut.
//!
//! The file is a journal of JSON lines: `put` adds an entry, `ack` says up to which number the broker has confirmed, `open` is the
//! begin whose end was not put yet. It is written anew when all is confirmed or when it has grown to several times its content. A
//! line that is cut by a power cut ends the journal and is reported.
//!
//! Invariant: an end is put only after its begin, and once.
//! Limits: `max` entries; what is given up for a new one is chosen by [`super::super::backlog`].

use crate::{
    kept::{self, Durable},
    machine,
    sink::{
        backlog::{self, Class},
        ledger::Told,
    },
    wire::{Event, Kind},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
};

/// The journal is written anew when it has this many more lines than entries.
const SLACK: usize = 256;

/// One message: an event, or a reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: u64,
    /// The JSON that is published.
    pub text: String,
    /// The event in it; `None` for a reason.
    pub event: Option<Event>,
    /// The machine's boot whose monotonic clock the event has.
    system_boot: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record {
    Put(Entry),
    Ack(u64),
    Open(Told),
}

pub struct Outbox {
    entries: VecDeque<Entry>,
    max: usize,
    next_id: u64,
    boot: u64,
    system_boot: String,
    /// The last begin that was put and not ended.
    open: Option<Told>,
    journal: Option<Journal>,
    dropped: u64,
}

struct Journal {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    reported: bool,
}

impl Outbox {
    /// `path` empty: in memory alone.
    pub fn open(path: PathBuf, max: usize, boot: u64) -> Outbox {
        let mut outbox = Outbox {
            entries: VecDeque::new(),
            max,
            next_id: 0,
            boot,
            system_boot: machine::system_boot(),
            open: None,
            journal: None,
            dropped: 0,
        };
        if !path.as_os_str().is_empty() {
            outbox.read(&path);
            outbox.journal = Some(Journal { path, file: None, lines: 0, reported: false });
            outbox.rewrite();
        }
        outbox
    }

    /// The begin that was put last and not ended, also by a predecessor.
    pub fn left(&self) -> Option<&Told> {
        self.open.as_ref()
    }

    /// Adds a message. `in_flight` entries at the front are with the broker already and stay.
    pub fn put(&mut self, text: String, event: Option<Event>, in_flight: usize) {
        if let Some(end) = event.filter(|event| event.kind == Kind::End)
            && self.open.as_ref().is_none_or(|open| open.begin.episode != end.episode)
        {
            self.dropped += 1;
            return;
        }
        let mut room = false;
        while self.entries.len() >= self.max {
            let class = |entry: &Entry| {
                entry.event.map_or(Class::Minor, |event| Class::of_event(event.kind, event.episode))
            };
            backlog::make_room(&mut self.entries, in_flight, class, |_| self.dropped += 1);
            room = true;
        }
        let entry = Entry { id: self.next_id, text, event, system_boot: self.system_boot.clone() };
        self.next_id += 1;
        self.note(&entry);
        if !room {
            self.append(&Record::Put(entry.clone()), Durable::Power);
        }
        self.entries.push_back(entry);
        if room {
            self.rewrite();
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// The broker has confirmed the entry at the front.
    pub fn confirm(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        if self.entries.is_empty() {
            self.rewrite();
        } else {
            self.append(&Record::Ack(entry.id), Durable::Process);
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Nothing more is kept for a successor.
    pub fn in_memory(&self) -> bool {
        self.journal.is_none()
    }

    fn read(&mut self, path: &PathBuf) {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return kept::set_aside(path, &error),
        };
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Record::Put(entry)) => {
                    self.next_id = self.next_id.max(entry.id + 1);
                    self.note(&entry);
                    self.entries.push_back(entry);
                }
                Ok(Record::Ack(id)) => {
                    self.next_id = self.next_id.max(id + 1);
                    while self.entries.front().is_some_and(|entry| entry.id <= id) {
                        self.entries.pop_front();
                    }
                }
                Ok(Record::Open(told)) => self.open = Some(told),
                Err(error) => {
                    let entries = self.entries.len();
                    kept::set_aside(path, &format!("{error}; {entries} messages before that line are sent"));
                    break;
                }
            }
        }
        let waiting = self.entries.len();
        if waiting > 0 {
            log::info!("{waiting} messages of an earlier run wait for the broker");
        }
    }

    fn note(&mut self, entry: &Entry) {
        match entry.event {
            Some(event) if event.kind == Kind::Begin => {
                self.open = Some(Told::new(self.boot, &entry.system_boot, event))
            }
            Some(event) if event.kind == Kind::End => self.open = None,
            _ => {}
        }
    }

    /// Writes the journal anew with what is still of use.
    fn rewrite(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        let mut text = Vec::new();
        let opened_before =
            self.open.iter().filter(|open| !self.entries.iter().any(|entry| entry.event == Some(open.begin)));
        let records = opened_before
            .map(|told| Record::Open(told.clone()))
            .chain(self.entries.iter().cloned().map(Record::Put));
        for record in records {
            text.extend(serde_json::to_vec(&record).expect("plain fields are JSON"));
            text.push(b'\n');
        }
        journal.lines = self.entries.len();
        journal.file = None;
        let written = kept::replace(&journal.path, &text, Durable::Power);
        let opened = written.and_then(|()| OpenOptions::new().append(true).open(&journal.path));
        match opened {
            Ok(file) => journal.file = Some(file),
            Err(error) => journal.report(&error),
        }
    }

    fn append(&mut self, record: &Record, durable: Durable) {
        let Some(journal) = &mut self.journal else { return };
        if journal.file.is_none() || journal.lines > self.entries.len() + SLACK {
            self.rewrite();
        }
        let Some(journal) = &mut self.journal else { return };
        let Some(file) = &mut journal.file else { return };
        let mut line = serde_json::to_vec(record).expect("plain fields are JSON");
        line.push(b'\n');
        journal.lines += 1;
        let written = file.write_all(&line).and_then(|()| match durable {
            Durable::Power => file.sync_data(),
            Durable::Process => Ok(()),
        });
        if let Err(error) = written {
            journal.file = None;
            journal.report(&error);
        }
    }
}

impl Journal {
    fn report(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.reported, true) {
            log::warn!("{} cannot be written, messages wait in memory alone: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Cause, NO_LABEL};
    use std::path::Path;

    fn event(kind: Kind, episode: u32) -> Event {
        Event {
            seq: episode,
            episode,
            kind,
            label: NO_LABEL,
            confidence_permille: 0,
            track: 0,
            expected: 1,
            present: 1,
            cause: Cause::None,
            at_ms: 5,
            begin_ms: 5,
            window_ms: 1_000,
            wall_ms: 0,
            wall_synced: 0,
            age_ms: 0,
        }
    }

    fn put(outbox: &mut Outbox, kind: Kind, episode: u32) {
        outbox.put(format!("{} {episode}", kind.name()), Some(event(kind, episode)), 0);
    }

    fn texts(outbox: &Outbox) -> Vec<&str> {
        outbox.entries.iter().map(|entry| entry.text.as_str()).collect()
    }

    fn at(folder: &Path) -> Outbox {
        Outbox::open(folder.join("outbox.jsonl"), 16, 7)
    }

    #[test]
    fn what_waits_survives_in_order_and_what_was_confirmed_does_not_return() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = at(folder.path());
        put(&mut outbox, Kind::Begin, 1);
        put(&mut outbox, Kind::End, 1);
        outbox.put("why".into(), None, 0);
        put(&mut outbox, Kind::Begin, 2);
        outbox.confirm();
        let again = at(folder.path());
        assert_eq!(texts(&again), ["end 1", "why", "begin 2"]);
        assert_eq!(again.left().unwrap().begin.episode, 2);
        assert_eq!(again.next_id, 4);
    }

    #[test]
    fn a_begin_that_was_confirmed_is_still_open_for_a_successor() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = at(folder.path());
        put(&mut outbox, Kind::Begin, 1);
        outbox.confirm();
        let mut again = at(folder.path());
        assert!(again.is_empty());
        assert_eq!(again.left().unwrap().begin.episode, 1);
        put(&mut again, Kind::End, 1);
        assert!(again.left().is_none());
        put(&mut again, Kind::End, 1);
        assert_eq!((texts(&again), again.dropped()), (vec!["end 1"], 1));
        assert!(at(folder.path()).left().is_none());
    }

    #[test]
    fn every_cut_of_the_journal_gives_a_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = at(folder.path());
        for episode in 0..4 {
            put(&mut outbox, Kind::Begin, episode);
            put(&mut outbox, Kind::End, episode);
        }
        let path = folder.path().join("outbox.jsonl");
        let whole = fs::read(&path).unwrap();
        let all: Vec<String> = texts(&outbox).into_iter().map(String::from).collect();
        drop(outbox);
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let cut = at(folder.path());
            let lines = whole[..len].iter().filter(|byte| **byte == b'\n').count();
            assert!(cut.len() == lines || cut.len() == lines + 1, "{len} bytes gave {}", cut.len());
            assert_eq!(texts(&cut), all[..cut.len()]);
        }
    }

    #[test]
    fn it_is_bounded_and_keeps_the_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = at(folder.path());
        put(&mut outbox, Kind::Begin, 0);
        outbox.confirm();
        put(&mut outbox, Kind::End, 0);
        for episode in 1..40 {
            put(&mut outbox, Kind::Unknown, 100 + episode);
            put(&mut outbox, Kind::Begin, episode);
            put(&mut outbox, Kind::Change, episode);
            put(&mut outbox, Kind::End, episode);
        }
        assert!(outbox.len() <= 16);
        assert_eq!(outbox.len() as u64 + outbox.dropped(), 1 + 39 * 4);
        let kinds = |kind: Kind| {
            let of = outbox.entries.iter().filter_map(|entry| entry.event).filter(|e| e.kind == kind);
            of.map(|event| event.episode).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Kind::End)[0], 0, "the end that is owed stays");
        assert_eq!(kinds(Kind::End)[1..], kinds(Kind::Begin));
        assert_eq!(kinds(Kind::Begin).last(), Some(&39));
        assert_eq!(texts(&at(folder.path())), texts(&outbox));
    }

    #[test]
    fn the_journal_does_not_grow_with_what_was_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = at(folder.path());
        put(&mut outbox, Kind::Begin, 0);
        for _ in 0..2_000 {
            outbox.put("why".into(), None, 0);
            outbox.put("why".into(), None, 0);
            outbox.confirm();
            outbox.confirm();
        }
        let len = fs::metadata(folder.path().join("outbox.jsonl")).unwrap().len();
        assert!(len < 100_000, "{len} bytes");
    }

    #[test]
    fn without_a_disk_messages_wait_in_memory() {
        let mut outbox = Outbox::open("/nowhere/at/all/outbox.jsonl".into(), 16, 7);
        put(&mut outbox, Kind::Begin, 1);
        assert_eq!(texts(&outbox), ["begin 1"]);
    }
}
