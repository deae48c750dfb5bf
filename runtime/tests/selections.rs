//! Selections: what a list of positions has to be.

use mla_runtime::{Cpu, CpuDevice, Result, Selection};

const DEVICE: CpuDevice = CpuDevice::new();

fn selection(positions: &[i32]) -> Result<Selection<Cpu, 3>> {
    Selection::from_vec(&DEVICE, positions.to_vec())
}

fn listed(lists: &[&[u32]]) -> Result<Vec<i32>> {
    Selection::<Cpu, 3>::from_lists(&DEVICE, lists)?.to_vec()
}

#[test]
fn positions_come_back_as_they_went() {
    let positions = [0, 4, 9, 7, -1, -1, -1, -1, -1];
    let selection = selection(&positions).expect("ascending");
    assert_eq!(selection.rows(), 3);
    assert_eq!(selection.to_vec().expect("positions"), positions);
    assert_eq!(self::selection(&[]).expect("no rows").rows(), 0);
}

#[test]
fn lists_are_sorted_and_filled_up() {
    let lists: [&[u32]; 3] = [&[9, 0, 4], &[7], &[]];
    assert_eq!(
        listed(&lists).expect("lists"),
        [0, 4, 9, 7, -1, -1, -1, -1, -1]
    );
}

#[test]
fn what_is_no_selection_is_refused() {
    for positions in [
        &[1, 2][..],
        &[2, 1, -1],
        &[1, 1, -1],
        &[-2, 1, 2],
        &[1, -1, 2],
        &[1, -1, -2],
        &[0, 1, 2, 3],
    ] {
        assert!(selection(positions).is_err(), "{positions:?}");
    }
    assert!(listed(&[&[1, 2, 3, 4]]).is_err());
    assert!(listed(&[&[5, 5]]).is_err());
    assert!(listed(&[&[u32::MAX]]).is_err());
}
