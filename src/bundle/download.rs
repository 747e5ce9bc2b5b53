//! What stands in a file's place where a download went wrong, told by its first bytes.

use anyhow::{Result, bail};

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses a Git LFS pointer and a web page, whatever the file should be.
pub fn check(start: &[u8]) -> Result<()> {
    if start.starts_with(LFS) {
        bail!("this is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder");
    }
    let text = start.trim_ascii_start();
    let page = |tag: &[u8]| text.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag));
    if page(b"<!doctype html") || page(b"<html") {
        bail!("this is a web page, not the file itself: download the file behind it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_pages_are_told_from_files() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(check(pointer).unwrap_err().to_string().contains("git lfs pull"));
        for page in [&b"<!DOCTYPE html>\n<html>"[..], b"\n  <html lang=en>"] {
            assert!(check(page).unwrap_err().to_string().contains("web page"));
        }
        for file in [&b"GGUF\x03\0\0\0"[..], b"{\"a\": 1}", b"<", b"", b"version 2"] {
            check(file).unwrap();
        }
    }
}
