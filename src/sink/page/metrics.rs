//! Counts of a run in Prometheus' text format (version 0.0.4): base units, `_total` for counters, one `# HELP` and `# TYPE` a name.

use crate::{
    machine,
    sink::{Snapshot, Speaker, WindowScores, snapshot::Passed},
    wire::Health,
};
use std::fmt::{Display, Write};

/// The page of one scrape.
pub fn text(speaker: &Speaker, run: Option<&Snapshot>, scores: Option<&WindowScores>) -> String {
    let mut page = Page(String::with_capacity(4096));
    page.about("mien_info", "gauge", "What runs: always 1.");
    let about = [
        ("device", speaker.device.as_str()),
        ("bundle", &speaker.bundle),
        ("purpose", &speaker.purpose),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    page.row("mien_info", &about, 1);
    if let Some(run) = run {
        of_the_run(&mut page, run);
        page.one(
            "mien_hop_seconds",
            "gauge",
            "Time between windows: a longer inference is late.",
            seconds(speaker.hop_ms),
        );
    }
    if let Some(scores) = scores {
        page.about("mien_label_score", "gauge", "Smoothed score of a label in the newest window.");
        for (label, score) in speaker.labels.iter().zip(&scores.smoothed[..scores.labels]) {
            page.row("mien_label_score", &[("label", label)], score);
        }
    }
    let resident = machine::resident();
    let bytes = resident.own + resident.files;
    page.one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", bytes);
    page.0
}

fn of_the_run(page: &mut Page, run: &Snapshot) {
    let beat = &run.heartbeat;
    page.one("mien_uptime_seconds", "gauge", "Since the start of the run.", beat.uptime_ms as f64 / 1000.0);
    page.one("mien_windows_total", "counter", "Windows that were scored.", beat.windows);
    page.one(
        "mien_windows_late_total",
        "counter",
        "Windows that were left out because the model was busy.",
        beat.late,
    );
    page.one("mien_events_total", "counter", "Events of any kind.", beat.events);
    page.one(
        "mien_messages_dropped_total",
        "counter",
        "Messages and readings that were given up.",
        beat.dropped,
    );
    page.one(
        "mien_inference_seconds",
        "gauge",
        "Time of the model in the last window.",
        seconds(beat.infer_ms),
    );
    page.one(
        "mien_busy_seconds",
        "gauge",
        "How long the model works on the window at hand.",
        run.busy.as_secs_f64(),
    );
    page.about("mien_stage_seconds", "gauge", "Time of a stage of the model in the last window.");
    for (stage, took) in &run.stages {
        page.row("mien_stage_seconds", &[("stage", stage)], took.as_secs_f64());
    }
    of_the_gate(page, run.passed);
    of_the_board(page, run);
    if let Some(unlike) = run.unlike {
        page.one(
            "mien_temperature_times",
            "gauge",
            "How many times the bundle's temperature recent windows ask for: above 1.5, this place is unlike the clips of its calibration.",
            unlike,
        );
    }
    page.one("mien_muted", "gauge", "1 while the devices are closed.", beat.muted);
    page.about("mien_modality_health", "gauge", "1 for the state that a modality is in.");
    for (modality, health) in [("video", beat.video), ("audio", beat.audio)] {
        for &state in Health::ALL {
            let row = [("modality", modality), ("state", state.name())];
            page.row("mien_modality_health", &row, u8::from(state == health));
        }
    }
    let source = |page: &mut Page, name, help, count: fn(&crate::source::SourceCounts) -> u64| {
        page.about(name, "counter", help);
        run.sources.iter().for_each(|(of, counts)| page.row(name, &[("source", of)], count(counts)));
    };
    source(page, "mien_source_readings_total", "Frames and chunks of sound.", |of| of.readings);
    source(page, "mien_source_gaps_total", "Readings that the device lost.", |of| of.gaps);
    source(page, "mien_source_broken_total", "Readings that could not be used.", |of| of.broken);
    source(page, "mien_source_losses_total", "Times the device was lost.", |of| of.losses);
    let sink = |page: &mut Page, name, kind, help, count: fn(&crate::sink::SinkCounts) -> u64| {
        page.about(name, kind, help);
        run.sinks.iter().for_each(|(of, counts)| page.row(name, &[("sink", of)], count(counts)));
    };
    sink(page, "mien_sink_sent_total", "counter", "Messages that went out.", |of| of.sent);
    sink(page, "mien_sink_dropped_total", "counter", "Messages that the edge did not take.", |of| of.dropped);
    sink(page, "mien_sink_losses_total", "counter", "Times the edge was lost.", |of| of.losses);
    sink(page, "mien_sink_waiting", "gauge", "Messages that wait for the edge.", |of| of.waiting);
}

fn of_the_gate(page: &mut Page, passed: Passed) {
    let Passed { both, face, voice, nobody, saved } = passed;
    page.about(
        "mien_gate_windows_total",
        "counter",
        "Windows by what the gate let through; zeros without a gate.",
    );
    for (passed, count) in [("both", both), ("face", face), ("voice", voice), ("nobody", nobody)] {
        page.row("mien_gate_windows_total", &[("passed", passed)], count);
    }
    page.one(
        "mien_gate_saved_seconds",
        "gauge",
        "Time of the model that windows without anybody would have taken, at the mean of the others.",
        saved.as_secs_f64(),
    );
}

fn of_the_board(page: &mut Page, run: &Snapshot) {
    let rows = [("working", run.drawn.working_w), ("resting", run.drawn.resting_w)];
    page.about(
        "mien_power_watts",
        "gauge",
        "What the board draws in the mean, by what the model does; absent without a sensor.",
    );
    for (model, watts) in rows.into_iter().filter_map(|(model, watts)| Some((model, watts?))) {
        page.row("mien_power_watts", &[("model", model)], watts);
    }
    if let Some(saved) = run.drawn.work_j(run.passed.saved) {
        page.one(
            "mien_gate_saved_joules",
            "gauge",
            "The same as energy, at what the model's work draws more than rest.",
            saved,
        );
    }
}

fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1000.0
}

struct Page(String);

impl Page {
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn row(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.about(name, kind, help);
        self.row(name, &[], value);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sink::snapshot::Drawn;
    use crate::wire::{Heartbeat, LABELS_MAX};
    use std::time::Duration;

    pub fn speaker() -> Speaker {
        Speaker {
            boot: 7,
            machine: String::new(),
            device: "kiosk \"3\"\n".into(),
            purpose: "research".into(),
            bundle: "b\\c".into(),
            bundle_hash: [0; 8],
            label_set: "dfew".into(),
            labels: vec!["happy".into(), "sad".into()],
            window_ms: 4000,
            hop_ms: 500,
            heartbeat_ms: 1000,
        }
    }

    #[test]
    fn every_row_has_its_help_and_hostile_names_stay_inside_their_quotes() {
        let beat = Heartbeat { windows: 12, infer_ms: 250, video: Health::Stalled, ..Heartbeat::default() };
        let mut run = Snapshot {
            heartbeat: beat,
            sources: heapless::Vec::new(),
            sinks: heapless::Vec::new(),
            queue_drops: 0,
            stages: heapless::Vec::new(),
            passed: Passed { nobody: 5, saved: Duration::from_millis(2500), ..Passed::default() },
            drawn: Drawn { working_w: Some(9.5), resting_w: Some(5.5) },
            unlike: Some(1.25),
            busy: Duration::from_millis(1500),
        };
        run.stages.push(("vision", Duration::from_millis(125))).unwrap();
        run.sinks.push(("mqtt", crate::sink::SinkCounts { sent: 3, ..Default::default() })).unwrap();
        let mut smoothed = [0.0; LABELS_MAX];
        smoothed[1] = 0.75;
        let scores = WindowScores {
            at_ms: 1,
            expected: 3,
            present: 3,
            nobody: false,
            labels: 2,
            plain: smoothed,
            smoothed,
        };
        let text = text(&speaker(), Some(&run), Some(&scores));
        for row in [
            "mien_info{device=\"kiosk \\\"3\\\"\\n\",bundle=\"b\\\\c\",purpose=\"research\",version=",
            "mien_windows_total 12\n",
            "mien_inference_seconds 0.25\n",
            "mien_busy_seconds 1.5\n",
            "mien_stage_seconds{stage=\"vision\"} 0.125\n",
            "mien_hop_seconds 0.5\n",
            "mien_gate_windows_total{passed=\"nobody\"} 5\n",
            "mien_gate_saved_seconds 2.5\n",
            "mien_gate_saved_joules 10\n",
            "mien_power_watts{model=\"working\"} 9.5\n",
            "mien_temperature_times 1.25\n",
            "mien_modality_health{modality=\"video\",state=\"stalled\"} 1\n",
            "mien_modality_health{modality=\"video\",state=\"ok\"} 0\n",
            "mien_sink_sent_total{sink=\"mqtt\"} 3\n",
            "mien_label_score{label=\"sad\"} 0.75\n",
        ] {
            assert!(text.contains(row), "{row} in\n{text}");
        }
        for row in text.lines().filter(|row| !row.starts_with('#')) {
            let name = row.split(['{', ' ']).next().unwrap();
            assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{row}");
        }
    }
}
