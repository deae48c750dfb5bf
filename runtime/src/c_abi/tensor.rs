//! Tensors of callers: what they say of themselves is checked, what memory they name is believed.

use std::ffi::{c_char, c_void};

use super::fault::Fault;
use super::pointers::{array, named, text};
use crate::backend::Strided;
use crate::cuda::{Address, Cuda, CudaBuffer, CudaDevice, CudaElement};
use crate::element::Scalar;

/// `mla_tensor`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CTensor {
    /// The first element.
    pub data: *mut c_void,
    /// What it holds: one of `enum mla_dtype`.
    pub dtype: i32,
    /// How many dimensions it has.
    pub rank: i32,
    /// Their sizes.
    pub shape: *const i64,
    /// From one element to the next along each, in elements; null: row-major without gaps.
    pub strides: *const i64,
}

/// `mla_named_tensor`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CNamedTensor {
    /// Its full name.
    pub name: *const c_char,
    /// The tensor.
    pub tensor: CTensor,
}

/// Number types by their numbers in `mla.h`: name and bytes.
pub(super) const DTYPES: [(&str, usize); 7] = [
    ("f32", 4),
    ("bf16", 2),
    ("f16", 2),
    ("f64", 8),
    ("i32", 4),
    ("e4m3", 1),
    ("u8", 1),
];

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: i32 = 8;

/// A caller's tensor, its shape and strides copied.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) at: Address,
    pub(super) dtype: &'static str,
    pub(super) bytes: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// Elements from the first to the last one, both included.
    pub(super) span: usize,
}

/// A tensor's elements as rows of heads. All in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) row_stride: usize,
    pub(super) head_stride: usize,
}

impl Given {
    /// Reads an argument.
    ///
    /// # Safety
    /// It is null or a tensor whose shape and strides are null or as long as its rank.
    pub(super) unsafe fn read(name: &str, tensor: *const CTensor) -> Result<Self, Fault> {
        // SAFETY: this function's contract
        let tensor = unsafe { tensor.as_ref() }.ok_or_else(|| Fault::argument(name, "is null"))?;
        // SAFETY: as above
        unsafe { Self::of(name, tensor) }
    }

    /// Reads the tensors of an array, with their names.
    ///
    /// # Safety
    /// The array is null or has `count` elements, each with a name that is null or ends with a 0, and a tensor as for
    /// [`read`](Self::read).
    pub(super) unsafe fn read_named(
        argument: &str,
        tensors: *const CNamedTensor,
        count: i64,
    ) -> Result<Vec<(String, Self)>, Fault> {
        // SAFETY: this function's contract
        let tensors = unsafe { array(argument, tensors, named(argument, "count", count)?)? };
        let read = |(i, tensor): (usize, &CNamedTensor)| {
            // SAFETY: this function's contract
            let name = unsafe { text(&format!("{argument}[{i}].name"), tensor.name)? };
            // SAFETY: as above
            let given = unsafe { Self::of(&format!("{argument}[{i}], {name}"), &tensor.tensor)? };
            Ok((name, given))
        };
        tensors.iter().enumerate().map(read).collect()
    }

    /// # Safety
    /// Its shape and strides are null or as long as its rank.
    unsafe fn of(name: &str, tensor: &CTensor) -> Result<Self, Fault> {
        let refused = |problem: String| Fault::argument(name, problem);
        let Some(&(dtype, bytes)) = usize::try_from(tensor.dtype)
            .ok()
            .and_then(|dtype| DTYPES.get(dtype))
        else {
            return Err(refused(format!(
                "dtype {} is none of `mla.h`'s, 0 to {}",
                tensor.dtype,
                DTYPES.len() - 1
            )));
        };
        if !(0..=MOST_DIMENSIONS).contains(&tensor.rank) {
            return Err(refused(format!(
                "rank {} is not between 0 and {MOST_DIMENSIONS}",
                tensor.rank
            )));
        }
        let rank = tensor.rank as usize;
        // SAFETY: this function's contract
        let shape = unsafe { array(&format!("{name}.shape"), tensor.shape, rank)? };
        let shape =
            sizes(shape).ok_or_else(|| refused(format!("shape {shape:?} has a negative size")))?;
        let overflow = || refused(format!("shape {shape:?} is larger than memory"));
        let strides = if tensor.strides.is_null() {
            without_gaps(&shape).ok_or_else(overflow)?
        } else {
            // SAFETY: this function's contract
            let strides = unsafe { array(&format!("{name}.strides"), tensor.strides, rank)? };
            sizes(strides)
                .ok_or_else(|| refused(format!("strides {strides:?} has a negative one")))?
        };
        let span = span(&shape, &strides).ok_or_else(overflow)?;
        span.checked_mul(bytes)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(overflow)?;
        let at = tensor.data as usize;
        if span > 0 && at == 0 {
            return Err(refused("its data is null".to_owned()));
        }
        if !at.is_multiple_of(bytes) {
            return Err(refused(format!(
                "its data lies at {at:#x}, which is no multiple of an element's {bytes} bytes"
            )));
        }
        Ok(Self {
            name: name.to_owned(),
            at: at as Address,
            dtype,
            bytes,
            shape,
            strides,
            span,
        })
    }

    pub(super) fn refused(&self, problem: impl Into<String>) -> Fault {
        Fault::argument(self.name.clone(), problem)
    }

    /// Refuses another number type than this one.
    pub(super) fn of_type(&self, dtype: &str) -> Result<(), Fault> {
        if self.dtype == dtype {
            return Ok(());
        }
        Err(self.refused(format!("holds {}, wanted {dtype}", self.dtype)))
    }

    /// `[.., width]` as rows.
    pub(super) fn rows(&self) -> Result<Lines, Fault> {
        self.lines(false)
    }

    /// `[.., heads, width]` as rows of heads.
    pub(super) fn heads(&self) -> Result<Lines, Fault> {
        self.lines(true)
    }

    fn lines(&self, has_heads: bool) -> Result<Lines, Fault> {
        let wanted = 1 + usize::from(has_heads);
        let Some(outer) = self.shape.len().checked_sub(wanted) else {
            return Err(self.refused(format!(
                "has shape {:?}, wanted at least {wanted} dimensions",
                self.shape
            )));
        };
        let last = self.shape.len() - 1;
        let width = self.shape[last];
        if width > 1 && self.strides[last] != 1 {
            return Err(self.refused(format!(
                "strides {:?}: neighbours along the last dimension have to lie side by side",
                self.strides
            )));
        }
        let (heads, head_stride) = match has_heads {
            true => (self.shape[outer], self.strides[outer]),
            false => (1, 0),
        };
        let (rows, row_stride) = self.merged(outer)?;
        Ok(Lines {
            rows,
            heads,
            width,
            row_stride,
            head_stride,
        })
    }

    /// The first dimensions as one.
    fn merged(&self, outer: usize) -> Result<(usize, usize), Fault> {
        let mut merged: Option<(usize, usize)> = None;
        for (&size, &stride) in self.shape[..outer].iter().zip(&self.strides).rev() {
            merged = match merged {
                _ if size == 1 => continue,
                None => Some((size, stride)),
                Some((count, step)) if size == 0 || count == 0 => Some((0, step)),
                Some((count, step)) if count.checked_mul(step) == Some(stride) => {
                    // Fewer than there are elements, which were counted
                    Some((count * size, step))
                }
                Some(_) => {
                    return Err(self.refused(format!(
                        "shape {:?} with strides {:?}: the dimensions before the last ones have to lie as one",
                        self.shape, self.strides
                    )));
                }
            };
        }
        // Of one row, no step is taken
        Ok(merged.unwrap_or((1, self.span.max(1))))
    }

    /// Refuses gaps: the elements have to lie row-major, one after another.
    pub(super) fn without_gaps(&self) -> Result<(), Fault> {
        let tight = without_gaps(&self.shape).unwrap_or_default();
        let mut dimensions = self.shape.iter().zip(self.strides.iter().zip(&tight));
        if self.span == 0 || dimensions.all(|(&size, (a, b))| size == 1 || a == b) {
            return Ok(());
        }
        Err(self.refused(format!(
            "shape {:?} with strides {:?}: it has to be contiguous",
            self.shape, self.strides
        )))
    }

    /// The memory, as a buffer of its elements.
    ///
    /// # Safety
    /// It holds numbers of this type, and is there for as long as work names the buffer.
    pub(super) unsafe fn buffer<S>(&self, device: &CudaDevice) -> CudaBuffer<S> {
        // SAFETY: this function's contract
        unsafe { CudaBuffer::borrowed(device, self.at, self.span) }
    }
}

impl Lines {
    /// A window of a buffer.
    pub(super) fn of<T: CudaElement, S: Scalar>(
        self,
        buffer: &CudaBuffer<S>,
    ) -> Strided<'_, Cuda<T>, S> {
        Strided {
            buffer,
            offset: 0,
            rows: self.rows,
            heads: self.heads,
            width: self.width,
            row_stride: self.row_stride,
            head_stride: self.head_stride,
        }
    }

    /// Whether the rows, of one head each, lie one after another.
    pub(super) fn are_tight(self) -> bool {
        self.rows <= 1 || self.row_stride == self.width
    }
}

fn sizes(numbers: &[i64]) -> Option<Vec<usize>> {
    numbers.iter().map(|&n| usize::try_from(n).ok()).collect()
}

/// Row-major strides.
fn without_gaps(shape: &[usize]) -> Option<Vec<usize>> {
    let mut step = 1_usize;
    let mut strides = vec![0; shape.len()];
    for (stride, &size) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.checked_mul(size.max(1))?;
    }
    Some(strides)
}

/// Elements from the first to the last one; `None` where they are more than can be counted, or would be without strides of 0.
fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |count, &size| count.checked_mul(size))?;
    let mut last = 0_usize;
    for (&size, &stride) in shape.iter().zip(strides) {
        last = last.checked_add((size - 1).checked_mul(stride)?)?;
    }
    last.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(shape: &[i64], strides: Option<&[i64]>) -> Result<Given, Fault> {
        let values = [0_u64; 1];
        let tensor = CTensor {
            data: values.as_ptr() as *mut c_void,
            dtype: 0,
            rank: shape.len() as i32,
            shape: shape.as_ptr(),
            strides: strides.map_or(std::ptr::null(), <[i64]>::as_ptr),
        };
        // SAFETY: shape and strides are as long as the rank; no element is read
        unsafe { Given::read("x", &tensor) }
    }

    #[test]
    fn dimensions_merge_where_they_lie_as_one() {
        let lines = |shape: &[i64], strides: &[i64]| {
            given(shape, Some(strides)).and_then(|given| given.heads())
        };
        let wanted = Lines {
            rows: 6,
            heads: 4,
            width: 5,
            row_stride: 100,
            head_stride: 10,
        };
        let found = lines(&[2, 3, 4, 5], &[300, 100, 10, 1]).expect("rows that lie as one");
        assert_eq!(found, wanted);
        let found = lines(&[1, 6, 4, 5], &[7, 100, 10, 1]).expect("a size of 1 takes no steps");
        assert_eq!(found, wanted);
        assert!(lines(&[2, 3, 4, 5], &[400, 100, 10, 1]).is_err());
        assert!(lines(&[6, 4, 5], &[100, 10, 2]).is_err());
        assert_eq!(
            lines(&[0, 3, 4, 5], &[1, 1, 1, 1]).expect("nothing").rows,
            0
        );
    }

    #[test]
    fn what_a_tensor_says_of_itself_has_to_make_sense() {
        for (shape, strides, part) in [
            (&[-1_i64, 2][..], None, "negative size"),
            (&[1, 2], Some(&[1_i64, -1][..]), "a negative one"),
            (&[i64::MAX, 2], None, "larger than memory"),
            (&[i64::MAX, i64::MAX], Some(&[0, 0]), "larger than memory"),
        ] {
            let error = given(shape, strides).expect_err("nonsense").to_string();
            assert!(
                error.starts_with("`x`: ") && error.contains(part),
                "{error}"
            );
        }
        assert_eq!(given(&[2, 3], Some(&[10, 2])).expect("a tensor").span, 15);
        assert!(
            given(&[2, 3], Some(&[10, 1]))
                .expect("a tensor")
                .without_gaps()
                .is_err()
        );
        assert!(
            given(&[1, 3], Some(&[10, 1]))
                .expect("a tensor")
                .without_gaps()
                .is_ok()
        );
    }
}
