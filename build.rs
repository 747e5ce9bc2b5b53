//! With the feature `cuda`: embeds the kernel images that `tools/kernels build` made. Without it: nothing.

use std::{env, fmt::Write, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MIEN_KERNELS");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let folder = env::var("MIEN_KERNELS").unwrap_or_else(|_| format!("{root}/.cache/kernels"));
    println!("cargo:rerun-if-changed={folder}");
    let mut images: Vec<_> = fs::read_dir(&folder)
        .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
        .unwrap_or_default();
    images.retain(|path| path.extension().is_some_and(|e| e == "cubin" || e == "ptx"));
    images.sort();
    if images.is_empty() {
        println!(
            "cargo:error=the feature `cuda` needs compiled kernels, and {folder} has none: run `tools/kernels build` first (no GPU \
             needed), or build without the feature for a CPU-only mien"
        );
        return;
    }
    if let Some(name) = changed(Path::new(&root), Path::new(&folder)) {
        println!(
            "cargo:error=the compiled kernels in {folder} are not those of kernels/{name}: run `tools/kernels build` again"
        );
        return;
    }
    let mut text = String::from("pub const IMAGES: &[Image] = &[\n");
    for path in &images {
        println!("cargo:rerun-if-changed={}", path.display());
        let stem = path.file_stem().expect("it has an extension").to_string_lossy();
        let (binary, arch) = match (stem.strip_prefix("sm_"), stem.strip_prefix("compute_")) {
            (Some(arch), _) => (true, arch),
            (_, Some(arch)) => (false, arch),
            _ => continue,
        };
        writeln!(text, "    Image {{ binary: {binary}, arch: {arch}, bytes: include_bytes!({path:?}) }},")
            .expect("writing to a string");
    }
    text.push_str("];\n");
    let to = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("images.rs");
    fs::write(&to, text).expect("the build folder can be written");
}

/// A kernel source that is not as it was when the images in `folder` were made.
fn changed(root: &Path, folder: &Path) -> Option<String> {
    println!("cargo:rerun-if-changed={}", root.join("kernels").display());
    let sources = fs::read_dir(root.join("kernels")).expect("the folder of the kernels");
    let mut names: Vec<_> = sources.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".cu") || name.ends_with(".cuh"));
    let read = |folder: &Path, name: &str| fs::read(folder.join(name)).ok();
    names.into_iter().find(|name| read(&root.join("kernels"), name) != read(&folder.join("sources"), name))
}
