//! What the model is told: the cross-entropy of its next character.

/// The mean of `-ln softmax(logits)[target]` over the targets, in nats, and its gradient times `scale`. `logits` holds a row for each target.
///
/// With `p = softmax(logits)`: `dlogits = (p - onehot(target)) · scale / targets`.
pub(crate) fn cross_entropy(logits: &[f64], targets: &[usize], scale: f64) -> (f64, Vec<f64>) {
    let count = targets.len().max(1);
    let vocabulary = logits.len() / count;
    let share = 1.0 / count as f64;
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &target) in logits.chunks(vocabulary.max(1)).zip(targets) {
        // ln Σ e^x, the largest x taken out so that no exponential overflows
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        let total = largest + sum.ln();
        loss += (total - row[target]) * share;
        gradient.extend(row.iter().enumerate().map(|(token, x)| {
            let wanted = if token == target { 1.0 } else { 0.0 };
            ((x - total).exp() - wanted) * share * scale
        }));
    }
    (loss, gradient)
}
