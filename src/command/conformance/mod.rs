//! `mien conformance`: good and bad messages for a receiver of one's own, and what it made of them.
//!
//! The receiver says of each message that it accepts which one it was, on the way that the message came; of what it rejects it says
//! nothing. Its answers are in `serial`, `mqtt` and `can`.

#[cfg(feature = "can")]
mod can;
mod messages;
#[cfg(feature = "mqtt")]
mod mqtt;
mod serial;
mod step;

use super::broker::Secrets;
use anyhow::{Result, bail};
use std::time::Duration;

/// Play good and bad messages at a receiver of your own, and report what it accepts.
///
/// On a serial line the receiver answers with a line of text for each packet that it accepts: SEQ, a space, and hello, event,
/// heartbeat, reason, grounds, people, faces or second, as board/firmware/example.c does. At a broker it publishes to PREFIX/accepted, and on a
/// CAN bus it sends a frame under the answer id; board/clients/README.md says what.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A tty at whose other end the receiver is, mqtt://[USER@]HOST[:PORT]/PREFIX (mqtts:// for TLS), or can://INTERFACE.
    to: String,
    #[arg(long, default_value_t = 115_200)]
    baud: u32,
    /// Id of the first frame on the CAN bus; the second has the next, and answers the one after.
    #[arg(long, default_value_t = 0x5e0)]
    can_id: u32,
    #[command(flatten)]
    secrets: Secrets,
    /// Milliseconds that the receiver may take to answer a step.
    #[arg(long, default_value_t = 500)]
    wait_ms: u64,
}

pub fn run(args: Args) -> Result<()> {
    let wait = Duration::from_millis(args.wait_ms);
    match args.to.split_once("://") {
        None => serial::run(args.to.as_ref(), args.baud, wait),
        #[cfg(feature = "can")]
        Some(("can", interface)) => can::run(interface, args.can_id, wait),
        #[cfg(feature = "mqtt")]
        Some((scheme @ ("mqtt" | "mqtts"), rest)) => mqtt::run(&args.secrets.settings(scheme, rest)?, wait),
        Some((scheme, _)) => {
            bail!("{scheme}:// is not known, or not built in: a tty, mqtt://, mqtts:// or can://")
        }
    }
}
