//! What tells this machine from others: its name, its id, its boots, its board, what it draws; and random numbers.

pub mod board;
pub mod l4t;
pub mod power;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// The host's name, or `mien`.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "mien".into(),
        name => name.into(),
    }
}

/// 16 hexadecimal digits that stay with the machine. They are a hash: machine-id(5) asks not to tell the id itself.
///
/// A machine without an id (a container, an initramfs) is told apart by its name.
pub fn id() -> String {
    let own = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_string())
        .find(|text| !text.is_empty() && text != "uninitialized");
    digits(&["machine", &own.unwrap_or_else(host_name)])
}

/// 16 hexadecimal digits of several texts.
pub fn digits(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"mien");
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kernel's name for this boot: as long as it stays, so does the monotonic clock. Empty where the kernel gives none.
pub fn system_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

/// Processes of this program other than this one that run its command `command` with the file `path`, as the kernel shows them. A
/// relative path of another user's process is not recognised.
pub fn running_with(command: &str, path: &Path) -> Vec<i32> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|pid| *pid != own);
    let runs = |pid: &String| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|&byte| byte == 0).map(OsStr::from_bytes);
        let program = Path::new(words.next()?).file_name()? == "mien" && words.next()? == command;
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        Some(program && words.any(|word| folder.join(word).canonicalize().is_ok_and(|named| named == path)))
    };
    pids.filter(|pid| runs(pid) == Some(true)).filter_map(|pid| pid.parse().ok()).collect()
}

/// What of this process lies in memory now, in bytes; 0 where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Its own: heap, stacks, anonymous mappings.
    pub own: usize,
    /// Parts of files: the program, libraries, what is mapped.
    pub files: usize,
}

pub fn resident() -> Resident {
    let status = own_status();
    let bytes = |name| size(&status, name).unwrap_or(0);
    Resident { own: bytes("RssAnon:"), files: bytes("RssFile:") }
}

/// The most bytes of this process that ever lay in memory at once.
pub fn resident_bytes_max() -> Option<usize> {
    size(&own_status(), "VmHWM:")
}

/// As in proc_pid_status(5); empty where the kernel gives none.
fn own_status() -> String {
    fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: usize,
    /// What a new program can have: of the machine, and of this process's control group where that has a limit.
    pub free: usize,
}

/// `None` where the kernel does not say.
pub fn memory() -> Option<Memory> {
    let facts = fs::read_to_string("/proc/meminfo").ok()?;
    let free = size(&facts, "MemAvailable:")?;
    Some(Memory { total: size(&facts, "MemTotal:")?, free: free.min(group_free().unwrap_or(free)) })
}

/// What the limit of the control group (version 2) leaves.
fn group_free() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{path}/{file}")).ok();
    let limit: usize = read("memory.max")?.trim().parse().ok()?;
    let used: usize = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

/// A size as the kernel writes it: a name, a number, `kB`.
fn size(facts: &str, name: &str) -> Option<usize> {
    let line = facts.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib * 1024)
}

/// 64 random bits.
pub fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        let facts = "MemTotal:       16384000 kB\nMemFree:  1 kB\nMemAvailable:    8192000 kB\n";
        assert_eq!(size(facts, "MemAvailable:"), Some(8_192_000 * 1024));
        assert_eq!(size(facts, "SwapTotal:"), None);
        let memory = memory().unwrap();
        assert!(memory.free > 0 && memory.free < memory.total);
    }

    #[test]
    fn an_id_stays_and_does_not_tell_the_machines_own() {
        assert_eq!(id(), id());
        assert!(id().len() == 16 && id().chars().all(|c| c.is_ascii_hexdigit()));
        let own = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        assert!(own.trim().is_empty() || !own.contains(&id()));
    }

    #[test]
    fn texts_are_told_apart_by_where_they_end() {
        assert_ne!(digits(&["ab", "c"]), digits(&["a", "bc"]));
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
