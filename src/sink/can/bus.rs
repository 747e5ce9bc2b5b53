//! One interface of a CAN bus. The only file that names the crate.

use anyhow::{Context, Result, anyhow};
use socketcan::{
    CanDataFrame, CanFilter, CanFrame, CanRemoteFrame, CanSocket, EmbeddedFrame, ExtendedId, Id, ShouldRetry,
    Socket, SocketOptions, StandardId,
};
use std::{io::ErrorKind, time::Duration};

/// Without an acknowledging node on the bus a frame waits for ever: so long, then it is lost.
const WRITE_WAIT: Duration = Duration::from_millis(20);

/// A classic frame of at most 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub id: u32,
    pub bytes: [u8; 8],
    pub len: usize,
}

/// Ours have an 11-bit id and data; the others are what a receiver has to pass over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Data,
    /// Data under a 29-bit id.
    Extended,
    /// A request for the frame with this 11-bit id.
    Remote,
}

impl Frame {
    pub fn data(id: u32, bytes: [u8; 8]) -> Frame {
        Frame { kind: FrameKind::Data, id, bytes, len: 8 }
    }
}

pub struct Bus {
    socket: CanSocket,
    interface: String,
}

impl Bus {
    /// Of what comes over the bus, frames with the 11-bit id `hears` alone are read, if any.
    pub fn open(interface: &str, hears: Option<u32>) -> Result<Bus> {
        let next = || {
            format!(
                "opening the CAN interface {interface}: `ip link` lists what there is; `ip link set {interface} up type can bitrate 500000` starts one"
            )
        };
        let socket = CanSocket::open(interface).with_context(next)?;
        socket.set_write_timeout(WRITE_WAIT).with_context(next)?;
        socket.set_loopback(true).with_context(next)?;
        match hears {
            Some(id) => socket.set_filters(&[CanFilter::new(id, EXACTLY)]).with_context(next)?,
            None => socket.set_filter_drop_all().with_context(next)?,
        }
        Ok(Bus { socket, interface: interface.to_owned() })
    }

    pub fn put(&self, frame: &Frame) -> Result<()> {
        let Frame { kind, id, bytes, len } = frame;
        let data = &bytes[..*len];
        let made: Option<CanFrame> = match kind {
            FrameKind::Data => standard(*id).and_then(|id| CanDataFrame::new(id, data)).map(Into::into),
            FrameKind::Extended => {
                ExtendedId::new(*id).and_then(|id| CanDataFrame::new(id, data)).map(Into::into)
            }
            FrameKind::Remote => {
                standard(*id).and_then(|id| CanRemoteFrame::new_remote(id, *len)).map(Into::into)
            }
        };
        let made = made.ok_or_else(|| anyhow!("{frame:x?} is no frame of CAN"))?;
        self.socket.write_frame(&made).with_context(|| format!("writing to {}", self.interface))
    }

    /// The bytes of the next frame, or `None` where none comes in time.
    pub fn take(&self, wait: Duration) -> Result<Option<Vec<u8>>> {
        match self.socket.read_frame_timeout(wait) {
            Ok(frame) => Ok(Some(frame.data().to_vec())),
            Err(error) if error.should_retry() || error.kind() == ErrorKind::TimedOut => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading from {}", self.interface)),
        }
    }
}

/// Of a filter: the 11 bits of the id, and those that mark longer ids and requests.
const EXACTLY: u32 = 0x7ff | 1 << 31 | 1 << 30;

fn standard(id: u32) -> Option<Id> {
    Some(Id::Standard(StandardId::new(u16::try_from(id).ok()?)?))
}
