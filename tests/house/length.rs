//! How long files and functions may be.

pub const FILE_LINES_MAX: usize = 600;
pub const FUNCTION_LINES_MAX: usize = 70;
/// Longer functions, and why they stay whole.
const LONG: [(&str, &str, &str); 1] = [("src/eval/report.rs", "of", "one table, row by row")];

/// Functions of `text` with their lines, by the indentation that rustfmt gives their braces.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let Some((before, after)) = code.split_once("fn ") else { continue };
        let words = ["pub", "const", "unsafe", "extern", "\"C\"", "async"];
        let leads = |word: &str| words.contains(&word) || word.starts_with("pub(");
        if !before.split_whitespace().all(leads) {
            continue;
        }
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{indent}}}");
        let body = lines[start..].iter().take_while(|line| **line != end).count() + 1;
        let declared = lines[start..start + body.min(lines.len() - start)].iter().take(12);
        let has_body = declared.take_while(|line| !line.ends_with(';')).any(|line| line.ends_with('{'));
        if has_body && !line.ends_with('}') {
            found.push((name, body));
        }
    }
    found
}

/// Files and functions of `sources` that are too long.
pub fn too_long(sources: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, text) in sources {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{file} has {lines} lines: it asks to be two"));
        }
        for (name, lines) in functions(text) {
            let listed = LONG.iter().any(|(at, of, _)| file == at && name == *of);
            if lines > FUNCTION_LINES_MAX && !listed {
                wrong.push(format!("{file}: `{name}` has {lines} lines"));
            }
        }
        for (_, name, _) in LONG.iter().filter(|(at, ..)| file == at) {
            if !functions(text).iter().any(|(other, lines)| name == other && *lines > FUNCTION_LINES_MAX) {
                wrong.push(format!("{file}: `{name}` is on the list of long functions and is short"));
            }
        }
    }
    wrong
}
