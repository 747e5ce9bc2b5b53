//! `mien schema`: the JSON Schema of a config, for editors.

use crate::config::Config;
use anyhow::Result;

/// Print the JSON Schema of a config: editors complete its keys and mark those that are not known.
///
/// With Taplo or VS Code's Even Better TOML: `mien schema > mien.schema.json`, and `#:schema ./mien.schema.json` as the first line of
/// the config.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_: Args) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&schemars::schema_for!(Config))?);
    Ok(())
}
