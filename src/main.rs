//! Parse, run, exit code: 0 fine, 78 bad config or bundle, 1 the rest.

use clap::{CommandFactory, Parser, Subcommand};
use mien::bundle::Damaged;
use mien::command::{self, Refused};
use signal_hook::{consts::SIGPIPE, flag};
use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

const EXIT_CODES: &str = "Exit codes: 0 fine, 78 bad config or bundle, 1 the rest.";

#[derive(Parser)]
#[command(name = "mien", version, about, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(command::run::Args),
    Reload(command::reload::Args),
    Replay(command::replay::Args),
    Infer(command::infer::Args),
    Cues(command::cues::Args),
    Watch(command::watch::Args),
    Top(command::top::Args),
    Conformance(command::conformance::Args),
    Doctor(command::doctor::Args),
    CheckConfig(command::check_config::Args),
    Notice(command::notice::Args),
    Update(command::update::Args),
    Health(command::health::Args),
    #[command(hide = true)]
    Slot(command::slot::Args),
    #[cfg(feature = "pack")]
    Pack(command::pack::Args),
    Inspect(command::inspect::Args),
    Bench(command::bench::Args),
    Draw(command::draw::Args),
    Eval(command::eval::Args),
    Calibrate(command::calibrate::Args),
    Schema(command::schema::Args),
    Completions(command::completions::Args),
    Manual(command::manual::Args),
}

/// A reader that leaves, as `| head` does, ends the command without a word, as it ends other programs.
fn end_with_the_reader() {
    // Where it cannot be had, a broken pipe is an error like others.
    let _ = flag::register_conditional_default(SIGPIPE, Arc::new(AtomicBool::new(true)));
}

fn main() -> ExitCode {
    command::logging::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            let _ = error.print();
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(1) };
        }
    };
    // The daemon and an update go on when nobody reads what they print.
    if !matches!(cli.command, Command::Run(_) | Command::Update(_)) {
        end_with_the_reader();
    }
    let done = match cli.command {
        Command::Run(args) => command::run::run(args),
        Command::Replay(args) => command::replay::run(args),
        Command::Reload(args) => command::reload::run(args),
        Command::Infer(args) => command::infer::run(args),
        Command::Cues(args) => command::cues::run(args),
        Command::Watch(args) => command::watch::run(args),
        Command::Top(args) => command::top::run(args),
        Command::Conformance(args) => command::conformance::run(args),
        Command::Doctor(args) => command::doctor::run(args),
        Command::Notice(args) => command::notice::run(args),
        Command::Update(args) => command::update::run(args),
        Command::Health(args) => command::health::run(args),
        Command::Slot(args) => command::slot::run(args),
        Command::CheckConfig(args) => command::check_config::run(args),
        #[cfg(feature = "pack")]
        Command::Pack(args) => command::pack::run(args),
        Command::Inspect(args) => command::inspect::run(args),
        Command::Bench(args) => command::bench::run(args),
        Command::Draw(args) => command::draw::run(args),
        Command::Eval(args) => command::eval::run(args),
        Command::Calibrate(args) => command::calibrate::run(args),
        Command::Schema(args) => command::schema::run(args),
        Command::Completions(args) => command::completions::run(args, Cli::command()),
        Command::Manual(args) => command::manual::run(args, Cli::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mien: {error:#}");
            let refused = error.is::<Refused>() || error.is::<Damaged>();
            ExitCode::from(if refused { 78 } else { 1 })
        }
    }
}
