//! What was measured of one shape, and what it says.

use crate::{BLOCKS, NOISE};

/// Requests of equal length, and how long one attention to them takes with each kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation {
    requests: u32,
    length: u32,
    micros: [Option<f64>; BLOCKS.len()],
}

impl Situation {
    /// One of `requests` requests with `length` cached tokens each, new ones included, of which nothing was measured yet.
    pub fn new(requests: u32, length: u32) -> Self {
        Self {
            requests,
            length,
            micros: [None; BLOCKS.len()],
        }
    }

    /// Requests.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Cached tokens of each.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Notes microseconds of the kernel whose blocks have so many rows; others than [`BLOCKS`] are passed over. Tables have two decimals.
    pub fn note(&mut self, rows: u32, micros: f64) {
        if let Some(at) = BLOCKS.iter().position(|known| *known == rows) {
            self.micros[at] = Some((micros * 100.0).round() / 100.0);
        }
    }

    /// Microseconds of the kernel whose blocks have so many rows, where it was measured.
    pub fn micros(&self, rows: u32) -> Option<f64> {
        let at = BLOCKS.iter().position(|known| *known == rows)?;
        self.micros[at]
    }
}

/// What was measured of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Rows of a block of the kernel that the model chooses.
    pub model: u32,
    /// Many requests, and one alone.
    pub situations: [Situation; 2],
}

impl Line {
    /// Rows of a block of the kernel that runs: the fastest over both situations, whose times count by their ratio to the model's. It has to
    /// be faster than the model's by more than [`NOISE`] on the whole, and slower by more than that in neither.
    pub fn chosen(&self) -> u32 {
        let mut best = (self.model, 1.0 / NOISE);
        for rows in BLOCKS {
            let [Some(many), Some(one)] = self.ratios(rows) else {
                continue;
            };
            let mean = (many * one).sqrt();
            if mean < best.1 && many.max(one) <= NOISE {
                best = (rows, mean);
            }
        }
        best.0
    }

    /// Whether another kernel than the model's runs.
    pub fn overrides(&self) -> bool {
        self.chosen() != self.model
    }

    /// Times of a kernel where the model's are 1; `None` where one of them was not measured.
    fn ratios(&self, rows: u32) -> [Option<f64>; 2] {
        self.situations
            .map(|times| Some(times.micros(rows)? / times.micros(self.model)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of blocks of 16 and 32 rows, in microseconds, where the model chooses 32.
    fn line(many: [f64; 2], one: [f64; 2]) -> Line {
        let situations = [(128, many), (1, one)].map(|(requests, [narrow, model])| {
            let mut situation = Situation::new(requests, 8192);
            situation.note(16, narrow);
            situation.note(32, model);
            situation
        });
        Line {
            model: 32,
            situations,
        }
    }

    #[test]
    fn only_a_difference_above_the_noise_overrides_the_model() {
        // Faster in both, in one, on the whole
        assert_eq!(line([90.0, 100.0], [9.0, 10.0]).chosen(), 16);
        assert_eq!(line([90.0, 100.0], [10.0, 10.0]).chosen(), 16);
        assert_eq!(line([90.0, 100.0], [10.1, 10.0]).chosen(), 16);
        // Faster by no more than the noise
        assert_eq!(line([99.0, 100.0], [9.9, 10.0]).chosen(), 32);
        assert_eq!(line([97.0, 100.0], [10.0, 10.0]).chosen(), 32);
        // What gains in one situation may not lose in the other
        assert_eq!(line([50.0, 100.0], [10.5, 10.0]).chosen(), 32);
        assert_eq!(line([110.0, 100.0], [11.0, 10.0]).chosen(), 32);
        assert!(line([90.0, 100.0], [9.0, 10.0]).overrides());
        assert!(!line([110.0, 100.0], [11.0, 10.0]).overrides());
    }

    #[test]
    fn the_fastest_of_several_is_chosen() {
        let mut three = line([90.0, 100.0], [9.0, 10.0]);
        for situation in &mut three.situations {
            let model = situation.micros(32).expect("measured");
            situation.note(64, model * 0.8);
        }
        assert_eq!(three.chosen(), 64);
        // Measured in one situation only, it is none of them
        three.situations[1] = line([0.0; 2], [9.0, 10.0]).situations[1];
        assert_eq!(three.chosen(), 16);
    }

    #[test]
    fn times_have_two_decimals_and_only_known_kernels_have_any() {
        let mut situation = Situation::new(1, 64);
        situation.note(16, 1.0 / 3.0);
        situation.note(48, 1.0);
        assert_eq!(situation.micros(16), Some(0.33));
        assert_eq!([situation.micros(48), situation.micros(64)], [None, None]);
        assert_eq!((situation.requests(), situation.length()), (1, 64));
    }
}
