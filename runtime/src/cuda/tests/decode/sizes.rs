//! Kernels of absorbed decode for every size, page, mask and number of requests.
//!
//! A kernel for other sizes is another text, which the host takes some seconds to compile: it has the first few cases of each list.

use super::super::{Dice, hopper_for};
use super::{Case, Question, V3, first};
use crate::visibility::Visibility;

/// Heads, widths of both parts of keys, tokens of a page, and new tokens of each request.
type Size = (usize, [usize; 2], Option<usize>, usize);

fn check_each(sizes: &[Size]) {
    let dice = &mut Dice::new();
    for (i, &(heads, widths, page, new)) in sizes.iter().enumerate() {
        Question::new(dice, Case::new(heads, widths, page, new)).check(&hopper_for(i));
    }
}

#[test]
fn many_rows_of_wide_latents() {
    let sizes = [
        (128, V3, Some(64), 1),
        (128, V3, Some(16), 3),
        (128, V3, Some(1), 1),
        (128, V3, None, 2),
        (16, V3, Some(1), 3),
        // As many queries as a block has room for, and one more
        (16, V3, Some(64), 4),
        (16, V3, Some(64), 5),
        (40, [512, 0], None, 1),
        (40, [256, 32], Some(64), 1),
        (128, V3, Some(64), 2),
        (128, [512, 0], Some(64), 1),
        (16, [512, 0], Some(192), 3),
        (40, V3, Some(64), 3),
        (40, V3, Some(1), 2),
    ];
    check_each(first(6, &sizes));
}

#[test]
fn few_rows() {
    let sizes = [
        (16, V3, Some(64), 1),
        (16, V3, None, 1),
        (16, V3, Some(16), 2),
        (16, [256, 32], None, 2),
        (16, [128, 32], Some(64), 1),
        (1, V3, Some(64), 1),
    ];
    check_each(first(4, &sizes));
}

#[test]
fn many_rows_of_narrow_latents() {
    let sizes = [
        (128, [256, 32], Some(16), 2),
        (128, [256, 32], None, 1),
        (128, [128, 32], None, 3),
        (128, [128, 32], Some(64), 1),
        (40, [128, 32], Some(16), 2),
        (40, [128, 32], Some(64), 4),
        (128, [256, 0], Some(1), 1),
        (128, [128, 48], Some(128), 1),
        (128, [256, 64], Some(64), 2),
        (128, [128, 0], Some(64), 1),
        (40, [256, 32], Some(64), 2),
        (40, [256, 32], None, 4),
        (72, [256, 64], Some(16), 2),
        (192, [128, 64], Some(64), 1),
    ];
    check_each(first(4, &sizes));
}

#[test]
fn latents_of_which_two_warpgroups_share_an_entry() {
    let sizes = [
        (16, [1024, 64], Some(64), 1),
        (16, [1024, 64], Some(16), 2),
        (16, [1024, 64], None, 2),
        (8, [1024, 64], Some(1), 3),
        (100, [640, 48], Some(64), 1),
        (16, [1024, 64], None, 3),
        (128, [1024, 64], Some(64), 2),
        (40, [1024, 16], Some(1), 1),
        (16, [384, 64], Some(64), 1),
        (20, [384, 64], Some(16), 3),
        (16, [768, 0], None, 2),
        (64, [768, 0], Some(192), 1),
    ];
    check_each(first(3, &sizes));
}

#[test]
fn windows_show_what_they_show() {
    let dice = &mut Dice::new();
    for visibility in [
        Visibility::CAUSAL.window(Some(100), None),
        Visibility::CAUSAL.window(Some(3), Some(0)),
        Visibility::FULL,
    ] {
        let sizes = [
            (128, V3, Some(64), 2),
            (16, V3, None, 3),
            (16, [1024, 64], Some(16), 2),
            (128, [256, 32], Some(16), 3),
            (16, [128, 32], None, 1),
            (40, V3, Some(16), 1),
            (40, [1024, 64], Some(16), 2),
            (16, [640, 32], None, 1),
            (40, [128, 32], None, 3),
        ];
        for (i, &(heads, widths, page, new)) in first(3, &sizes).iter().enumerate() {
            let mut case = Case::new(heads, widths, page, new);
            case.visibility = visibility;
            Question::new(dice, case).check(&hopper_for(i));
        }
    }
}

#[test]
fn prompts() {
    let dice = &mut Dice::new();
    let short = vec![(20, 20), (1, 1), (70, 9)];
    let prompts = [short, vec![(300, 300), (1, 1), (500, 40)], vec![(100, 130)]];
    for requests in first(1, &prompts) {
        let sizes = [(128, [128, 32]), (16, V3), (5, [256, 64]), (12, [1024, 64])];
        for (i, (heads, widths)) in sizes.into_iter().enumerate() {
            let mut case = Case::new(heads, widths, Some(64), 1);
            case.requests.clone_from(requests);
            Question::new(dice, case).check(&hopper_for(i));
        }
    }
}

#[test]
fn long_requests_are_shared_among_all_multiprocessors() {
    let dice = &mut Dice::new();
    let cases = [
        (16, V3, vec![(5_000, 1), (17, 1)]),
        (128, V3, vec![(4_000, 1)]),
        (128, [256, 32], vec![(3_000, 1), (17, 1)]),
        (16, [1024, 64], vec![(4_000, 1)]),
        (16, V3, vec![(100, 1); 60]),
        (128, V3, vec![(9, 1); 40]),
        (128, V3, vec![(20_000, 1)]),
        (16, V3, vec![(30_000, 2), (17, 1)]),
        (16, V3, vec![(900, 1); 140]),
        (16, V3, vec![(640, 1); 66]),
        (128, [1024, 64], vec![(9_000, 1)]),
        (16, [1024, 64], vec![(15_000, 2), (17, 1)]),
        (16, [384, 64], vec![(900, 1); 140]),
        (128, [256, 32], vec![(20_000, 1), (17, 1)]),
        (40, [128, 32], vec![(900, 2); 140]),
    ];
    for (i, (heads, widths, requests)) in first(6, &cases).iter().enumerate() {
        let mut case = Case::new(*heads, *widths, Some(64), 1);
        case.requests.clone_from(requests);
        Question::new(dice, case).check(&hopper_for(i));
    }
}
