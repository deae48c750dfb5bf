//! Masks: which rows belong together, and what is refused.

use std::ops::Range;

use mla_runtime::{Error, Mask, Padding, Visibility};
use proptest::prelude::*;

fn ranges(mask: &Mask, rows: usize, padding: Padding) -> Result<Vec<Range<usize>>, Error> {
    let segments = mask.segments(rows, Visibility::CAUSAL, padding)?;
    assert!(
        segments
            .list()
            .iter()
            .all(|segment| segment.queries == segment.keys)
    );
    Ok(segments
        .list()
        .iter()
        .map(|segment| segment.queries.clone())
        .collect())
}

fn allowed(mask: &Mask, rows: usize) -> Vec<Range<usize>> {
    ranges(mask, rows, Padding::Allowed).expect("a good mask")
}

fn once(range: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(range).collect()
}

fn message(mask: &Mask, rows: usize, padding: Padding) -> String {
    ranges(mask, rows, padding)
        .expect_err("a bad mask")
        .to_string()
}

#[test]
fn sequences_of_every_mask() {
    assert_eq!(allowed(&Mask::dense(2, 3), 6), [0..3, 3..6]);
    assert!(allowed(&Mask::dense(5, 0), 0).is_empty());
    assert!(allowed(&Mask::dense(usize::MAX, 0), 0).is_empty());
    assert_eq!(
        allowed(
            &Mask::padded(2, 3, &[false, true, true, true, false, false]),
            6
        ),
        [1..3, 3..4]
    );
    assert_eq!(allowed(&Mask::padded(1, 2, &[false, false]), 2), []);
    assert_eq!(
        allowed(&Mask::segment_ids(2, 4, &[1, 1, 2, 0, 1, 2, 2, 2]), 8),
        [0..2, 2..3, 4..5, 5..8]
    );
    assert_eq!(allowed(&Mask::cu_seqlens(&[0, 2, 2, 5]), 5), [0..2, 2..5]);
    assert_eq!(allowed(&Mask::cu_seqlens(&[0, 2]), 5), once(0..2));
    assert!(allowed(&Mask::cu_seqlens(&[0]), 3).is_empty());
}

#[test]
fn padding_is_refused_with_the_remedy() {
    for mask in [
        Mask::padded(1, 3, &[false, true, true]),
        Mask::segment_ids(1, 3, &[1, 1, 0]),
        Mask::cu_seqlens(&[0, 2]),
    ] {
        let message = message(&mask, 3, Padding::Refused);
        assert!(
            message.contains("`attn_mask_type: padding_causal`"),
            "{message}"
        );
        let full = mask
            .segments(3, Visibility::FULL, Padding::Refused)
            .expect_err("padding")
            .to_string();
        assert!(full.contains("`attn_mask_type: padding`"), "{full}");
    }
    assert_eq!(
        ranges(&Mask::padded(1, 3, &[true; 3]), 3, Padding::Refused).expect("no padding"),
        once(0..3)
    );
}

#[test]
fn holes_are_refused() {
    assert!(
        message(
            &Mask::padded(2, 3, &[true, true, true, true, false, true]),
            6,
            Padding::Allowed
        )
        .contains("row 1")
    );
    assert!(message(&Mask::segment_ids(1, 4, &[1, 2, 2, 1]), 4, Padding::Allowed).contains("hole"));
}

#[test]
fn wrong_sizes_are_refused() {
    for mask in [
        Mask::dense(2, 3),
        Mask::dense(usize::MAX, 2),
        Mask::padded(2, 2, &[true; 3]),
        Mask::padded(usize::MAX, 5, &[true; 4]),
        Mask::segment_ids(1, 4, &[1; 5]),
        Mask::segment_ids(4, 0, &[1; 4]),
        Mask::cu_seqlens(&[]),
        Mask::cu_seqlens(&[1, 4]),
        Mask::cu_seqlens(&[0, 3, 2, 4]),
        Mask::cu_seqlens(&[0, 5]),
    ] {
        assert!(ranges(&mask, 4, Padding::Allowed).is_err(), "{mask:?}");
    }
}

/// What each query of the only sequence of `len` tokens sees.
fn seen(visibility: Visibility, len: usize) -> Vec<Range<usize>> {
    let segments = Mask::dense(1, len)
        .segments(len, visibility, Padding::Refused)
        .expect("segments");
    let segment = &segments.list()[0];
    (0..len).map(|i| segments.visible(segment, i)).collect()
}

#[test]
fn queries_see_what_the_visibility_says() {
    assert_eq!(seen(Visibility::CAUSAL, 3), [0..1, 0..2, 0..3]);
    assert_eq!(seen(Visibility::FULL, 3), [0..3, 0..3, 0..3]);
    let window = Visibility::CAUSAL.window(Some(1), Some(0));
    assert_eq!(seen(window, 4), [0..1, 0..2, 1..3, 2..4]);
    let around = Visibility::FULL.window(Some(1), Some(2));
    assert_eq!(seen(around, 4), [0..3, 0..4, 1..4, 2..4]);
    let ahead = Visibility::FULL.window(None, Some(1));
    assert_eq!(seen(ahead, 4), [0..2, 0..3, 0..4, 0..4]);
    let chunk = Visibility::CAUSAL.chunk(2);
    assert_eq!(seen(chunk, 5), [0..1, 0..2, 2..3, 2..4, 4..5]);
    let both = Visibility::FULL.chunk(3).window(Some(1), Some(usize::MAX));
    assert_eq!(seen(both, 5), [0..3, 0..3, 1..3, 3..5, 3..5]);
}

proptest! {
    #[test]
    fn any_ids_are_refused_or_give_disjoint_runs(batch in 0..4_usize, seq in 0..5_usize, ids in prop::collection::vec(0..3_u32, 0..16)) {
        let rows = batch * seq;
        if let Ok(ranges) = ranges(&Mask::segment_ids(batch, seq, &ids), rows, Padding::Allowed) {
            let covered: usize = ranges.iter().map(Range::len).sum();
            prop_assert_eq!(covered, ids.iter().filter(|&&id| id != 0).count());
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }

    #[test]
    fn any_cu_seqlens_are_refused_or_in_order(ends in prop::collection::vec(0..9_u32, 0..6), rows in 0..9_usize) {
        if let Ok(ranges) = ranges(&Mask::cu_seqlens(&ends), rows, Padding::Allowed) {
            prop_assert!(ranges.iter().all(|range| range.end <= rows));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
