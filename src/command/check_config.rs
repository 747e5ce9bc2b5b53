//! `mien check-config`: check a config and print the limits it sets.

use super::{Refused, open_bundle};
use crate::{
    config::{self, Config},
    daemon::{self, Limit, Limits, Pace, Plan, size},
    machine,
    privacy::Gate,
};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Check a config and print the limits it sets.
///
/// Tries what it names, too: cameras, microphones, recordings, ttys, and the MQTT broker.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file (TOML).
    config: PathBuf,
    /// Ask neither devices nor the broker.
    #[arg(long)]
    no_devices: bool,
}

pub fn run(args: Args) -> Result<()> {
    let refuse = || Refused(format!("cannot use the config {}", args.config.display()));
    let config = config::read(&args.config).with_context(refuse)?;
    let bundle = open_bundle(&config.model.bundle)?;
    let plan = daemon::prepare(&config, &bundle, false).with_context(refuse)?;
    let live = plan.pace == Pace::Live && !args.no_devices;
    Gate::new(&plan.privacy, live, Path::new("")).with_context(refuse)?;
    if !args.no_devices {
        probe(&config, &plan).with_context(refuse)?;
    }
    plan.measurer().context("[nets]").with_context(refuse)?;
    let memory = daemon::memory(&plan, &bundle).with_context(refuse)?;
    let limits = plan.limits(&memory);
    print!("{}", table(&limits));
    if let Some(machine) = machine::memory() {
        limits.fit(machine.free)?;
    }
    println!("\nThe purpose `{}` obliges you, in the EU, to", plan.speaker.purpose);
    plan.privacy.purpose()?.obligations().for_each(|obligation| println!("- {obligation}"));
    if let Some(text) = plan.privacy.waits_for()?.filter(|_| plan.pace == Pace::Live) {
        println!("\n{text}; consent = \"standing\" says that all have agreed");
    }
    plan.without_nets().iter().for_each(|text| println!("\n{text}"));
    let asked = if args.no_devices { ", devices and broker not asked" } else { "" };
    println!("\n{}: fine{asked}", args.config.display());
    Ok(())
}

/// Everything that has to be plugged in or to answer.
fn probe(config: &Config, plan: &Plan) -> Result<()> {
    for device in config.sources() {
        device.probe().with_context(|| format!("[{}]", device.name()))?;
    }
    let setup = plan.setup();
    plan.sinks.iter().try_for_each(|sink| sink.probe(&setup))
}

fn table(limits: &Limits) -> String {
    let mut text = String::new();
    let mut line = |what: &str, limit: &str, bytes: &str| {
        text += format!("{what:<26}{limit:<52}{bytes:>14}").trim_end();
        text.push('\n');
    };
    for Limit { what, limit, bytes } in &limits.rows {
        let bytes = match bytes {
            Some(0) => "as the input".into(),
            Some(bytes) => size(*bytes),
            None => String::new(),
        };
        line(what, limit, &bytes);
    }
    line("sum", "a run that keeps up", &size(limits.sum));
    line("sum at most", "every queue full", &size(limits.sum_most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_takes_more_than_there_is_is_refused_with_both_numbers() {
        let limits = Limits { rows: Vec::new(), sum: 900 << 20, sum_most: 900 << 20 };
        assert!(limits.fit(1 << 30).is_ok());
        let said = limits.fit(512 << 20).unwrap_err().to_string();
        assert!(said.contains("takes 900.0 MiB, and 512.0 MiB can be had"), "{said}");
    }
}
