//! How large a call is that is timed.

use std::fmt::{self, Display};
use std::str::FromStr;

use mla_spec::Phase;

/// `[REQUESTSx]NEW[+CACHED]`: `64x1+8192` is one new token for each of 64 requests, all of which have 8192 tokens cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) requests: usize,
    /// New tokens of each request.
    pub(crate) new: usize,
    /// Cached tokens of each request.
    pub(crate) cached: usize,
}

impl Shape {
    /// What a phase is timed at where nobody asks for anything else.
    pub(crate) fn usual(phase: Phase, on_gpu: bool) -> Self {
        let [requests, new, cached] = match (phase, on_gpu) {
            (Phase::Decode, true) => [64, 1, 8192],
            (Phase::Decode, false) => [1, 1, 1024],
            (_, true) => [1, 4096, 0],
            (_, false) => [1, 128, 0],
        };
        Self {
            requests,
            new,
            cached,
        }
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.requests, self.new)?;
        match self.cached {
            0 => Ok(()),
            cached => write!(f, "+{cached}"),
        }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |what: &str, text: &str, least: usize| {
            // A u32, so that no product of them overflows
            let number = text.parse::<u32>().ok().map(|number| number as usize);
            number.filter(|&number| number >= least).ok_or_else(|| {
                format!("{what} `{text}` is no number from {least} on; wanted [REQUESTSx]NEW[+CACHED], such as 64x1+8192")
            })
        };
        let (fresh, cached) = text.split_once('+').unwrap_or((text, "0"));
        let (requests, new) = fresh.split_once('x').unwrap_or(("1", fresh));
        Ok(Self {
            requests: number("the number of requests", requests, 1)?,
            new: number("the number of new tokens", new, 1)?,
            cached: number("the number of cached tokens", cached, 0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for (text, [requests, new, cached], written) in [
            ("4096", [1, 4096, 0], "1x4096"),
            ("2x512", [2, 512, 0], "2x512"),
            ("64x1+8192", [64, 1, 8192], "64x1+8192"),
            ("16+0", [1, 16, 0], "1x16"),
        ] {
            let shape: Shape = text.parse().unwrap();
            let wanted = Shape {
                requests,
                new,
                cached,
            };
            assert_eq!(shape, wanted);
            assert_eq!(shape.to_string(), written);
        }
        for wrong in ["", "0", "x4", "4x", "1x1+", "1+-1", "1x2x3", "99999999999"] {
            let error = wrong.parse::<Shape>().unwrap_err();
            assert!(error.contains("REQUESTSx"), "{wrong}: {error}");
        }
    }
}
