//! Dynamic loss scaling: keeps the gradients of small losses above what an element type rounds to 0.

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::parameters::ParameterSet;

/// How a [`LossScaler`] adapts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScaling {
    /// The first scale.
    pub initial: f64,
    /// What the scale is multiplied by after `growth_interval` clean steps in a row, at least 1.
    pub growth_factor: f64,
    /// What it is multiplied by after a step that overflowed, between 0 and 1.
    pub backoff_factor: f64,
    /// Clean steps until it grows, at least 1.
    pub growth_interval: u32,
}

impl Default for LossScaling {
    /// 2¹⁶, doubled after 2000 clean steps and halved after an overflow.
    fn default() -> Self {
        Self {
            initial: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
        }
    }
}

/// The scale that a loss, and with it every gradient, is multiplied by, and what it learns from overflows (Micikevicius et al.,
/// "Mixed Precision Training", 2018, section 3.2).
///
/// ```text
/// d_output · scale() ─▶ backward ─▶ gradients ─ unscale ─▶ true: take the step
///                                                       └▶ false: an infinity or a NaN, throw them away
/// ```
///
/// It can be saved and restored: as a whole, through serde.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct LossScaler {
    scaling: LossScaling,
    scale: f64,
    clean_steps: u32,
}

/// A scaler as it was stored, before anyone has looked at its numbers.
#[derive(Deserialize)]
struct Stored {
    scaling: LossScaling,
    scale: f64,
    clean_steps: u32,
}

impl TryFrom<Stored> for LossScaler {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let Stored {
            scaling,
            scale,
            clean_steps,
        } = stored;
        if !(SMALLEST..=LARGEST).contains(&scale) {
            return Err(Error::BadConstant(format!(
                "a stored loss scale is {scale}, wanted 2^-126 to 2^126"
            )));
        }
        Ok(Self {
            scale,
            clean_steps,
            ..Self::new(scaling)?
        })
    }
}

/// The scale stays within what an `f32` holds, so that neither it nor its inverse is infinite or 0 there.
const SMALLEST: f64 = 1.0 / LARGEST;
const LARGEST: f64 = (1_u128 << 126) as f64;

impl LossScaler {
    /// A scaler that has seen no step.
    ///
    /// # Errors
    /// When a number lies outside the range that its field's comment states.
    pub fn new(scaling: LossScaling) -> Result<Self> {
        let LossScaling {
            initial,
            growth_factor,
            backoff_factor,
            growth_interval,
        } = scaling;
        let checks = [
            (
                (SMALLEST..=LARGEST).contains(&initial),
                format!("a loss scale starts at {initial}, wanted 2^-126 to 2^126"),
            ),
            (
                growth_factor >= 1.0 && growth_factor.is_finite(),
                format!("a loss scale grows by {growth_factor}, wanted at least 1"),
            ),
            (
                backoff_factor > 0.0 && backoff_factor <= 1.0,
                format!("a loss scale backs off by {backoff_factor}, wanted above 0 and at most 1"),
            ),
            (
                growth_interval > 0,
                "a loss scale grows every 0 steps, wanted at least 1".to_owned(),
            ),
        ];
        match checks.into_iter().find(|(fine, _)| !fine) {
            Some((_, refused)) => Err(Error::BadConstant(refused)),
            None => Ok(Self {
                scaling,
                scale: initial,
                clean_steps: 0,
            }),
        }
    }

    /// What to multiply the loss by, or the gradient of the output that `backward` starts from.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// How it adapts.
    pub fn scaling(&self) -> LossScaling {
        self.scaling
    }

    /// Clean steps since the scale last changed.
    pub fn clean_steps(&self) -> u32 {
        self.clean_steps
    }

    /// Divides gradients by the scale that they were computed with, and adapts the scale. Whether the step may be taken: where a value is
    /// infinite or a NaN the gradients are left as they are and good for nothing.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn unscale<B: Backend>(&mut self, gradients: &mut dyn ParameterSet<B>) -> Result<bool> {
        self.unscale_all::<B>(&mut [gradients])
    }

    /// As [`unscale`](Self::unscale) for the gradients of several layers, which make one step or none together.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn unscale_all<B: Backend>(
        &mut self,
        gradients: &mut [&mut dyn ParameterSet<B>],
    ) -> Result<bool> {
        let mut finite = true;
        for set in gradients.iter() {
            finite = finite && set.is_finite()?;
        }
        if finite {
            for set in gradients {
                set.scale(1.0 / self.scale)?;
            }
        }
        self.judge(finite);
        Ok(finite)
    }

    /// Adapts the scale after a step whose gradients were all finite, or were not. Replicas that share gradients call it with whether
    /// they were finite everywhere, and so keep one scale.
    pub fn judge(&mut self, finite: bool) {
        let LossScaling {
            growth_factor,
            backoff_factor,
            growth_interval,
            ..
        } = self.scaling;
        if !finite {
            self.scale = (self.scale * backoff_factor).max(SMALLEST);
            self.clean_steps = 0;
            return;
        }
        self.clean_steps += 1;
        if self.clean_steps >= growth_interval {
            self.scale = (self.scale * growth_factor).min(LARGEST);
            self.clean_steps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(initial: f64, growth_interval: u32) -> LossScaler {
        LossScaler::new(LossScaling {
            initial,
            growth_interval,
            ..LossScaling::default()
        })
        .unwrap()
    }

    #[test]
    fn it_grows_after_clean_steps_in_a_row_and_backs_off_at_once() {
        let mut scaler = scaler(8.0, 2);
        let mut scales = Vec::new();
        for finite in [true, true, true, false, true, true, false, false] {
            scaler.judge(finite);
            scales.push(scaler.scale());
        }
        assert_eq!(scales, [8.0, 16.0, 16.0, 8.0, 8.0, 16.0, 8.0, 4.0]);
    }

    #[test]
    fn a_stored_one_is_read_back_or_refused() {
        let mut kept = scaler(8.0, 3);
        kept.judge(true);
        let stored = serde_json::to_value(&kept).unwrap();
        assert_eq!(
            serde_json::from_value::<LossScaler>(stored.clone()).unwrap(),
            kept
        );
        for (place, wrong) in [("/scale", 0.0), ("/scaling/growth_factor", 0.5)] {
            let mut stored = stored.clone();
            *stored.pointer_mut(place).unwrap() = wrong.into();
            let refused = serde_json::from_value::<LossScaler>(stored).unwrap_err();
            assert!(refused.to_string().contains("wanted"), "{refused}");
        }
    }

    #[test]
    fn it_stays_a_number_that_f32_holds() {
        let mut scaler = scaler(1.0, 1);
        (0..1000).for_each(|_| scaler.judge(true));
        assert!((scaler.scale() as f32).is_finite() && (1.0 / scaler.scale()) as f32 > 0.0);
        (0..1000).for_each(|_| scaler.judge(false));
        assert!(scaler.scale() as f32 > 0.0 && ((1.0 / scaler.scale()) as f32).is_finite());
    }

    #[test]
    fn it_goes_on_where_it_was_saved() {
        let mut scaler = scaler(8.0, 3);
        scaler.judge(true);
        scaler.judge(true);
        let saved = serde_json::to_string(&scaler).unwrap();
        let mut restored: LossScaler = serde_json::from_str(&saved).unwrap();
        assert_eq!(restored, scaler);
        assert_eq!(restored.clean_steps(), 2);
        restored.judge(true);
        assert_eq!(restored.scale(), 16.0);
    }

    #[test]
    fn numbers_that_adapt_nothing_are_refused() {
        let usual = LossScaling::default();
        for (scaling, named) in [
            (
                LossScaling {
                    initial: 0.0,
                    ..usual
                },
                "starts at 0",
            ),
            (
                LossScaling {
                    initial: f64::NAN,
                    ..usual
                },
                "starts at NaN",
            ),
            (
                LossScaling {
                    growth_factor: 0.5,
                    ..usual
                },
                "grows by 0.5",
            ),
            (
                LossScaling {
                    backoff_factor: 0.0,
                    ..usual
                },
                "backs off by 0",
            ),
            (
                LossScaling {
                    backoff_factor: 1.5,
                    ..usual
                },
                "backs off by 1.5",
            ),
            (
                LossScaling {
                    growth_interval: 0,
                    ..usual
                },
                "every 0 steps",
            ),
        ] {
            let error = LossScaler::new(scaling).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
