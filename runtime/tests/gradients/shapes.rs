//! Tensors widened, added up and taken apart.

use mla_runtime::{Cpu, CpuElement, PerHead, Rows, Selection, bf16, groups};

use super::{DEVICE, assert_adjoint, assert_close, dot, heads, rows, values, wide};

fn columns<T: CpuElement>(count: usize, tolerance: f64) {
    let x = rows::<T, 11>(count, 0.1);
    let part = rows::<T, 4>(count, 0.5);
    let spread = part.spread::<5, 11>().unwrap();
    let (xs, parts, spreads) = (
        x.to_vec().unwrap(),
        part.to_vec().unwrap(),
        spread.to_vec().unwrap(),
    );
    for (row, part) in spreads.chunks_exact(11).zip(parts.chunks_exact(4)) {
        assert_eq!(row[5..9], *part);
        assert!(
            wide(row)[..5]
                .iter()
                .chain(&wide(row)[9..])
                .all(|&x| x == 0.0)
        );
    }
    let taken = x.columns::<5, 4>().to_vec().unwrap();
    assert_eq!(dot(&taken, &parts), dot(&xs, &spreads));

    // Columns of one tensor are added to columns of another
    let mut sum = x.copied().unwrap();
    sum.add_columns::<2, 4>(x.columns::<7, 4>()).unwrap();
    let wanted: Vec<f64> = (0..xs.len())
        .map(|i| {
            let added = if (2..6).contains(&(i % 11)) {
                xs[i + 5].to_f64()
            } else {
                0.0
            };
            xs[i].to_f64() + added
        })
        .collect();
    assert_close(&sum.to_vec().unwrap(), &wanted, tolerance);
    assert_eq!(x.to_vec().unwrap(), xs, "a copy is one");

    let mut sum = x.copied().unwrap();
    sum.add(&x).unwrap();
    let wanted: Vec<f64> = wide(&xs).iter().map(|x| 2.0 * x).collect();
    assert_eq!(wide(&sum.to_vec().unwrap()), wanted);
}

#[test]
fn columns_are_spread_and_added() {
    for count in [0, 1, 7, 130] {
        columns::<f64>(count, 1e-15);
        columns::<f32>(count, 1e-6);
        columns::<bf16>(count, 1e-2);
    }
    let mut x = rows::<f32, 3>(2, 0.0);
    assert!(x.add(&rows::<f32, 3>(3, 0.0)).is_err());
    let zeros: Rows<Cpu, 0> = Rows::zeros(&DEVICE, 4).unwrap();
    assert_eq!(zeros.rows(), 4);
    x.add_columns::<3, 0>(&Rows::zeros(x.device(), 2).unwrap())
        .unwrap();
    assert_eq!(x.to_vec().unwrap(), values::<f32>(6, 0.0));
    assert!(
        Rows::<Cpu, { usize::MAX / 2 }>::zeros(&DEVICE, 5).is_err(),
        "an overflowing size"
    );
}

fn parts<T: CpuElement>(count: usize, tolerance: f64) {
    let x = heads::<T, 3, 5, 15>(count, 0.3);
    let y = heads::<T, 3, 9, 27>(count, 0.6);
    let wide_x = x.view().spread::<2, 9>().unwrap();
    let taken = y.part::<2, 5>().to_vec().unwrap();
    let (xs, ys) = (x.to_vec().unwrap(), y.to_vec().unwrap());
    assert_adjoint(&wide_x.to_vec().unwrap(), &ys, &xs, &taken, 1e-12);

    let mut sum = y.copied().unwrap();
    sum.add_part::<2, 5>(&x).unwrap();
    sum.add(&wide_x).unwrap();
    let wanted: Vec<f64> = wide_x
        .to_vec()
        .unwrap()
        .iter()
        .zip(&ys)
        .map(|(x, y)| y.to_f64() + 2.0 * x.to_f64())
        .collect();
    assert_close(&sum.to_vec().unwrap(), &wanted, tolerance);
    assert_eq!(y.to_vec().unwrap(), ys, "a copy is one");
}

#[test]
fn parts_of_heads_are_spread_and_added() {
    for count in [0, 1, 6, 200] {
        parts::<f64>(count, 1e-15);
        parts::<f32>(count, 1e-6);
        parts::<bf16>(count, 2e-2);
    }
    let mut x = heads::<f32, 2, 3, 6>(2, 0.0);
    assert!(x.add(&heads::<f32, 2, 3, 6>(1, 0.0)).is_err());
    assert_eq!(x.device(), &DEVICE);
}

fn grouped<const W: usize>(gated: bool) {
    const H: usize = 6;
    const G: usize = 3;
    const D: usize = 5;
    for count in [0, 1, 4] {
        let x = rows::<f64, W>(count, 0.2);
        let xs = x.to_vec().unwrap();
        let q = groups::query::<_, W, H, G, D>(&x).unwrap();
        let k = groups::key::<_, W, G, D>(&x).unwrap();
        let v = groups::value::<_, W, G, D>(&x).unwrap();
        // Each part put back is the row again, and a second time its double
        let mut back = Rows::<Cpu<f64>, W>::zeros(&DEVICE, count).unwrap();
        for twice in [1.0, 2.0] {
            groups::add_query::<_, W, H, G, D>(&mut back, &q).unwrap();
            groups::add_key::<_, W, G, D>(&mut back, &k).unwrap();
            groups::add_value::<_, W, G, D>(&mut back, &v).unwrap();
            if gated {
                add_gate::<W>(&x, &mut back);
            }
            let wanted: Vec<f64> = xs.iter().map(|x| twice * x).collect();
            assert_eq!(back.to_vec().unwrap(), wanted);
        }
        assert!(groups::add_key::<_, W, G, D>(&mut back, &heads::<_, G, D, 15>(9, 0.0)).is_err());
    }
}

fn add_gate<const W: usize>(x: &Rows<Cpu<f64>, W>, back: &mut Rows<Cpu<f64>, W>) {
    // The widths are proved when this is compiled, for rows without gates too
    const GATED: usize = (2 * 6 + 2 * 3) * 5;
    let x: Rows<Cpu<f64>, GATED> = Rows::from_vec(&DEVICE, x.to_vec().unwrap()).unwrap();
    let gates = groups::gate::<_, GATED, 6, 3, 5, 30>(&x).unwrap();
    let mut wide: Rows<Cpu<f64>, GATED> = Rows::from_vec(&DEVICE, back.to_vec().unwrap()).unwrap();
    groups::add_gate::<_, GATED, 6, 3, 5, 30>(&mut wide, &gates).unwrap();
    *back = Rows::from_vec(&DEVICE, wide.to_vec().unwrap()).unwrap();
}

#[test]
fn what_groups_give_is_put_back_where_it_was() {
    grouped::<{ (6 + 2 * 3) * 5 }>(false);
    grouped::<{ (2 * 6 + 2 * 3) * 5 }>(true);
    // A key and a value per group alone
    let x = rows::<f32, 12>(3, 0.7);
    let mut back = Rows::<Cpu, 12>::zeros(&DEVICE, 3).unwrap();
    groups::add_key::<_, 12, 2, 3>(&mut back, &groups::key(&x).unwrap()).unwrap();
    groups::add_value::<_, 12, 2, 3>(&mut back, &groups::value(&x).unwrap()).unwrap();
    assert_eq!(back.to_vec().unwrap(), x.to_vec().unwrap());
}

fn per_head<T: CpuElement>() {
    let x = rows::<T, 7>(5, 0.2);
    let mut wide_x: PerHead<Cpu<T>, 7> = x.view().to_per_head().unwrap();
    assert_eq!(
        wide_x.to_rows().unwrap().to_vec().unwrap(),
        x.to_vec().unwrap()
    );
    wide_x.add(&x.view().to_per_head().unwrap()).unwrap();
    let wanted: Vec<f64> = wide(&x.to_vec().unwrap()).iter().map(|x| 2.0 * x).collect();
    assert_eq!(wide(&wide_x.to_vec().unwrap()), wanted);
    assert!(
        wide_x
            .add(&rows::<T, 7>(4, 0.2).view().to_per_head().unwrap())
            .is_err()
    );
}

#[test]
fn values_per_head_are_added_and_rounded() {
    per_head::<f64>();
    per_head::<f32>();
    per_head::<bf16>();
}

#[test]
fn a_copied_selection_is_the_same() {
    let selection: Selection<Cpu, 3> =
        Selection::from_vec(&DEVICE, vec![0, 2, -1, 1, 4, 7]).unwrap();
    let copy = selection.copied().unwrap();
    assert_eq!(copy.to_vec().unwrap(), selection.to_vec().unwrap());
    assert_eq!(copy.rows(), 2);
}
