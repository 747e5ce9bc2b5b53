//! The published chat template, rendered once around one user message.
//!
//! Written as transformers reads it: Jinja with Python's methods of texts and lists, and `{% generation %}`, which marks what is
//! trained on and writes nothing.
//! Invariant: the same template makes the same text on any day, so that one that asks for the date is refused.
//! Limits: `TEMPLATE_FUEL` steps.

use super::checkpoint::{read_json, read_small};
use super::prompt::Template;
use anyhow::{Context, Result, anyhow, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::path::Path;

/// Stands for the user's message while the template is rendered; no template holds these characters.
const MESSAGE: &str = "\u{e000}\u{e001}message\u{e001}\u{e000}";
/// Steps a chat template may take.
const TEMPLATE_FUEL: u64 = 100_000;

/// Renders the chat template of a folder. `system` takes the place of the template's own sentence; `specials` are the names and ids of
/// the tokens that it may write between `<|` and `|>`.
pub fn read(
    folder: &Path,
    system: Option<&str>,
    wrapped: bool,
    specials: &[(String, u32)],
) -> Result<Template> {
    let (source, path) = source(folder)?;
    let rendered = render(&source, system, wrapped).and_then(|template| {
        check_markers(&template.before, specials)?;
        check_markers(&template.after, specials)?;
        Ok(template)
    });
    rendered.with_context(|| format!("in the chat template of {}", path.display()))
}

fn source(folder: &Path) -> Result<(String, std::path::PathBuf)> {
    for file in ["chat_template.jinja", "tokenizer_config.json", "chat_template.json"] {
        let path = folder.join(file);
        if !path.exists() {
            continue;
        }
        if file.ends_with(".jinja") {
            let text = String::from_utf8(read_small(&path)?);
            return Ok((text.with_context(|| format!("{} is not UTF-8", path.display()))?, path));
        }
        let json = read_json(&path)?;
        let field = &json["chat_template"];
        let named = || field.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
        if let Some(text) = field.as_str().or_else(named) {
            return Ok((text.to_owned(), path));
        }
    }
    bail!(
        "{} has no chat template (tokenizer_config.json, chat_template.json); get the files again",
        folder.display()
    )
}

fn render(source: &str, system: Option<&str>, wrapped: bool) -> Result<Template> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| anyhow!("{e:#}"))?);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    let refuse = |why: String| Err(Error::new(ErrorKind::InvalidOperation, why));
    environment.add_function("raise_exception", move |why: String| -> Result<String, Error> { refuse(why) });
    environment.add_function("strftime_now", move |_: String| -> Result<String, Error> {
        refuse(
            "it writes today's date (strftime_now), so that one checkpoint would make another bundle every day: write a date, or \
             none, into the template"
                .to_owned(),
        )
    });
    let user = context! { role => "user", content => MESSAGE };
    let messages = match system {
        Some(system) => vec![context! { role => "system", content => system }, user],
        None => vec![user],
    };
    let text = environment.render_str(
        &without_generation(source),
        context! { messages, add_generation_prompt => true, bos_token => "", eos_token => "", tools => () },
    );
    let text = text.map_err(|e| anyhow!("{e:#}"))?;
    let parts: Vec<&str> = text.split(MESSAGE).collect();
    let [before, after] = parts[..] else {
        bail!("it shows the user's message {} times instead of once", parts.len() - 1);
    };
    for tag in ["<video>", "<audio>", "<image>"] {
        ensure!(!text.contains(tag), "it holds {tag}, which stands for a modality");
    }
    Ok(Template { before: before.to_owned(), after: after.to_owned(), wrapped })
}

/// The source with `{% generation %}` as a block that is always taken.
fn without_generation(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some((text, tag, after)) = rest
        .split_once("{%")
        .and_then(|(text, from)| from.split_once("%}").map(|(tag, after)| (text, tag, after)))
    {
        let name = tag.trim_matches(['-', '+']).trim();
        let tag = match name {
            "generation" => tag.replace(name, "if true"),
            "endgeneration" => tag.replace(name, "endif"),
            _ => tag.to_owned(),
        };
        out += &format!("{text}{{%{tag}%}}");
        rest = after;
    }
    out + rest
}

/// Refuses text that looks like a special token and is none: it would be read as ordinary text without a word.
fn check_markers(text: &str, specials: &[(String, u32)]) -> Result<()> {
    for (at, _) in text.match_indices("<|") {
        let rest = &text[at..];
        let Some(len) = rest[2..].find("|>") else { continue };
        let marker = &rest[..2 + len + 2];
        let known = specials.iter().any(|(name, _)| rest.starts_with(name.as_str()));
        ensure!(
            known || len == 0 || marker.contains(char::is_whitespace),
            "it writes `{marker}`, which is no token of tokenizer.json: template and tokenizer are of two models; get both again"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n\
        You help.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}\
        {{ m['content'] }}<|im_end|>\n{% else %}{% for c in m['content'] %}{% endfor %}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    #[test]
    fn the_templates_own_sentence_is_used() {
        let template = render(CHATML, None, true).unwrap();
        assert_eq!(template.before, "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n");
        assert_eq!(template.after, "<|im_end|>\n<|im_start|>assistant\n");
        let template = render(CHATML, Some("Be brief."), true).unwrap();
        assert_eq!(template.before, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n");
    }

    #[test]
    fn what_transformers_offers_is_there() {
        let body = "{{ messages[0].content }}";
        for (source, before) in [
            ("{% set x = ' a b '.strip().split(' ')[-1] %}{{ x }}", "b"),
            ("{{ 'Ab'.upper() + 'Ab'.lower() }}{% if 'abc'.startswith('ab') %}!{% endif %}", "ABab!"),
            ("{{ {'a': 1}.items() | length }}{{ {'a': 1}.get('b', 2) }}", "12"),
            ("{% generation %}x{% endgeneration %}", "x"),
            ("a  {%- generation -%}  x  {%- endgeneration -%}  b", "axb"),
            ("{%generation%}{% if true %}y{% endif %}{%endgeneration%}", "y"),
        ] {
            let template = render(&format!("{source}{body}"), None, true).unwrap();
            assert_eq!(template.before, before, "{source}");
        }
    }

    #[test]
    fn a_template_that_writes_the_date_is_refused() {
        let error = format!(
            "{:#}",
            render("{{ strftime_now('%d') }}{{ messages[0].content }}", None, true).unwrap_err()
        );
        assert!(error.contains("strftime_now") && error.contains("every day"), "{error}");
    }

    #[test]
    fn a_marker_that_is_no_token_is_refused() {
        let specials = [("<|im_start|>".to_owned(), 1)];
        check_markers("<|im_start|>user\n <|>  |> <| a b |>", &specials).unwrap();
        let error = check_markers("<|im_start|>x<|im_end|>", &specials).unwrap_err().to_string();
        assert!(error.contains("`<|im_end|>`") && error.contains("no token"), "{error}");
    }

    #[test]
    fn hostile_templates_end() {
        for (source, said) in [
            ("{% for i in range(100000000) %}{% for j in range(100000000) %}x{% endfor %}{% endfor %}", ""),
            ("{{ messages[0].content }}{{ messages[0].content }}", "2 times"),
            ("nothing", "0 times"),
            ("{% if", ""),
            ("{{ raise_exception('no') }}", "no"),
            ("<video>{{ messages[0].content }}", "<video>"),
        ] {
            let error = format!("{:#}", render(source, None, true).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
