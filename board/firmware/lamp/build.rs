//! Memory of the board, for the linker.

use std::{env, fs, path::PathBuf};

fn main() {
    let memory = match env::var("CARGO_FEATURE_MICROBIT") {
        Ok(_) => {
            "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 256K  RAM : ORIGIN = 0x20000000, LENGTH = 16K }"
        }
        Err(_) => {
            "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 4M  RAM : ORIGIN = 0x20000000, LENGTH = 4M }"
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder"));
    fs::write(out.join("memory.x"), memory).expect("the folder can be written");
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg=-Tlink.x");
    println!("cargo:rerun-if-changed=build.rs");
}
