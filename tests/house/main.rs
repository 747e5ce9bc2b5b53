//! The rules of the house that a machine can check: order of modules, headers, length, names, where `unsafe` may stand.

mod imports;

use std::{collections::BTreeSet, fs, path::Path, path::PathBuf};

const LINES_MAX: usize = 700;
const BANNED_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "manager", "misc"];
/// The kernels; and, file by file, what the operating system offers in no other way.
const UNSAFE_ROOMS: [&str; 7] = [
    "src/backend/",
    // Mapped files.
    "src/bundle/open.rs",
    "src/bundle/checkpoint.rs",
    // Unions and mapped buffers of V4L2.
    "src/source/v4l2.rs",
    // How much of a line is still to be sent; whether the wall clock is set; whether the CUDA driver can be loaded.
    "src/sink/serial.rs",
    "src/sink/clock.rs",
    "src/command/doctor.rs",
];
const TOP_LEVEL: [&str; 13] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "src",
    "kernels",
    "models",
    "board",
    "tools",
    "tests",
    "target",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).expect("a text file")));
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    rust_files(&root().join("src"))
}

/// The modules of the crate, in the order of `src/lib.rs`.
fn order() -> Vec<String> {
    let map = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    map.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).map(String::from).collect()
}

/// Top-level modules that code names through `crate::`, in a path or in a braced list.
fn named_modules(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.insert(first_word(&item));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        names.insert(first_word(&item));
    }
    names.remove("");
    names
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_module_names_only_modules_above_it() {
    let order = order();
    assert!(order.len() > 5, "src/lib.rs has lost its list of modules: {order:?}");
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let room = name["src/".len()..].split(['/', '.']).next().expect("a first part").to_string();
        let Some(own) = order.iter().position(|m| *m == room) else { continue };
        for used in named_modules(&without_comments(&text)) {
            if order.iter().position(|m| *m == used).is_some_and(|at| at > own) {
                wrong.push(format!("{name} names crate::{used}, which stands below {room} in src/lib.rs"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_check_of_the_order_sees_paths_and_lists() {
    let names = named_modules("use crate::{a::{x, y}, b}; crate::c::d(); use crate::e as f;");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "e"]);
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut wrong = Vec::new();
    for (name, text) in sources().into_iter().chain(rust_files(&root().join("tests"))) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{name} does not open with `//! ` and a sentence"));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!("{name} has {} lines: it asks to be two", text.lines().count()));
        }
        let stem = Path::new(&name).file_stem().expect("a file name").to_string_lossy().into_owned();
        if BANNED_NAMES.contains(&stem.as_str()) {
            wrong.push(format!("{name}: '{stem}' says nothing about what is in it"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Each block has its `// SAFETY:` argument, unless it is the body of an `unsafe fn` in a file that states the contract.
#[test]
fn unsafe_stands_where_it_may_and_with_its_argument() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") || !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            if !UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) {
                wrong.push(format!("{name}:{}: unsafe does not belong here", i + 1));
            }
            let above = &lines[i.saturating_sub(12)..i];
            let body_of_unsafe_fn =
                above.iter().rev().find(|l| l.contains("fn ")).is_some_and(|l| l.contains("unsafe fn "))
                    && above.last().is_some_and(|l| l.trim_end().ends_with('{'));
            let contract =
                body_of_unsafe_fn && (text.contains("# Safety") || text.contains("afety contract"));
            if !contract && !lines[i.saturating_sub(6)..=i].iter().any(|l| l.contains("SAFETY:")) {
                wrong.push(format!("{name}:{}: no `// SAFETY:` argument in the lines above", i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_top_level_stays() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root()).expect("the root") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "not part of the house: {wrong:?}");
}

#[test]
fn no_file_imports_itself_in_a_circle() {
    let graph = imports::graph(&sources());
    assert!(graph.values().map(|edges| edges.len()).sum::<usize>() > 300, "the graph has lost its edges");
    let circles = imports::circles(&graph);
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}
