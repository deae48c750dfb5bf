//! What the kernels that measure are told, as their texts lay it out.

use bytemuck::{Pod, Zeroable};

use super::super::driver::TensorMap;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Reading {
    pub(crate) from: u64,
    pub(crate) sums: u64,
    pub(crate) pieces: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Moving {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) pieces: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Rows {
    pub(crate) from: u64,
    pub(crate) sums: u64,
    pub(crate) rows: u32,
    pub(crate) reads: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Tiles {
    pub(crate) from: TensorMap,
    pub(crate) sums: u64,
    pub(crate) across: u32,
    pub(crate) tiles: u32,
    pub(crate) reads: u32,
    pub(crate) unused: [u32; 11],
}

/// Of `ceiling_convert` and `ceiling_wgmma`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Rounds {
    pub(crate) cycles: u64,
    pub(crate) sums: u64,
    pub(crate) rounds: u32,
    pub(crate) unused: u32,
}
