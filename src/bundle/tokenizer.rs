//! The published tokenizer and chat template, as far as packing needs them.
//!
//! Invariant: special tokens are taken out of the tokenizer, so that no text can produce one.

use super::checkpoint::{read_json, read_small};
use super::prompt::{Encode, Template};
use super::vocabulary::{Token, Vocabulary, bytes_of};
use anyhow::{Context, Result, anyhow, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::Tokenizer;

/// Stands for the user's message while the template is rendered; no template holds these characters.
const MESSAGE: &str = "\u{e000}\u{e001}message\u{e001}\u{e000}";
/// Steps a chat template may take.
const TEMPLATE_FUEL: u64 = 100_000;

/// `tokenizer.json` without its special tokens, which stand beside it.
pub struct Published {
    tokenizer: Tokenizer,
    specials: Vec<(String, u32)>,
}

impl Encode for Published {
    fn plain(&self, text: &str) -> Result<Vec<(u32, usize)>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| anyhow!("tokenising `{text}`: {e}"))?;
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(_, end))| (id, end)).collect())
    }

    fn specials(&self) -> &[(String, u32)] {
        &self.specials
    }
}

/// Reads `tokenizer.json` for an embedding of `rows` rows.
pub fn read(folder: &Path, rows: usize) -> Result<(Published, Vocabulary)> {
    let path = folder.join("tokenizer.json");
    let json = read_json(&path)?;
    parse(json, rows).with_context(|| format!("in {}", path.display()))
}

fn parse(mut json: Value, rows: usize) -> Result<(Published, Vocabulary)> {
    ensure!(json["model"]["type"] == "BPE", "the model is {}, but must be \"BPE\"", json["model"]["type"]);
    ensure!(json.to_string().contains("ByteLevel"), "this is no byte-level tokenizer");
    let mut tokens: Vec<Option<Token>> = vec![None; rows];
    let mut place = |id: &Value, token: Token| -> Result<u32> {
        let at = id.as_u64().filter(|&id| id < rows as u64);
        let at =
            at.with_context(|| format!("token {token:?} has the id {id}, but the embedding {rows} rows"))?;
        let slot = &mut tokens[at as usize];
        if let Some(other) = slot {
            ensure!(*other == token, "id {at} stands for {other:?} and for {token:?}");
        }
        *slot = Some(token);
        Ok(at as u32)
    };
    let mut specials = Vec::new();
    for added in json["added_tokens"].as_array().unwrap_or(&Vec::new()) {
        let name = added["content"].as_str().filter(|name| !name.is_empty());
        let name = name.context("an added token has no content")?.to_owned();
        for flag in ["lstrip", "rstrip", "single_word"] {
            ensure!(added[flag] != true, "the added token `{name}` has `{flag}`, which is not supported");
        }
        let token = if added["special"] == true {
            Token::Special(name.clone())
        } else {
            Token::Literal(name.clone())
        };
        specials.push((name, place(&added["id"], token)?));
    }
    let vocab = json["model"]["vocab"].as_object().context("there is no vocabulary")?;
    for (text, id) in vocab {
        if specials.iter().any(|(name, special)| name == text && id == *special) {
            continue;
        }
        place(id, Token::Bytes(bytes_of(text)?))?;
    }
    let vocabulary = Vocabulary::new(tokens.into_iter().map(|t| t.unwrap_or(Token::Unused)).collect());
    json["added_tokens"] = json!([]);
    json["post_processor"] = Value::Null;
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    let bytes = serde_json::to_vec(&json)?;
    let tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| anyhow!("{e}; get the file again"))?;
    Ok((Published { tokenizer, specials }, vocabulary))
}

/// Renders the chat template around one user message. `system` takes the place of the template's own sentence.
pub fn template(folder: &Path, system: Option<&str>, wrapped: bool) -> Result<Template> {
    let (source, path) = source(folder)?;
    render(&source, system, wrapped).with_context(|| format!("in the chat template of {}", path.display()))
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
    environment.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    let user = context! { role => "user", content => MESSAGE };
    let messages = match system {
        Some(system) => vec![context! { role => "system", content => system }, user],
        None => vec![user],
    };
    let text = environment.render_str(
        source,
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
