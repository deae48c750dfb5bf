//! Kernels of attention and its gradients: over rows, over cached latents, over chosen keys.

use mla_spec::DType;

use super::super::absorbed::{Absorbed, Codes, kernel_over_chosen};
use super::super::flash::{self, FlashChoice};
use super::super::{Plan, ValueId, tuned};
use super::{Asked, Keys, Needs, heads, width};

impl Needs<'_> {
    /// Attention of queries over keys whose rotated part is shared, and what comes of it.
    pub(super) fn expanded(&mut self, plan: &Plan, values: [ValueId; 3], asked: &[Asked]) {
        let [q, k_rope, out] = values.map(|id| &plan.values[id.0].ty);
        let (rope, value) = (width(k_rope), width(out));
        let (heads, key) = (heads(q), width(q).saturating_sub(rope));
        self.attention([heads, heads, 1, heads, key, rope, value]);
        self.flash([key, rope, value], Keys::Rows, asked);
    }

    pub(super) fn absorbed(&mut self, plan: &Plan, q_latent: ValueId, rope: u32, selects: bool) {
        let ty = &plan.values[q_latent.0].ty;
        self.attention([heads(ty), 1, 1, 1, width(ty), rope, width(ty)]);
        if selects {
            self.choosing(heads(ty), width(ty), rope);
        } else {
            self.decoding(heads(ty), width(ty), rope);
        }
    }

    /// The same over keys that are chosen for each query.
    pub(super) fn choosing(&mut self, heads: u32, latent: u32, rope: u32) {
        let codes = self.codes_in_bf16();
        if let Some(codes) = codes {
            self.choosing_codes(codes, heads, latent, rope);
        }
        // Where many queries choose among few entries of codes, those are made numbers before
        if codes.is_some() || self.in_bf16() {
            self.bring_chosen(
                kernel_over_chosen(heads, latent, rope),
                [heads, latent, rope],
                None,
            );
        }
    }

    /// The same of entries of codes.
    pub(super) fn choosing_codes(&mut self, codes: Codes, heads: u32, latent: u32, rope: u32) {
        let kernel = codes.kernel_over_chosen(heads, latent, rope);
        self.bring_chosen(kernel, [heads, latent, rope], Some(codes));
    }

    pub(super) fn bring_chosen(
        &mut self,
        kernel: Option<Absorbed>,
        widths: [u32; 3],
        codes: Option<Codes>,
    ) {
        let Some(Absorbed { unit, rows }) = kernel else {
            return;
        };
        if !self.may_be_on_hopper() || !self.is_plain_softmax() {
            return;
        }
        let of_codes = codes.map(Codes::number);
        let sizes = [rows].into_iter().chain(widths).chain(of_codes).chain([1]);
        let sizes: Vec<usize> = sizes.map(|size| size as usize).collect();
        self.add(unit, &sizes);
        self.add("decode_schedule", &[]);
    }

    /// Absorbed attention with Hopper's tensor cores, where the layer is such that the runtime can take it.
    pub(super) fn decoding(&mut self, heads: u32, latent: u32, rope: u32) {
        let known = Absorbed::takes(latent, rope);
        if !known || !self.may_be_on_hopper() || !self.is_plain_softmax() {
            return;
        }
        let (codes, in_bf16) = (self.codes_in_bf16(), self.in_bf16());
        let sizes = [heads, latent, rope].map(|size| size as usize);
        let mut bring = |Absorbed { unit, rows }, store: &[usize]| {
            self.add(unit, &[&[rows as usize], &sizes[..], store].concat());
            self.add("decode_schedule", &[]);
        };
        if let Some(codes) = codes {
            let kernels = codes.kernels(heads, latent);
            kernels.for_each(|kernel| bring(kernel, &[codes.number() as usize]));
        } else if in_bf16 {
            let kernels = tuned::brought_along(heads, latent, rope);
            kernels.into_iter().for_each(|kernel| bring(kernel, &[]));
        }
    }

    /// The program's own groups.
    pub(super) fn groups(&mut self, plan: &Plan, q: ValueId, out: ValueId, lie: Keys) {
        let [q, out] = [q, out].map(|id| &plan.values[id.0].ty);
        let groups = self.program.groups().size;
        self.grouped(
            heads(q),
            groups,
            width(q),
            width(out),
            lie,
            &[Asked::of(out)],
        );
    }

    pub(super) fn grouped(
        &mut self,
        heads: u32,
        groups: u32,
        key: u32,
        value: u32,
        lie: Keys,
        asked: &[Asked],
    ) {
        self.attention([heads, groups, 1, groups, key, 0, value]);
        self.flash([key, 0, value], lie, asked);
    }

    /// Attention over keys and values with Hopper's tensor cores, where the layer is such that the runtime can take it.
    pub(super) fn flash(&mut self, widths: [u32; 3], lie: Keys, asked: &[Asked]) {
        let widths = widths.map(|width| width as usize);
        let build = &self.program.build;
        let in_bf16 = match lie {
            Keys::Rows => build.dtype == DType::Bf16,
            Keys::Pages => self.in_bf16(),
        };
        let softmax = &self.program.softmax;
        if !in_bf16 || !self.may_be_on_hopper() || softmax.bias || !flash::takes(widths) {
            return;
        }
        for asked in asked {
            let choice = FlashChoice {
                widths,
                capped: softmax.soft_cap.is_some(),
                tells_most: *asked == Asked::All,
                paged: lie == Keys::Pages,
            };
            self.units.insert(choice.unit());
        }
    }

    /// Gradients of attention over rows with Hopper's tensor cores, where the layer is such that the runtime can take them.
    pub(super) fn flash_backward(&mut self, widths: [u32; 3]) {
        let widths = widths.map(|width| width as usize);
        let softmax = &self.program.softmax;
        let capped = softmax.soft_cap.is_some();
        let in_bf16 = self.program.build.dtype == DType::Bf16;
        let Some(queries) = flash::tile_of_backward(widths, capped) else {
            return;
        };
        let plain = !softmax.bias && softmax.dropout == 0.0;
        if !in_bf16 || !self.may_be_on_hopper() || !plain {
            return;
        }
        let [key, rope, value] = widths;
        // The device says whether blocks add in turn
        for turns in [0, 1] {
            self.add("flash_delta", &[key, rope, value, queries, turns]);
            let capped = usize::from(capped);
            let sizes = [key, rope, value, queries, capped, turns];
            self.add("flash_backward", &sizes);
        }
        self.add("flash_queries", &[key, rope, value, queries]);
    }

    /// Query heads, those of keys, of rotated keys and of values; widths of keys, of their rotated part and of values.
    pub(super) fn attention(&mut self, sizes: [u32; 7]) {
        self.add("attend", &sizes.map(|size| size as usize));
        self.add("merge", &[]);
    }

    /// As [`attention`](Self::attention), without the values' heads, which are the keys'. Keys that are chosen for each query have kernels of
    /// their own.
    pub(super) fn attention_backward(&mut self, sizes: [u32; 6], selection: Option<ValueId>) {
        let sizes = sizes.map(|size| size as usize);
        self.add("attend_backward", &sizes);
        self.add("attend_delta", &[]);
        if selection.is_some() {
            self.add("backward_chosen", &sizes);
            self.add("choosers", &[]);
        }
    }
}
