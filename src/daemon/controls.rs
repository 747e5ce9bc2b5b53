//! What a run is steered by from outside, while it goes on.

use super::{pace::Pace, plan::Plan};
use crate::{policy, privacy::Gate};
use anyhow::Result;
use std::sync::{Arc, Mutex, atomic::AtomicBool};

/// What a run is steered by from outside, while it goes on.
#[derive(Clone, Debug)]
pub struct Controls {
    pub gate: Arc<Gate>,
    pub stop: Arc<AtomicBool>,
    /// Raised when somebody wants the status line now.
    pub tell: Arc<AtomicBool>,
    /// Thresholds that replace the plan's at the next window.
    pub limits: Arc<Mutex<Option<policy::Limits>>>,
}

impl Controls {
    /// For a plan; refuses a purpose that may not be, and pins that are not there.
    pub fn new(plan: &Plan) -> Result<Controls> {
        Ok(Controls {
            gate: Arc::new(Gate::new(&plan.privacy, plan.pace == Pace::Live, &plan.state_dir)?),
            stop: Arc::default(),
            tell: Arc::default(),
            limits: Arc::default(),
        })
    }
}
