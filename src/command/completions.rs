//! `mien completions`: what a shell needs to complete commands and options.

use anyhow::Result;
use clap_complete::Shell;

/// Print completions for a shell.
///
/// For bash: mien completions bash > /etc/bash_completion.d/mien
#[derive(clap::Args, Debug)]
pub struct Args {
    shell: Shell,
}

/// `program` is the whole command line of the program.
pub fn run(args: Args, mut program: clap::Command) -> Result<()> {
    clap_complete::generate(args.shell, &mut program, "mien", &mut std::io::stdout());
    Ok(())
}
