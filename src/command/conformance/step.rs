//! Something to try, and how a receiver's answers are held against what it must accept.

use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// One thing to try: pieces, and the answers to what in them must be accepted.
pub struct Step<P> {
    pub what: &'static str,
    pub pieces: Vec<P>,
    pub accepts: Vec<String>,
}

impl<P> Step<P> {
    pub fn new(what: &'static str, pieces: Vec<P>, accepts: &[&str]) -> Step<P> {
        Step { what, pieces, accepts: accepts.iter().map(|text| text.to_string()).collect() }
    }
}

/// Plays the steps through `put`, hears of each `wait` long what `take` brings, and prints a table.
pub fn play<P>(
    steps: &[Step<P>],
    wait: Duration,
    mut put: impl FnMut(&P) -> Result<()>,
    mut take: impl FnMut(Duration) -> Result<Option<Vec<String>>>,
) -> Result<()> {
    let mut failed = 0;
    println!("{:<64} {:<24} {:<24}", "step", "must accept", "accepted");
    for Step { what, pieces, accepts } in steps {
        pieces.iter().try_for_each(&mut put)?;
        let said = answers(wait, accepts.len(), &mut take)?;
        let holds = said == *accepts;
        failed += usize::from(!holds);
        let list = |lines: &[String]| if lines.is_empty() { "nothing".into() } else { lines.join(", ") };
        let word = if holds { "" } else { "WRONG" };
        println!("{what:<64} {:<24} {:<24} {word}", list(accepts), list(&said));
    }
    ensure!(failed == 0, "{failed} of {} steps went wrong", steps.len());
    println!("{} of {} steps hold", steps.len(), steps.len());
    Ok(())
}

/// What the receiver says, until it has said enough and is quiet, or the time is over.
fn answers(
    wait: Duration,
    enough: usize,
    take: &mut impl FnMut(Duration) -> Result<Option<Vec<String>>>,
) -> Result<Vec<String>> {
    let until = Instant::now() + wait;
    let quiet = wait / 5;
    let mut said = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = if said.len() >= enough { left.min(quiet) } else { left };
        if left.is_zero() {
            return Ok(said);
        }
        match take(left)? {
            Some(more) => said.extend(more),
            None => return Ok(said),
        }
    }
}
