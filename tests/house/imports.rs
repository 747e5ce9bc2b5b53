//! The import graph of `src`: which file uses functions and types of which other file, and where that goes in circles.
//!
//! A path counts wherever it stands, in a `use` or in the middle of an expression, and is followed through `pub use` to the file
//! that defines the item. A `mod` line is no import, nor is a `pub use` of what the file itself does not use; test modules are left out.

use std::collections::{BTreeMap, BTreeSet};

/// File to the files it imports from, each with one path that says so.
pub type Graph = BTreeMap<String, BTreeMap<String, String>>;

type Path = Vec<String>;

struct Module {
    file: String,
    /// Local name to full path; `*` entries are globs.
    uses: Vec<(String, Path, bool)>,
    /// Every path in the code, by its words.
    paths: Vec<Path>,
    /// Every name in the code.
    names: BTreeSet<String>,
}

/// The graph of the files `(name, text)`, whose names start with `src/`.
pub fn graph(files: &[(String, String)]) -> Graph {
    let modules: BTreeMap<Path, Module> = files
        .iter()
        .filter(|(name, _)| name != "src/main.rs")
        .map(|(name, text)| {
            let module = module_of(name);
            let words = words(&without_tests(text));
            let (uses, paths) = read(&words, &module);
            let names = paths.iter().map(|path| path[0].clone()).collect();
            let paths = paths.into_iter().filter(|path| path.len() > 1).collect();
            (module, Module { file: name.clone(), uses, paths, names })
        })
        .collect();
    let mut graph = Graph::new();
    for (at, module) in &modules {
        let edges = graph.entry(module.file.clone()).or_default();
        let used = module.uses.iter().filter(|(name, _, public)| !public || module.names.contains(name));
        let used = used.map(|(_, path, _)| path.clone());
        let named = module.paths.iter().filter_map(|path| absolute(path, at, module, &modules));
        for path in used.chain(named) {
            let Some(file) = file_of(&path, &modules, 0) else { continue };
            if file != module.file {
                edges.entry(file).or_insert_with(|| path.join("::"));
            }
        }
    }
    graph
}

/// Files that import each other, in rounds: each circle once, with a path for every step.
pub fn circles(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|file| (file, reached(graph, file))).collect();
    let mut told: BTreeSet<&String> = BTreeSet::new();
    for file in graph.keys() {
        if told.contains(file) || !reach[file].contains(file) {
            continue;
        }
        let round: Vec<&String> =
            reach[file].iter().copied().filter(|other| reach[other].contains(file)).collect();
        told.extend(&round);
        let mut lines = String::new();
        for from in &round {
            for (to, path) in graph[*from].iter().filter(|(to, _)| round.contains(to)) {
                lines += &format!("\n    {from} -> {to}  ({path})");
            }
        }
        found.push(format!("a circle of {} files:{lines}", round.len()));
    }
    found
}

fn reached<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&String> = graph[from].keys().collect();
    while let Some(file) = open.pop() {
        if seen.insert(file) {
            open.extend(graph.get(file).into_iter().flat_map(|edges| edges.keys()));
        }
    }
    seen
}

/// `src/a/b.rs` is `a::b`, `src/a/mod.rs` is `a`, `src/lib.rs` the root.
fn module_of(name: &str) -> Path {
    let stem = name.trim_start_matches("src/").trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if stem == "lib" { Path::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// The file that defines the last item of a full path; none for a module and for what is not of this crate.
fn file_of(path: &[String], modules: &BTreeMap<Path, Module>, depth: usize) -> Option<String> {
    assert!(depth < 20, "re-exports without an end: {path:?}");
    let mut at = 0;
    while at < path.len() && modules.contains_key(&path[..=at]) {
        at += 1;
    }
    let item = path.get(at)?;
    let module = modules.get(&path[..at])?;
    if at == 0 {
        return None;
    }
    for (name, target, _) in module.uses.iter().filter(|(_, _, public)| *public) {
        let mut followed = target.clone();
        if name == "*" {
            followed.push(item.clone());
            followed.extend_from_slice(&path[at + 1..]);
            if defines(&followed, modules) {
                return file_of(&followed, modules, depth + 1);
            }
        } else if name == item {
            followed.extend_from_slice(&path[at + 1..]);
            return file_of(&followed, modules, depth + 1);
        }
    }
    Some(module.file.clone())
}

fn defines(path: &[String], modules: &BTreeMap<Path, Module>) -> bool {
    modules.contains_key(&path[..path.len() - 1])
}

/// A path as it stands in a module, from the root of the crate.
fn absolute(
    path: &[String],
    at: &[String],
    module: &Module,
    modules: &BTreeMap<Path, Module>,
) -> Option<Path> {
    if let Some(path) = rooted(path, at) {
        return Some(path);
    }
    let child = [at, &path[..1]].concat();
    if modules.contains_key(&child) {
        return Some([at, path].concat());
    }
    let (_, target, _) = module.uses.iter().find(|(name, _, _)| *name == path[0])?;
    Some([target, &path[1..]].concat())
}

/// A path that begins with `crate`, `super` or `self`.
fn rooted(path: &[String], at: &[String]) -> Option<Path> {
    match path[0].as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([at, &path[1..]].concat()),
        "super" => {
            let ups = path.iter().take_while(|word| *word == "super").count();
            Some([&at[..at.len().checked_sub(ups)?], &path[ups..]].concat())
        }
        _ => None,
    }
}

/// The `use` leaves and the paths of a file; a single name is a path too.
fn read(words: &[String], at: &[String]) -> (Vec<(String, Path, bool)>, Vec<Path>) {
    let (mut uses, mut paths) = (Vec::new(), Vec::new());
    let mut i = 0;
    while i < words.len() {
        if words[i] == "use" {
            let public = i > 0 && (words[i - 1] == "pub" || words[i - 1] == ")");
            let end = i + words[i..].iter().position(|word| word == ";").expect("a `use` ends");
            leaves(&words[i + 1..end], &Path::new(), &mut |name, path| {
                let own = rooted(&path, at).or_else(|| Some([at, &path].concat()));
                uses.extend(own.map(|path| (name, path, public)));
            });
            i = end + 1;
            continue;
        }
        let mut path = vec![words[i].clone()];
        while is_name(&words[i])
            && words.get(i + 1).is_some_and(|w| w == "::")
            && words.get(i + 2).is_some_and(|w| is_name(w))
        {
            path.push(words[i + 2].clone());
            i += 2;
        }
        paths.push(path);
        i += 1;
    }
    (uses, paths)
}

/// `a::{b, c as d, e::*}` leaf by leaf: the local name and the path.
fn leaves(words: &[String], before: &Path, leaf: &mut dyn FnMut(String, Path)) {
    let mut path = before.clone();
    let mut i = 0;
    while i < words.len() {
        match words[i].as_str() {
            "::" => {}
            "{" => {
                let (mut depth, mut from) = (0, i + 1);
                for (j, word) in words.iter().enumerate().skip(i) {
                    match word.as_str() {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && word == ",") {
                        leaves(&words[from..j], &path, leaf);
                        from = j + 1;
                    }
                    if depth == 0 {
                        return;
                    }
                }
            }
            "as" => return leaf(words[i + 1].clone(), path),
            "*" => return leaf("*".to_owned(), path),
            "self" if !path.is_empty() => {}
            word => path.push(word.to_owned()),
        }
        i += 1;
    }
    if let Some(name) = path.last().cloned().filter(|_| path.len() > before.len() || !words.is_empty()) {
        leaf(name, path);
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single signs; comments, strings and characters are passed over.
pub fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (mut words, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let rest = |offset: usize| chars.get(i + offset).copied().unwrap_or('\0');
        match chars[i] {
            '/' if rest(1) == '/' => {
                i += chars[i..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - i)
            }
            '/' if rest(1) == '*' => {
                let end = (i + 2..chars.len()).find(|j| chars[*j] == '*' && chars.get(j + 1) == Some(&'/'));
                i = end.map_or(chars.len(), |end| end + 2);
            }
            'r' | 'b' | 'c' if string_opens(&chars[i..]).is_some() && !(i > 0 && in_name(chars[i - 1])) => {
                let (open, hashes) = string_opens(&chars[i..]).expect("looked at");
                i = string_ends(&chars, i + open, hashes);
            }
            '"' => i = string_ends(&chars, i + 1, None),
            '\'' if rest(1) == '\\' || rest(2) == '\'' => {
                let from = i + if rest(1) == '\\' { 3 } else { 2 };
                i = (from..chars.len()).find(|j| chars[*j] == '\'').map_or(chars.len(), |end| end + 1);
            }
            c if in_name(c) => {
                let len = chars[i..].iter().take_while(|c| in_name(**c)).count();
                words.push(chars[i..i + len].iter().collect());
                i += len;
            }
            ':' if rest(1) == ':' => {
                words.push("::".to_owned());
                i += 2;
            }
            c => {
                if !c.is_whitespace() {
                    words.push(c.to_string());
                }
                i += 1;
            }
        }
    }
    words
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the text of a prefixed string begins, and the hashes of a raw one.
fn string_opens(chars: &[char]) -> Option<(usize, Option<usize>)> {
    let letters = chars.iter().take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let hashes = chars[letters..].iter().take_while(|c| **c == '#').count();
    let raw = chars[..letters].contains(&'r');
    let opens = letters <= 2 && chars.get(letters + hashes) == Some(&'"') && (raw || hashes == 0);
    opens.then_some((letters + hashes + 1, raw.then_some(hashes)))
}

fn string_ends(chars: &[char], from: usize, hashes: Option<usize>) -> usize {
    let mut i = from;
    while i < chars.len() {
        match (chars[i], hashes) {
            ('\\', None) => i += 2,
            ('"', hashes)
                if chars[i + 1..].iter().take(hashes.unwrap_or(0)).filter(|c| **c == '#').count()
                    == hashes.unwrap_or(0) =>
            {
                return i + 1 + hashes.unwrap_or(0);
            }
            _ => i += 1,
        }
    }
    chars.len()
}

/// Without `#[cfg(test)]` items: up to the end of their braces, or their semicolon.
pub fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (mut kept, mut i) = (String::new(), 0);
    while i < lines.len() {
        if lines[i].trim() == "#[cfg(test)]" {
            let indent = lines[i].len() - lines[i].trim_start().len();
            i += 1;
            let closes = |line: &str| line.trim() == "}" && line.len() - 1 == indent;
            let one_line = |line: &str| line.ends_with(';') && !line.contains('{');
            while i < lines.len() && !(closes(lines[i]) || one_line(lines[i])) {
                i += 1;
            }
        } else {
            kept += lines[i];
            kept.push('\n');
        }
        i += 1;
    }
    kept
}
