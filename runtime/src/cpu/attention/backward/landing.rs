//! Where gradients go.

use crate::backend::{AttentionBackward, Landings};
use crate::cpu::keys::values_are_keys;
use crate::cpu::{Cpu, CpuElement};
use crate::error::{Error, Result};

/// Refuses heads of keys that do not go together, and landings that are not lines of their buffers, or where two gradients would meet.
pub(super) fn checked<T: CpuElement>(
    backward: &AttentionBackward<'_, Cpu<T>>,
    landings: &Landings,
    into: &[Vec<T::Accum>],
) -> Result<()> {
    let attention = &backward.attention;
    let heads = attention.k.heads;
    if attention.v.heads != heads || ![1, heads].contains(&attention.k_rope.heads) {
        return Err(Error::Device(
            "keys have other heads than values, or their second part neither as many nor one"
                .to_owned(),
        ));
    }
    let mut all = vec![
        (landings.q, attention.q.heads, &attention.q),
        (landings.q_rope, attention.q.heads, &attention.q_rope),
        (landings.k, attention.k.heads, &attention.k),
        (landings.k_rope, attention.k_rope.heads, &attention.k_rope),
    ];
    match landings.v {
        Some(landing) => all.push((landing, heads, &attention.v)),
        None if values_are_keys(attention) => {}
        None => {
            return Err(Error::Device(
                "values that are no keys have no place for their gradient".to_owned(),
            ));
        }
    }
    all.retain(|(.., window)| window.width > 0);
    for (i, (landing, heads, window)) in all.iter().enumerate() {
        let lines = window.rows * heads;
        let inside = into.get(landing.buffer).is_some_and(|buffer| {
            buffer.len() == lines * landing.line && landing.offset + window.width <= landing.line
        });
        let meets = all[..i].iter().any(|(other, other_heads, other_window)| {
            other.buffer == landing.buffer
                && ((other.line, other_heads) != (landing.line, heads)
                    || (other.offset < landing.offset + window.width
                        && landing.offset < other.offset + other_window.width))
        });
        if !inside || meets {
            return Err(Error::Device(
                "gradients of attention land beside their buffers or on each other".to_owned(),
            ));
        }
    }
    Ok(())
}
