//! The rules of the house that a machine can check: order of modules, headers, length, names, where `unsafe` may stand, who
//! opens files, starts threads, asks a clock and names a crate. Each rule is shown to catch a planted breach.

mod imports;
mod length;
mod rules;

use std::{collections::BTreeSet, fs, path::Path, path::PathBuf};

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
    assert_kept(&out_of_order(&sources()));
}

fn out_of_order(sources: &[(String, String)]) -> Vec<String> {
    let order = order();
    assert!(order.len() > 5, "src/lib.rs has lost its list of modules: {order:?}");
    let mut wrong = Vec::new();
    for (name, text) in sources {
        let room = name["src/".len()..].split(['/', '.']).next().expect("a first part").to_string();
        let Some(own) = order.iter().position(|m| *m == room) else { continue };
        for used in named_modules(&without_comments(text)) {
            if order.iter().position(|m| *m == used).is_some_and(|at| at > own) {
                wrong.push(format!("{name} names crate::{used}, which stands below {room} in src/lib.rs"));
            }
        }
    }
    wrong
}

#[test]
fn the_check_of_the_order_sees_paths_and_lists() {
    let names = named_modules("use crate::{a::{x, y}, b}; crate::c::d(); use crate::e as f;");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "e"]);
}

#[test]
fn every_file_says_what_it_is_for() {
    assert_kept(&without_header(&sources()));
    assert_kept(&without_header(&rust_files(&root().join("tests"))));
}

fn without_header(sources: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, text) in sources {
        if !text.starts_with("//! ") {
            wrong.push(format!("{name} does not open with `//! ` and a sentence"));
        }
        let stem = Path::new(name).file_stem().expect("a file name").to_string_lossy().into_owned();
        if BANNED_NAMES.contains(&stem.as_str()) {
            wrong.push(format!("{name}: '{stem}' says nothing about what is in it"));
        }
    }
    wrong
}

#[test]
fn unsafe_stands_where_it_may_and_with_its_argument() {
    assert_kept(&unsafe_out_of_place(&sources()));
}

/// Each block has its `// SAFETY:` argument, unless it is the body of an `unsafe fn` in a file that states the contract.
fn unsafe_out_of_place(sources: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, text) in sources {
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
    wrong
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

fn assert_kept(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The sources with `more` at the head of `file`.
fn planted(file: &str, more: &str) -> Vec<(String, String)> {
    let mut sources = sources();
    let (_, text) = sources.iter_mut().find(|(name, _)| name == file).expect("a file of the house");
    text.insert_str(0, more);
    sources
}

/// The names by which code calls the dependencies.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let table: toml::Table = manifest.parse().expect("TOML");
    let names = table["dependencies"].as_table().expect("a table").keys();
    names.map(|name| name.replace('-', "_")).collect()
}

#[test]
fn files_and_functions_stay_short() {
    let mut all = sources();
    all.extend(rust_files(&root().join("tests")));
    assert_kept(&length::too_long(&all));
    let long = format!("fn planted() {{\n{}}}\n", "    work();\n".repeat(length::FUNCTION_LINES_MAX));
    let found = length::too_long(&planted("src/policy.rs", &long));
    assert_eq!(found, ["src/policy.rs: `planted` has 72 lines"]);
    let long = "//\n".repeat(length::FILE_LINES_MAX);
    assert!(length::too_long(&planted("src/policy.rs", &long))[0].contains("it asks to be two"));
}

#[test]
fn powers_are_used_where_they_may_be() {
    assert_kept(&rules::broken_powers(&sources()));
    for rule in &rules::RULES {
        for word in rule.words {
            let found =
                rules::broken_powers(&planted("src/policy.rs", &format!("fn planted() {{ {word}; }}\n")));
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].starts_with(&format!("src/policy.rs {}", rule.power)), "{found:?}");
        }
    }
}

#[test]
fn crates_are_named_where_they_may_be() {
    assert_kept(&rules::broken_crates(&sources(), &dependencies()));
    let found = rules::broken_crates(&planted("src/policy.rs", "use tokio::net;\n"), &dependencies());
    assert_eq!(
        found,
        ["src/policy.rs names the crate tokio, and is not on the list in tests/house/rules.rs"]
    );
    let more: Vec<String> = dependencies().into_iter().chain(["reqwest".into()]).collect();
    assert_eq!(rules::broken_crates(&sources(), &more).len(), 1);
}

#[test]
fn no_command_names_another() {
    assert_kept(&rules::broken_commands(&sources()));
    let found = rules::broken_commands(&planted("src/command/run.rs", "use super::doctor::Args;\n"));
    assert_eq!(found, ["src/command/run.rs names the command doctor"]);
}

#[test]
fn planted_breaches_of_the_older_rules_are_caught() {
    let circle = planted("src/wire/code.rs", "use super::packet::crc;\nuse crate::wire::packet;\n");
    assert!(!imports::circles(&imports::graph(&circle)).is_empty());
    assert!(!out_of_order(&planted("src/wire/code.rs", "use crate::policy;\n")).is_empty());
    assert!(!without_header(&planted("src/wire/code.rs", "use core::fmt;\n")).is_empty());
    let bare = planted("src/policy.rs", "fn planted() { unsafe { work() } }\n");
    assert_eq!(unsafe_out_of_place(&bare).len(), 2);
}

/// `rust-version` is what the strictest dependency asks for, and the README says it.
#[test]
fn the_oldest_rust_is_that_of_the_dependencies() {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--all-features"])
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let version = |text: &str| -> Vec<u32> {
        text.split('.').map(|number| number.parse().expect("a number")).take(2).collect()
    };
    let mut ours = "";
    let mut strictest = (Vec::new(), "");
    for package in metadata["packages"].as_array().expect("packages") {
        let (Some(name), Some(rust)) = (package["name"].as_str(), package["rust_version"].as_str()) else {
            continue;
        };
        if name == "mien" {
            ours = rust;
        } else {
            strictest = strictest.max((version(rust), name));
        }
    }
    assert_eq!(version(ours), strictest.0, "rust-version, and what {} asks for", strictest.1);
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains(&format!("Rust {ours}")), "the README does not name Rust {ours}");
}

/// Buffers and weights of the model, by their types.
fn without_shape(sources: &[(String, String)]) -> Vec<String> {
    let kinds = ["B::Buf", "B::Kept", "B::Cache", "Linear<B>", "Norm<B>"];
    let mut wrong = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| name.starts_with("src/model/")) {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            let Some((_, kind)) = pair[1].split_once(": ") else { continue };
            let is_field =
                pair[1].starts_with("    ") && pair[1].ends_with(',') && !pair[1].contains(['(', '&', '=']);
            let kind = kind.trim_end_matches(',').trim_start_matches("Option<");
            if is_field
                && kinds.iter().any(|k| kind.starts_with(k))
                && !pair[0].trim_start().starts_with("///")
            {
                wrong.push(format!("{name}: no shape above `{}`", pair[1].trim()));
            }
        }
    }
    wrong
}

#[test]
fn every_buffer_and_weight_of_the_model_has_its_shape() {
    assert_kept(&without_shape(&sources()));
    let found =
        without_shape(&planted("src/model/pass.rs", "struct Planted<B: Backend> {\n    a: B::Buf,\n}\n"));
    assert_eq!(found, ["src/model/pass.rs: no shape above `a: B::Buf,`"]);
}
