//! Which requests take which form, and that rows go where they belong.

use super::*;
use crate::batch::Sequence;
use crate::{Cpu, CpuDevice, Rows};

type B = Cpu<f64>;

fn batch(lengths: &[(usize, usize)]) -> Batch {
    let sequences: Vec<Sequence<'_>> = lengths
        .iter()
        .map(|&(cached, new)| Sequence {
            cached,
            new,
            blocks: &[],
        })
        .collect();
    Batch::new(&sequences).expect("a valid batch")
}

/// MHA from 2 new tokens on without a context, and from 4 on where 10 tokens or more are cached.
const FROM: [(usize, usize); 2] = [(0, 2), (10, 4)];

/// Row `i` holds `i` in both heads.
fn numbered(rows: usize) -> Heads<B, 2, 1> {
    let values = (0..rows).flat_map(|row| [row as f64, row as f64]);
    Rows::<B, 2>::from_vec(&CpuDevice::default(), values.collect())
        .expect("whole rows")
        .into_heads()
}

fn values(heads: Heads<B, 2, 1>) -> Vec<f64> {
    let rows: Rows<B, 2> = heads.into_rows();
    let all = rows.to_vec().expect("on the host");
    all.into_iter().step_by(2).collect()
}

#[test]
fn requests_are_parted_by_their_own_lengths_in_any_order() {
    let batch = batch(&[(20, 3), (0, 2), (9, 1), (10, 4), (5, 0)]);
    let forms = batch.forms(&FROM).expect("an ordered table");
    assert!(forms.are_mixed());
    let expanded = forms.expanded.expect("two requests");
    assert_eq!(expanded.rows, None);
    let live: Vec<usize> = expanded.batch.requests.iter().map(|one| one.live).collect();
    assert_eq!(live, [0, 2, 0, 4, 0]);
    let absorbed = forms.absorbed.expect("two requests");
    assert_eq!(absorbed.rows, Some(vec![0, 1, 2, 5]));
    assert_eq!(absorbed.batch.positions(), [20, 21, 22, 9]);
    let rows: Vec<usize> = absorbed.batch.requests.iter().map(|one| one.row).collect();
    assert_eq!(rows, [0, 3]);
}

#[test]
fn one_form_alone_picks_nothing_and_leaves_the_other_out() {
    for (lengths, expands) in [([(0, 5), (3, 2)], true), ([(0, 1), (30, 3)], false)] {
        let batch = batch(&lengths);
        let forms = batch.forms(&FROM).expect("an ordered table");
        assert!(!forms.are_mixed());
        let part = match expands {
            true => forms.expanded.as_ref(),
            false => forms.absorbed.as_ref(),
        };
        assert_eq!(part.map(|part| &part.rows), Some(&None));
        let attend = |part: &Part| part.heads(numbered(batch.tokens()));
        let expanded = forms.expanded(attend).expect("no failure");
        let absorbed = forms.absorbed(attend).expect("no failure");
        assert_eq!(
            [expanded.is_some(), absorbed.is_some()],
            [expands, !expands]
        );
        let all = forms.join(expanded, absorbed).expect("one of them");
        assert_eq!(values(all), values(numbered(batch.tokens())));
    }
}

#[test]
fn what_the_absorbed_form_gave_lands_in_its_rows() {
    let batch = batch(&[(20, 3), (0, 2), (9, 1), (10, 4)]);
    let forms = batch.forms(&FROM).expect("an ordered table");
    let picked = forms
        .absorbed(|part| part.heads(numbered(10)))
        .expect("no failure");
    assert_eq!(picked.map(values), Some(vec![0.0, 1.0, 2.0, 5.0]));
    let absorbed = forms
        .absorbed(|part| part.heads(numbered(10)))
        .expect("no failure");
    let expanded = Heads::zeros(&CpuDevice::default(), 10).expect("room");
    let all = forms.join(Some(expanded), absorbed).expect("both");
    assert_eq!(
        values(all),
        [0.0, 1.0, 2.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn padding_counts_for_nothing() {
    let slots = vec![0, -1, -1, 4, 5, -1];
    let padded = batch(&[(0, 3), (0, 3)]).with_slot_mapping(slots);
    let forms = padded.expect("padding comes last").forms(&FROM);
    let forms = forms.expect("an ordered table");
    assert_eq!(
        forms.absorbed.and_then(|part| part.rows),
        Some(vec![0, 1, 2])
    );
    let part = forms.expanded.expect("the second request");
    let live: Vec<usize> = part.batch.requests.iter().map(|one| one.live).collect();
    assert_eq!(live, [0, 2]);
}

#[test]
fn a_batch_of_nothing_is_absorbed_whole() {
    let forms = batch(&[(7, 0)]).forms(&FROM).expect("an ordered table");
    assert!(forms.expanded.is_none());
    assert_eq!(forms.absorbed.map(|part| part.rows), Some(None));
}

#[test]
fn tables_out_of_order_and_missing_results_are_refused() {
    let mixed = batch(&[(0, 1), (0, 2)]);
    assert!(mixed.forms(&[]).is_err());
    assert!(mixed.forms(&[(1, 2)]).is_err());
    assert!(mixed.forms(&[(0, 2), (5, 1), (4, 1)]).is_err());
    let forms = mixed.forms(&FROM).expect("an ordered table");
    assert!(forms.join(None, Some(numbered(1))).is_err());
    assert!(forms.join(Some(numbered(3)), None).is_err());
    assert!(forms.join(Some(numbered(3)), Some(numbered(2))).is_err());
    assert!(forms.join(Some(numbered(0)), Some(numbered(1))).is_err());
    assert!(forms.absorbed(|part| part.heads(numbered(0))).is_err());
}
