//! A broker as a user names it on the command line: an address, and files that hold what is secret.

#[cfg(feature = "mqtt")]
use crate::sink::mqtt::Settings;
#[cfg(feature = "mqtt")]
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Secrets {
    /// Password for the broker: a file with it on its first line.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Certificate authority of the broker (PEM).
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Our certificate and key for the broker (PEM).
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

#[cfg(feature = "mqtt")]
impl Secrets {
    /// The broker at `[USER@]HOST[:PORT][/PREFIX]`, with these; the prefix is empty where the address has none.
    pub fn settings(&self, scheme: &str, rest: &str) -> Result<Settings> {
        let Address { tls, user, host, port, prefix } = Address::of(scheme, rest)?;
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        let settings = Settings {
            host,
            port,
            prefix: prefix.into(),
            user,
            password_file: path(&self.password_file),
            tls,
            ca: path(&self.ca),
            client_cert: path(&self.cert),
            client_key: path(&self.key),
            ..Settings::default()
        };
        settings.check()?;
        Ok(settings)
    }
}

/// What may be a password is never repeated in an error.
#[cfg(feature = "mqtt")]
#[derive(Debug, PartialEq)]
struct Address<'a> {
    tls: bool,
    user: String,
    host: String,
    /// 0: the usual one.
    port: u16,
    prefix: &'a str,
}

#[cfg(feature = "mqtt")]
impl Address<'_> {
    fn of<'a>(scheme: &str, rest: &'a str) -> Result<Address<'a>> {
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            other => bail!("{other}:// is not known: mqtt:// or mqtts://"),
        };
        let (place, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = place.rsplit_once('@').unwrap_or(("", place));
        ensure!(
            !user.contains(':'),
            "the address holds a password, which every user of this machine could read: leave it out, and name a file with it by \
             --password-file"
        );
        let bare = place.strip_prefix('[').and_then(|inner| inner.split_once(']'));
        let (host, port) = match bare {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
            None if place.matches(':').count() > 1 => (place, ""),
            None => place.split_once(':').unwrap_or((place, "")),
        };
        ensure!(!host.is_empty(), "the address names no host: {scheme}://HOST/PREFIX");
        let port = match port {
            "" => 0,
            port => {
                port.parse().ok().context("what follows the host's colon is no port: a number up to 65535")?
            }
        };
        let user = unescaped(user).context("the user of the address is not percent-encoded UTF-8")?;
        Ok(Address { tls, user, host: host.to_owned(), port, prefix: prefix.trim_matches('/') })
    }
}

/// `%40` as `@`.
#[cfg(feature = "mqtt")]
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, more) {
            (b'%', [high, low, more @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = more;
            }
            (b'%', _) => return None,
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(all(test, feature = "mqtt"))]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_parts() {
        let of = |rest| Address::of("mqtt", rest).unwrap();
        let plain = Address { tls: false, user: String::new(), host: "hub".into(), port: 0, prefix: "" };
        assert_eq!(of("hub"), plain);
        assert_eq!(of("hub:1884/a/b/"), Address { port: 1884, prefix: "a/b", ..plain });
        assert_eq!((of("a%40b@hub").user, of("a@b@hub").host), ("a@b".to_owned(), "hub".to_owned()));
        assert_eq!((of("[::1]:1884").host, of("[::1]:1884").port), ("::1".to_owned(), 1884));
        assert_eq!((of("fe80::1/x").host, of("fe80::1/x").prefix), ("fe80::1".to_owned(), "x"));
        assert!(Address::of("mqtts", "hub").unwrap().tls);
    }

    #[test]
    fn a_password_is_refused_and_never_repeated() {
        let error = |rest| format!("{:#}", Address::of("mqtt", rest).unwrap_err());
        for address in
            ["me:hunter2@hub", "me:hunter2@hub:1883/x", ":hunter2@hub", "me:hun/ter2@hub", "me:@hunter2@hub"]
        {
            let said = error(address);
            assert!(!said.contains("ter2") && !said.contains("hun"), "{address}: {said}");
        }
        assert!(error("me:hunter2@hub").contains("--password-file"));
        assert!(error("hub:port").contains("no port") && error("").contains("no host"));
        assert!(error("a%4@hub").contains("percent") && error("a%ff@hub").contains("UTF-8"));
    }
}
