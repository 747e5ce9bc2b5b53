//! `mien manual`: the man page, from the same texts as `--help`.

use anyhow::{Context, Result};
use clap_mangen::Man;
use std::io::{self, Write};

/// Print the man page, with every command (roff).
///
/// To read it: mien manual | man -l -
#[derive(clap::Args, Debug)]
pub struct Args {}

/// `program` is the whole command line of the program.
pub fn run(_: Args, mut program: clap::Command) -> Result<()> {
    program.build();
    let mut page = Vec::new();
    let man = Man::new(program.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    for command in program.get_subcommands() {
        writeln!(page, ".SH \"MIEN {}\"", command.get_name().to_uppercase())?;
        let man = Man::new(command.clone());
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    writeln!(page, ".SH \"EXIT STATUS\"\n0 fine, 78 bad config or bundle, 1 the rest.")?;
    let text = String::from_utf8(page).context("a man page that is text")?;
    // One page holds them all: no command has a page of its own.
    let text = program.get_subcommands().fold(text, |text, command| {
        let name = command.get_name().replace('-', "\\-");
        text.replace(&format!("mien\\-{name}(1)"), &format!("mien {name}"))
    });
    let (head, commands) = text.split_once(".SH \"MIEN ").unwrap_or((&text, ""));
    let commands = format!(".SH \"MIEN {commands}")
        .replace(".SH DESCRIPTION\n", ".PP\n")
        .replace(".SH OPTIONS\n", ".PP\n");
    io::stdout()
        .write_all(head.as_bytes())
        .and_then(|()| io::stdout().write_all(commands.as_bytes()))
        .context("printing")
}
