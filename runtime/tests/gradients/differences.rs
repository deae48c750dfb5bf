//! Finite differences of a function of many values.

/// `f`'s derivatives at `x` by each value, by central differences of fourth order.
pub(crate) fn derivatives(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-3;
    let mut moved = x.to_vec();
    (0..x.len())
        .map(|i| {
            let mut at = |steps: f64| {
                moved[i] = x[i] + steps * STEP;
                let value = f(&moved);
                moved[i] = x[i];
                value
            };
            let (near, far) = (at(1.0) - at(-1.0), at(2.0) - at(-2.0));
            (8.0 * near - far) / (12.0 * STEP)
        })
        .collect()
}

#[test]
fn derivatives_of_a_product_and_a_power() {
    let found = derivatives(&[0.5, -1.25, 2.0], |x| x[0] * x[1] + x[2].powi(3));
    for (found, wanted) in found.iter().zip([-1.25, 0.5, 12.0]) {
        assert!((found - wanted).abs() < 1e-10);
    }
}
