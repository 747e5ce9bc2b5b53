//! What a face shows: a net over its box, turned upright by its eyes, that gives each of its labels a share from 0 to 1.
//!
//! A label is a claim of a face, such as `smiling mouth` ([`FACE_CLAIMS`]), or empty for an output that is not used.
//! Shapes: `size` x `size` pixels in, 224 where the config names none; one number for each label out.

use super::{Face, Net, Settings, Task, Wants};
use crate::{
    cues::{FACE_CLAIMS, face_claims},
    source::Frame,
};
use anyhow::{Result, bail, ensure};

const SIZE: usize = 224;
/// Outputs of a net at most.
const OUTPUTS_MAX: usize = 64;

/// For each claim of a face how much of it is seen, from 0 to 1; `None` where the net has no label for it.
pub type Shows = [Option<f32>; FACE_CLAIMS];

/// A net that says what a face shows.
pub struct Expression {
    net: Net,
    settings: Settings,
    size: usize,
    input: Vec<f32>,
    /// For each output the number of its claim.
    claims: Vec<Option<usize>>,
}

impl Expression {
    pub fn load(settings: &Settings) -> Result<Expression> {
        let size = if settings.size == 0 { SIZE } else { settings.size };
        let claims = claims(&settings.labels)?;
        let [output] = settings.outputs(Task::Expression);
        let wants =
            Wants { inputs: &[("input", &settings.layout.shape(size))], outputs: &[(output, claims.len())] };
        let net = Net::load(Task::Expression, settings, &wants)?;
        let input = vec![0.0; 3 * size * size];
        let mut expression = Expression { net, settings: settings.clone(), size, input, claims };
        expression.run()?;
        Ok(expression)
    }

    /// Overwrites what was seen.
    pub fn forget(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.input);
        self.input.resize(3 * self.size * self.size, 0.0);
    }

    pub fn find(&mut self, frame: &Frame, face: &Face) -> Result<Shows> {
        face.cut(self.size).fill(frame, self.size, &self.settings, &mut self.input);
        self.run()
    }

    fn run(&mut self) -> Result<Shows> {
        let mut shows = Shows::default();
        let wrong = self.net.run(&[&self.input], |said| {
            for (claim, &share) in self.claims.iter().zip(said[0]) {
                if let Some(claim) = claim {
                    shows[*claim] = Some(share.clamp(0.0, 1.0));
                }
            }
            said[0].iter().copied().find(|share| !(-0.001..=1.001).contains(share))
        })?;
        if let Some(share) = wrong {
            bail!(
                "expression: the net says {share}, and shares from 0 to 1 are wanted: export it with its softmax or sigmoid"
            );
        }
        Ok(shows)
    }
}

/// The claims that labels name.
fn claims(labels: &[String]) -> Result<Vec<Option<usize>>> {
    ensure!(
        (1..=OUTPUTS_MAX).contains(&labels.len()),
        "nets.expression.labels has {} names: one for each output, 1 to {OUTPUTS_MAX}",
        labels.len()
    );
    let names: Vec<String> = face_claims().map(|(cue, value)| format!("{value} {cue}")).collect();
    let mut claims = Vec::new();
    for label in labels {
        let claim = names.iter().position(|name| name == label);
        ensure!(
            claim.is_some() || label.is_empty(),
            "nets.expression.labels: `{label}` is no claim of a face; there are {}, and \"\" for an output that is not used",
            names.join(", ")
        );
        ensure!(claim.is_none() || !claims.contains(&claim), "nets.expression.labels names `{label}` twice");
        claims.push(claim);
    }
    ensure!(claims.iter().any(Option::is_some), "nets.expression.labels names no claim of a face");
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_claims_of_a_face() {
        let of =
            |labels: &[&str]| claims(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>());
        let smiling = face_claims().position(|claim| claim == ("mouth", "smiling"));
        let found = of(&["", "smiling mouth"]).unwrap();
        assert_eq!(found, [None, smiling]);
        assert!(smiling.is_some());
        for (labels, said) in [
            (&["happy"][..], "`happy` is no claim of a face; there are raised brow,"),
            (&["no face"], "`no face` is no claim"),
            (&["smiling mouth", "smiling mouth"], "names `smiling mouth` twice"),
            (&["", ""], "names no claim"),
            (&[], "has 0 names"),
        ] {
            let error = format!("{:#}", of(labels).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
