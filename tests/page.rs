//! The status page on the real program: who may read it, what it says, and that no reader can hold or stop the daemon.
#![cfg(feature = "page")]

mod program;

use program::{Program, mien};
use rustix::process::Signal;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TOKEN: &str = "0123456789abcdef-Token";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Daemon {
    program: Program,
    folder: TempDir,
    port: u16,
}

/// A recording at the speed of life.
fn clip() -> String {
    format!("[clip]\npath = \"{ROOT}/models/demo/demo.avi\"\npaced = true\n")
}

fn config(page: &str, source: &str) -> String {
    format!(
        "device = \"kiosk\"\n[model]\nbundle = \"{ROOT}/models/default.gguf\"\n[privacy]\npurpose = \"research\"\nconsent = \"standing\"\n\
         {source}[window]\nwindow_ms = 2000\nhop_ms = 500\n\
         [policy]\nenter = 0.3\nexit = 0.2\ndwell_ms = 0\n[sink.page]\n{page}"
    )
}

impl Daemon {
    fn start(page: &str) -> Daemon {
        Daemon::on(page, &clip())
    }

    fn on(page: &str, source: &str) -> Daemon {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let page = page.replace("PORT", &port.to_string());
        fs::write(folder.path().join("site.toml"), config(&page, source)).unwrap();
        let child = mien()
            .arg("run")
            .arg(folder.path().join("site.toml"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let daemon = Daemon { program: Program(child), folder, port };
        daemon.until("it listens", || daemon.log().contains("status page: "));
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }

    /// Status and body of a GET.
    fn get(&self, path: &str, headers: &str) -> (u16, String) {
        ask(
            self.connect(),
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"),
        )
    }

    /// A metric's value.
    fn metric(&self, row: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics", "");
        let value = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }
}

fn ask(mut stream: impl Read + Write, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn top_shows_what_the_page_knows_until_the_daemon_ends() {
    let daemon = Daemon::start("listen = \"127.0.0.1:PORT\"\ntoken_file = \"token\"");
    let top = |more: &[&str]| {
        let page = format!("http://127.0.0.1:{}", daemon.port);
        let top =
            mien().arg("top").arg(page).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        top.unwrap()
    };
    let refused = top(&[]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("401") && said.contains("token"), "{said}");

    let file = daemon.folder.path().join("token");
    let shown = top(&["--token-file", file.to_str().unwrap()]);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    daemon.until("windows are counted", || daemon.get("/metrics", &token).1.contains("mien_windows_total 6"));
    daemon.program.signal(Signal::TERM);
    let shown = String::from_utf8(shown.wait_with_output().unwrap().stdout).unwrap();
    for words in ["kiosk  mien", "windows ", "video ok", "neutral       ", "####", "begin "] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn the_page_its_metrics_and_its_events_are_there_for_this_machine() {
    let daemon = Daemon::start("listen = \"127.0.0.1:PORT\"");
    let (status, page) = daemon.get("/", "");
    assert_eq!(status, 200);
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "the page asks for something outside: {outside}");
    }
    daemon.until("windows are counted", || daemon.metric("mien_windows_total") >= Some(3.0));
    assert_eq!(daemon.metric("mien_modality_health{modality=\"video\",state=\"ok\"}"), Some(1.0));
    assert!(daemon.metric("mien_label_score{label=\"neutral\"}") > Some(0.0));
    assert!(daemon.metric("process_resident_memory_bytes") > Some(1e6));
    assert!(daemon.metric("mien_sink_sent_total{sink=\"page\"}") > Some(0.0));
    assert_eq!(daemon.get("/health", "").0, 200);
    assert_eq!(daemon.get("/nothing", "").0, 404);

    let mut stream = daemon.connect();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let Some(json) = line.strip_prefix("data: ") else { continue };
        let line: serde_json::Value = serde_json::from_str(json).unwrap();
        seen.push(line["type"].as_str().unwrap().to_owned());
        if ["hello", "scores", "event", "run"].iter().all(|kind| seen.iter().any(|of| of == kind)) {
            break;
        }
    }
    assert_eq!(seen[0], "hello");
}

#[test]
fn other_sites_methods_and_tokens_are_refused() {
    let daemon = Daemon::start("listen = \"127.0.0.1:PORT\"");
    let with = |host: &str| {
        ask(daemon.connect(), &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).0
    };
    for host in ["localhost", "LOCALHOST:8787", "127.0.0.1:1", "[::1]:9", "127.1.2.3"] {
        assert_eq!(with(host), 200, "{host}");
    }
    for host in
        ["evil.example", "localhost.evil.example:8787", "192.168.1.4:8787", "", "127.0.0.1.evil.example"]
    {
        assert_eq!(with(host), 403, "{host}");
    }
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(daemon.connect(), post).0, 405);

    let daemon = Daemon::start("listen = \"0.0.0.0:PORT\"\ntoken_file = \"token\"");
    assert_eq!(daemon.get("/", "").0, 401);
    assert_eq!(daemon.get("/events?token=wrong", "").0, 401);
    assert_eq!(daemon.get(&format!("/metrics?token={TOKEN}"), "").0, 200);
    assert_eq!(daemon.get("/health", &format!("Authorization: Bearer {TOKEN}\r\n")).0, 200);
    assert!(!daemon.log().contains(TOKEN));
}

#[test]
fn a_socket_of_the_file_system_serves_too_and_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page");
    let listen = format!("listen = \"unix:{}\"", path.display());
    for _ in 0..2 {
        // The second finds the socket that the first left when it was killed.
        let _daemon = Daemon::start(&listen);
        let stream = UnixStream::connect(&path).unwrap();
        let (status, text) = ask(stream, "GET /metrics HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n");
        assert!(status == 200 && text.contains("mien_info"), "{text}");
    }
}

#[test]
fn readers_that_do_not_read_or_never_ask_hold_nothing() {
    let daemon = Daemon::start("listen = \"127.0.0.1:PORT\"");
    let mut idle = Vec::new();
    for i in 0..60 {
        let mut stream = daemon.connect();
        let request: &[u8] = match i % 3 {
            0 => b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
            1 => b"GET / HT",
            _ => b"\x16\x03\x01\x00\xff garbage \r\n\r\n",
        };
        let _ = stream.write_all(request);
        idle.push(stream);
    }
    let mut huge = daemon.connect();
    let _ = huge.write_all(format!("GET /{} HTTP/1.1\r\n", "a".repeat(1 << 20)).as_bytes());
    // Those who ask for nothing are sent away after five seconds; then there is room again.
    daemon.until("windows go on", || {
        let mut stream = daemon.connect();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.contains("mien_windows_total") && !text.contains("mien_windows_total 0\n")
    });
    daemon.program.signal(Signal::TERM);
    let mut daemon = daemon;
    let start = Instant::now();
    let status = daemon.program.0.wait().unwrap();
    assert!(
        status.success() && start.elapsed() < Duration::from_secs(3),
        "{status:?} after {:?}",
        start.elapsed()
    );
}

#[test]
fn bad_settings_are_refused_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_listen = format!("listen = \"{}\"", taken.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("short"), "abc\n").unwrap();
    fs::write(folder.path().join("file"), "no socket").unwrap();
    let not_a_socket = format!("listen = \"unix:{}\"", folder.path().join("file").display());
    for (page, words) in [
        ("listen = \"0.0.0.0:8787\"", "set sink.page.token_file"),
        ("listen = \"127.0.0.1\"", "has no port"),
        ("listen = \"kiosk:8787\"", "is no address"),
        ("listen = \"unix:page\"", "needs its whole path"),
        ("history_s = 5", "from 60 to 86400"),
        ("token_file = \"missing\"", "sink.page.token_file"),
        ("token_file = \"short\"", "16 or more"),
        ("port = 8787", "unknown key `port`"),
        (&taken_listen, "cannot be listened at"),
        (&not_a_socket, "it is no socket"),
    ] {
        let path: &Path = &folder.path().join("site.toml");
        fs::write(path, config(page, &clip())).unwrap();
        let said = mien().arg("check-config").arg(path).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(78), "{page}: {text}");
        assert!(text.contains(words), "{page}: {text}");
    }
}

/// What the alert rules and the dashboard ask for is there.
#[test]
fn rules_and_dashboard_name_metrics_that_exist() {
    let daemon = Daemon::start("listen = \"127.0.0.1:PORT\"");
    daemon.until("a window is scored", || daemon.metric("mien_label_score{label=\"happy\"}").is_some());
    let (_, metrics) = daemon.get("/metrics", "");
    let mut named = 0;
    for file in ["board/observe/alerts.yml", "board/observe/grafana.json"] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("mien_") || word.starts_with("process_") {
                assert!(metrics.contains(&format!("# TYPE {word} ")), "{file} names {word}");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
    let dashboard = fs::read_to_string(Path::new(ROOT).join("board/observe/grafana.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}

#[test]
fn health_says_when_no_windows_come() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let daemon =
        Daemon::on("listen = \"127.0.0.1:PORT\"", &format!("[pipe]\nvideo = \"{}\"\n", pipe.display()));
    assert_eq!(daemon.get("/health", "").0, 200);
    daemon.until("the silence is said", || daemon.get("/health", "").0 == 503);
    assert!(daemon.get("/health", "").1.contains("\"ok\":false"));
}
