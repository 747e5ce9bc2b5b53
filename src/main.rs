//! Parse, load, run, exit code. One file per command under `src/command/`.
fn main() {}
