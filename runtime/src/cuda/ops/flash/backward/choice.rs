//! When gradients of attention are computed by `flash_backward.cuh`, and for which sizes.

use super::super::super::super::{Cuda, CudaDevice, CudaElement};
use super::super::super::facts::{Reason, Window, all_hold};
use super::super::choice::{self as forward, LEAST_QUERIES};
use super::cut::{Cut, takes};
use super::{BACKWARD, DELTA, QUERIES};
use crate::backend::{AttentionBackward, Landing, Landings};
use crate::segments::Segments;

/// What the kernels are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super::super) struct Sizes {
    pub(super) cut: Cut,
    /// Whether sums are added up in the same order in every run.
    pub(super) deterministic: bool,
    /// In the units' order: of what comes before.
    pub(super) delta: [usize; 5],
    /// Of the gradients themselves.
    pub(super) gradients: [usize; 6],
    /// Of what comes behind.
    pub(super) queries: [usize; 4],
}

impl Sizes {
    fn of(facts: &Facts) -> Self {
        let widths @ [key, rope, value] = facts.attention.widths();
        let cut = Cut::new(widths);
        let deterministic = facts.deterministic;
        let [capped, turns] = [facts.attention.capped, deterministic].map(usize::from);
        Self {
            cut,
            deterministic,
            delta: [key, rope, value, cut.queries, turns],
            gradients: [key, rope, value, cut.queries, capped, turns],
            queries: [key, rope, value, cut.queries],
        }
    }
}

/// What the choice is made by, besides what the forward kernel's is.
#[derive(Debug, Clone)]
struct Facts {
    attention: forward::Facts,
    /// The result and its gradient.
    results: [Window; 2],
    /// Whether no key is of two segments.
    apart: bool,
    deterministic: bool,
}

/// The sizes of the kernels that do it, or why they do not.
pub(in super::super::super) fn sizes<T: CudaElement>(
    device: &CudaDevice,
    backward: &AttentionBackward<'_, Cuda<T>>,
    deterministic: bool,
) -> Result<Sizes, Reason> {
    let sizes = chosen(&Facts {
        attention: forward::Facts::of(device, &backward.attention),
        results: [&backward.out, &backward.d_out].map(Window::of),
        apart: are_apart(backward.attention.segments),
        deterministic,
    })?;
    let kernels = &device.shared.kernels;
    let brought = kernels.has(DELTA, &sizes.delta)
        && kernels.has(BACKWARD, &sizes.gradients)
        && kernels.has(QUERIES, &sizes.queries);
    match brought {
        true => Ok(sizes),
        false => Err("the layer brought no kernels for these sizes along"),
    }
}

/// Refuses landings that gradients can't be written to: what heads share of the keys is summed on the way and needs a buffer of its own, and
/// vectors of elements whole places.
pub(in super::super::super) fn lands(landings: &Landings, rope: usize) -> Result<(), Reason> {
    const VECTOR: usize = 4;
    let Some(v) = landings.v else {
        return Err("values are keys");
    };
    let own = landings.k_rope;
    let others = [landings.q, landings.q_rope, landings.k, v];
    let shares = others.iter().any(|other| other.buffer == own.buffer);
    let vectors = |landing: &Landing| {
        landing.line.is_multiple_of(VECTOR) && landing.offset.is_multiple_of(VECTOR)
    };
    all_hold(&[
        (
            rope == 0 || (own.line == rope && !shares),
            "what heads share of the keys lands beside something else",
        ),
        (
            others.iter().all(vectors),
            "gradients do not land at multiples of 8 bytes",
        ),
    ])
}

/// Whether no key is of two segments: what a block of keys gets is written, not added.
fn are_apart(segments: &Segments) -> bool {
    let mut keys: Vec<_> = segments.list().iter().map(|own| own.keys.clone()).collect();
    keys.retain(|keys| !keys.is_empty());
    keys.sort_by_key(|keys| keys.start);
    keys.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

/// The choice: a matter of the device, of types and shapes.
fn chosen(facts: &Facts) -> Result<Sizes, Reason> {
    let attention = &facts.attention;
    attention.suit_tensor_cores()?;
    let forward::Facts {
        queries: [q, ..],
        keys: [k, k_rope, v],
        capped,
        ..
    } = attention;
    let widths = attention.widths();
    let fits = |count: usize| i32::try_from(count).is_ok();
    let rules: [(bool, Reason); 7] = [
        (
            takes(widths, *capped),
            "there are no kernels for keys or values of these widths",
        ),
        (k.heads == v.heads, "keys have other heads than values"),
        (
            k_rope.width == 0 || k.heads.is_multiple_of(k_rope.heads),
            "heads of keys do not share a second part evenly",
        ),
        (
            facts.results.iter().all(|window| window.aligned),
            "rows of the result do not begin at multiples of 16 bytes",
        ),
        (
            attention.most_queries >= LEAST_QUERIES && k.rows > 0,
            "there are few queries, or no keys",
        ),
        (facts.apart, "segments share keys"),
        (
            fits(k.rows) && fits(q.rows * q.heads),
            "there are too many rows",
        ),
    ];
    all_hold(&rules).map(|()| Sizes::of(facts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Visibility;
    use crate::segments::Segment;

    /// DeepSeek V3's heads over the kv-up projection's output.
    fn deepseek() -> Facts {
        let attention = forward::deepseek();
        Facts {
            results: [attention.keys[2]; 2],
            attention,
            apart: true,
            deterministic: true,
        }
    }

    #[test]
    fn sizes_are_those_of_the_layer() {
        let sizes = chosen(&deepseek()).expect("the kernels are for it");
        assert_eq!(sizes.delta, [128, 64, 128, 64, 1]);
        assert_eq!(sizes.gradients, [128, 64, 128, 64, 0, 1]);
        assert_eq!(sizes.queries, [128, 64, 128, 64]);
        let fast = Facts {
            deterministic: false,
            ..deepseek()
        };
        let sizes = chosen(&fast).expect("the kernels are for it");
        assert_eq!(sizes.gradients, [128, 64, 128, 64, 0, 0]);
    }

    #[track_caller]
    fn refused(change: &dyn Fn(&mut Facts), wanted: &str) {
        let mut facts = deepseek();
        change(&mut facts);
        let reason = chosen(&facts).expect_err(wanted);
        assert!(reason.contains(wanted), "{reason}");
    }

    #[test]
    fn what_they_can_not_do_has_a_reason() {
        refused(&|facts| facts.attention.hopper = false, "Hopper");
        refused(&|facts| facts.attention.adjusted = true, "biased");
        // Of heads between narrow and wide ones, a cap's slope has no registers
        refused(&|facts| facts.attention.capped = true, "widths");
        refused(&|facts| facts.attention.keys[2].heads = 1, "other heads");
        refused(&|facts| facts.results[1].aligned = false, "16 bytes");
        refused(&|facts| facts.attention.most_queries = 1, "few queries");
        refused(&|facts| facts.apart = false, "share keys");
    }

    #[test]
    fn landings_are_such_as_can_be_written() {
        let at = Landing::new;
        let landings = Landings {
            q: at(0, 192, 0),
            q_rope: at(0, 192, 128),
            k: at(1, 256, 0),
            k_rope: at(2, 64, 0),
            v: Some(at(1, 256, 128)),
        };
        let refused = |change: &dyn Fn(&mut Landings)| {
            let mut landings = landings;
            change(&mut landings);
            lands(&landings, 64).expect_err("no place to write to")
        };
        assert_eq!(lands(&landings, 64), Ok(()));
        assert!(refused(&|landings| landings.v = None).contains("values are keys"));
        assert!(refused(&|landings| landings.k_rope = at(1, 256, 0)).contains("beside"));
        assert!(refused(&|landings| landings.k_rope = at(2, 66, 2)).contains("beside"));
        assert!(refused(&|landings| landings.q = at(0, 193, 0)).contains("8 bytes"));
    }

    #[test]
    fn keys_of_two_segments_are_seen() {
        let of = |keys: [std::ops::Range<usize>; 3]| {
            let list = keys
                .into_iter()
                .enumerate()
                .map(|(sequence, keys)| Segment {
                    queries: sequence..sequence + 1,
                    keys,
                    first_query: 0,
                    first_key: 0,
                    sequence,
                    shift: 0,
                    line: (0, 0),
                });
            are_apart(&Segments::new(list.collect(), Visibility::CAUSAL, 3, 9))
        };
        assert!(of([5..9, 0..3, 3..5]));
        assert!(of([0..9, 4..4, 9..9]));
        assert!(!of([0..4, 5..9, 3..5]));
    }
}
