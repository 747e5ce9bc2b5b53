//! The `[sink.page]` table.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

const TOKEN_CHARS_MIN: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub enabled: bool,
    /// `ADDRESS:PORT`, or `unix:PATH`.
    pub listen: String,
    /// A file with the token on its first line; needed where others than this machine can reach the page.
    pub token_file: PathBuf,
    /// How far back the page goes.
    pub history_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let listen = "127.0.0.1:8787".into();
        Settings { enabled: true, listen, token_file: PathBuf::new(), history_s: 3_600 }
    }
}

/// Where the page is served.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Settings {
    /// Keys of the table that are paths.
    pub const PATHS: &[&str] = &["token_file"];

    pub fn check(&self) -> Result<()> {
        ensure!(
            (60..=86_400).contains(&self.history_s),
            "sink.page.history_s = {}: from 60 to 86400",
            self.history_s
        );
        if let Some(path) = self.unix() {
            ensure!(
                path.is_absolute(),
                "sink.page.listen = {:?}: a socket needs its whole path",
                self.listen
            );
            return Ok(());
        }
        let address = self.socket()?;
        ensure!(address.port() != 0, "sink.page.listen = {:?}: name a port", self.listen);
        let shut = address.ip().is_loopback() || !self.token_file.as_os_str().is_empty();
        ensure!(
            shut,
            "sink.page.listen = {:?} can be reached by other machines: set sink.page.token_file, or listen at 127.0.0.1",
            self.listen
        );
        Ok(())
    }

    /// For people.
    pub fn address(&self) -> String {
        match self.unix() {
            Some(_) => self.listen.clone(),
            None => format!("http://{}/", self.listen),
        }
    }

    pub fn listen(&self) -> Result<Listener> {
        let cannot = || format!("sink.page.listen = {:?} cannot be listened at", self.listen);
        if let Some(path) = self.unix() {
            remove_stale(path).with_context(cannot)?;
            return Ok(Listener::Unix(UnixListener::bind(path).with_context(cannot)?));
        }
        Ok(Listener::Tcp(TcpListener::bind(self.socket()?).with_context(cannot)?))
    }

    /// Removes the socket that `listen` left in the file system.
    pub fn forget(&self) {
        if let Some(path) = self.unix() {
            let _ = fs::remove_file(path);
        }
    }

    pub fn token(&self) -> Result<Option<String>> {
        if self.token_file.as_os_str().is_empty() {
            return Ok(None);
        }
        let text = fs::read_to_string(&self.token_file)
            .with_context(|| format!("sink.page.token_file = {}", self.token_file.display()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        ensure!(
            token.len() >= TOKEN_CHARS_MIN
                && token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c)),
            "sink.page.token_file = {}: its first line must be {TOKEN_CHARS_MIN} or more of A-Z a-z 0-9 - _ . ~",
            self.token_file.display()
        );
        Ok(Some(token.into()))
    }

    fn unix(&self) -> Option<&Path> {
        self.listen.strip_prefix("unix:").map(Path::new)
    }

    fn socket(&self) -> Result<SocketAddr> {
        let example = "127.0.0.1:8787, [::1]:8787 or unix:/run/mien/page";
        match self.listen.parse() {
            Ok(address) => Ok(address),
            Err(_) if self.listen.parse::<IpAddr>().is_ok() => {
                bail!("sink.page.listen = {:?} has no port: write {example}", self.listen)
            }
            Err(_) => bail!("sink.page.listen = {:?} is no address: write {example}", self.listen),
        }
    }
}

/// Removes a socket that nobody listens at any more.
fn remove_stale(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            ensure!(UnixStream::connect(path).is_err(), "somebody else listens there");
            fs::remove_file(path).context("removing the socket of an earlier run")
        }
        Ok(_) => bail!("there is a file, and it is no socket"),
        Err(_) => Ok(()),
    }
}
