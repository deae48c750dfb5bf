//! The proofs that layers of every option bring along, on a GPU instead of the CPU.

/// The layers; each has its tests inside.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "generated modules, of which tests use a part"
)]
mod layers {
    include!(concat!(env!("OUT_DIR"), "/proofs.rs"));
}
