//! Attention over rows with what its gradients take, and its gradients, as steps.

use super::Library;
use super::calls::Device;
use super::fault::{Fault, guarded};
use super::operations::{Rows, check_out};
use super::pointers::{handed_out, handle};
use super::step::Step;
use super::tensor::{CTensor, Given};
use crate::Padding;
use crate::backend::{Accum, AttentionBackward};
use crate::cuda::{Cuda, CudaDevice, CudaElement, Wanted, attend_with_lse, gradients_to};
use crate::element::Scalar;
use crate::segments::Segments;

/// `mla_step_attend_rows_lse`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn attend_rows_lse<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    k: *const CTensor,
    k_shared: *const CTensor,
    v: *const CTensor,
    ends: *const u32,
    sequences: i64,
    scale: f64,
    causal: i32,
    out: *const CTensor,
    lse: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let rows = unsafe { Rows::read::<L::Elem>(q, k, k_shared, v, out)? };
        // SAFETY: as above
        let lse = unsafe { read_lse::<L::Elem>(lse, &rows)? };
        // SAFETY: as above
        let segments = unsafe { rows.segments(ends, sequences, causal, Padding::Allowed)? };
        let record = || {
            rows.asked::<L::Elem, _>(device, &segments, scale, |attention| {
                Step::record(device, Vec::new(), || {
                    // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
                    let (out, lse) = unsafe { (rows.out.buffer(device), lse.buffer(device)) };
                    Ok(attend_with_lse(device, &attention, &out, &lse)?)
                })
            })
        };
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// `mla_step_attend_rows_backward`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula, and their gradients
pub unsafe fn attend_rows_backward<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    k: *const CTensor,
    k_shared: *const CTensor,
    v: *const CTensor,
    ends: *const u32,
    sequences: i64,
    scale: f64,
    causal: i32,
    out: *const CTensor,
    lse: *const CTensor,
    d_out: *const CTensor,
    deterministic: i32,
    d_q: *const CTensor,
    d_k: *const CTensor,
    d_k_shared: *const CTensor,
    d_v: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let rows = unsafe { Rows::read::<L::Elem>(q, k, k_shared, v, out)? };
        // SAFETY: as above
        let given = unsafe { Results::read::<L::Elem>(lse, d_out, &rows)? };
        // SAFETY: as above
        let gradients = unsafe { Gradients::read::<L::Elem>(d_q, d_k, d_k_shared, d_v, &rows)? };
        // Rows of no sequence would have no gradient
        // SAFETY: as above
        let segments = unsafe { rows.segments(ends, sequences, causal, Padding::Refused)? };
        let scaled = Scaled {
            segments: &segments,
            scale,
            deterministic: deterministic != 0,
        };
        let record = || record::<L::Elem>(device, &rows, &given, &gradients, &scaled);
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// How attention was computed, and how its gradients are to be.
struct Scaled<'a> {
    segments: &'a Segments,
    scale: f64,
    deterministic: bool,
}

/// What the forward pass gave beside its output, and the gradient of that.
struct Results {
    lse: Given,
    d_out: Given,
}

impl Results {
    /// # Safety
    /// `mla.h`'s contract.
    unsafe fn read<T: CudaElement>(
        lse: *const CTensor,
        d_out: *const CTensor,
        rows: &Rows,
    ) -> Result<Self, Fault> {
        // SAFETY: this function's contract
        let lse = unsafe { read_lse::<T>(lse, rows)? };
        // SAFETY: as above
        let d_out = unsafe { Given::read("d_out", d_out)? };
        d_out.of_type(T::NAME)?;
        check_out(&d_out, rows.q.heads()?, rows.v.heads()?.width)?;
        Ok(Self { lse, d_out })
    }
}

/// `[rows.., heads]` accumulators.
///
/// # Safety
/// `mla.h`'s contract.
unsafe fn read_lse<T: CudaElement>(lse: *const CTensor, rows: &Rows) -> Result<Given, Fault> {
    // SAFETY: this function's contract
    let lse = unsafe { Given::read("lse", lse)? };
    lse.of_type(<Accum<Cuda<T>> as Scalar>::NAME)?;
    lse.without_gaps()?;
    let (lines, queries) = (lse.rows()?, rows.q.heads()?);
    if (lines.rows, lines.width) != (queries.rows, queries.heads) {
        return Err(lse.refused(format!(
            "has shape {:?}, wanted [.., {}] with {} rows",
            lse.shape, queries.heads, queries.rows
        )));
    }
    Ok(lse)
}

/// Where gradients go.
struct Gradients {
    q: Given,
    k: Given,
    k_shared: Option<Given>,
    v: Given,
}

impl Gradients {
    /// # Safety
    /// `mla.h`'s contract.
    unsafe fn read<T: CudaElement>(
        d_q: *const CTensor,
        d_k: *const CTensor,
        d_k_shared: *const CTensor,
        d_v: *const CTensor,
        rows: &Rows,
    ) -> Result<Self, Fault> {
        let accum = <Accum<Cuda<T>> as Scalar>::NAME;
        // SAFETY: this function's contract
        let read = |name, tensor, of, dtype| unsafe { read_like(name, tensor, of, dtype) };
        let k_shared = match &rows.k_shared {
            None => None,
            Some(of) => {
                let given = read("d_k_shared", d_k_shared, of, accum)?;
                given.without_gaps()?;
                Some(given)
            }
        };
        Ok(Self {
            q: read("d_q", d_q, &rows.q, T::NAME)?,
            k: read("d_k", d_k, &rows.k, T::NAME)?,
            k_shared,
            v: read("d_v", d_v, &rows.v, T::NAME)?,
        })
    }
}

/// A tensor of another's rows, heads and width.
///
/// # Safety
/// `mla.h`'s contract.
unsafe fn read_like(
    name: &str,
    tensor: *const CTensor,
    of: &Given,
    dtype: &str,
) -> Result<Given, Fault> {
    // SAFETY: this function's contract
    let given = unsafe { Given::read(name, tensor)? };
    given.of_type(dtype)?;
    let (lines, wanted) = (given.heads()?, of.heads()?);
    let shape = (wanted.rows, wanted.heads, wanted.width);
    if (lines.rows, lines.heads, lines.width) != shape {
        return Err(given.refused(format!(
            "has shape {:?}, wanted that of what it is the gradient of, {:?}",
            given.shape, of.shape
        )));
    }
    Ok(given)
}

/// Writes the gradients' computation down.
fn record<T: CudaElement>(
    device: &CudaDevice,
    rows: &Rows,
    given: &Results,
    gradients: &Gradients,
    scaled: &Scaled<'_>,
) -> Result<Step, Fault> {
    // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
    let elements = unsafe {
        [
            &rows.out,
            &given.d_out,
            &gradients.q,
            &gradients.k,
            &gradients.v,
        ]
        .map(|tensor| tensor.buffer::<T>(device))
    };
    let [out, d_out, d_q, d_k, d_v] = &elements;
    // SAFETY: as above
    let lse = unsafe { given.lse.buffer(device) };
    let k_shared = gradients.k_shared.as_ref();
    // SAFETY: as above
    let k_shared = k_shared.map(|shared| unsafe { shared.buffer(device) });
    rows.asked::<T, _>(device, scaled.segments, scaled.scale, |attention| {
        let backward = AttentionBackward {
            attention,
            out: rows.out.heads()?.of(out),
            lse: &lse,
            d_out: given.d_out.heads()?.of(d_out),
        };
        let (q, k, v) = (
            gradients.q.heads()?,
            gradients.k.heads()?,
            gradients.v.heads()?,
        );
        Step::record(device, Vec::new(), || {
            let wanted = Wanted {
                q: q.of(d_q),
                k: k.of(d_k),
                v: v.of(d_v),
                k_rope: k_shared.as_ref(),
            };
            Ok(gradients_to(
                device,
                &backward,
                &wanted,
                scaled.deterministic,
            )?)
        })
    })
}
