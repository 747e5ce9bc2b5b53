//! The real program in a test: killed when the test is over, and something tiny for it to play.
#![allow(dead_code)]

use mien::bundle::{
    Kind,
    synthetic::{self, Preset},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::{Child, Command},
    sync::OnceLock,
};
use tempfile::TempDir;

pub fn mien() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mien"))
}

/// A program that does not outlive its test.
pub struct Program(pub Child);

impl Program {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// A row of proc_pid_status(5), in bytes.
    pub fn status_bytes(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let row = status.lines().find_map(|row| row.strip_prefix(name)).unwrap();
        row.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with a tiny bundle (`tiny.gguf`) and 600 pictures (`clip`), made once.
pub fn material() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("tiny.gguf");
        synthetic::write_file(&bundle, Preset::Tiny, 1, Kind::F32, &mut |_| ()).unwrap();
        let clip = folder.path().join("clip");
        fs::create_dir(&clip).unwrap();
        for i in 0..600u32 {
            let picture = image::RgbImage::from_pixel(32, 24, image::Rgb([(i % 250) as u8, 90, 200]));
            picture.save(clip.join(format!("{i:03}.png"))).unwrap();
        }
        folder
    });
    folder.path()
}
