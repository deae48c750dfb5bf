//! The JSON header of a safetensors file, read without trusting it.
//!
//! The `safetensors` crate's reader keeps the last of two entries with one name, gives up on a whole file for one element type
//! it does not know, and rarely says which tensor is at fault. A checkpoint is the largest foreign input that this
//! crate meets, so it reads the header itself: eight bytes of length, then an object of `{dtype, shape, data_offsets}`.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::stored::DType;

/// Longest header that is read. The format's own limit.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// One tensor's entry, proved to fit its file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub(crate) range: Range<usize>,
}

/// What is wrong with a header.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The file as a whole.
    File(String),
    /// One tensor of it.
    Tensor(String, String),
}

/// The entries of the safetensors file `bytes`, in the order of their data.
///
/// # Errors
/// The length doesn't fit the file, the JSON is broken or has a name twice, an entry's range is outside the file, overlaps
/// another, leaves a hole, or isn't as long as shape and element type say.
pub(crate) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, Broken> {
    let (header, data_start) = header(bytes)?;
    let raw: Header =
        serde_json::from_slice(header).map_err(|error| Broken::File(format!("header: {error}")))?;
    let data_bytes = bytes.len() - data_start;
    let mut entries = Vec::with_capacity(raw.0.len());
    for (name, entry) in raw.0 {
        match entry.locate(data_bytes) {
            Ok(range) => entries.push(Entry {
                name,
                dtype: DType::named(&entry.dtype),
                shape: entry.shape,
                range: data_start + range.start..data_start + range.end,
            }),
            Err(problem) => return Err(Broken::Tensor(name, problem)),
        }
    }
    entries.sort_by(|a, b| {
        (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
    });
    refuse_duplicates(&entries)?;
    refuse_gaps(&entries, data_start, bytes.len())?;
    Ok(entries)
}

/// The header's bytes, and where the data behind it begins.
fn header(bytes: &[u8]) -> Result<(&[u8], usize), Broken> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Broken::File(format!(
            "found {} bytes, wanted at least 8: a truncated download?",
            bytes.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    let fitting = usize::try_from(length)
        .ok()
        .filter(|&length| length <= MAX_HEADER_BYTES && length <= rest.len());
    let Some(length) = fitting else {
        return Err(Broken::File(format!(
            "the header claims {length} bytes, but {} follow: a truncated download, or another format",
            rest.len()
        )));
    };
    Ok((&rest[..length], 8 + length))
}

/// Two entries with one name.
fn refuse_duplicates(entries: &[Entry]) -> Result<(), Broken> {
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Broken::Tensor(
            pair[0].to_owned(),
            "the header names it twice".to_owned(),
        )),
        None => Ok(()),
    }
}

/// Entries that share bytes, or bytes that belong to none.
fn refuse_gaps(entries: &[Entry], data_start: usize, file_end: usize) -> Result<(), Broken> {
    let mut covered = data_start;
    let mut previous = "the header";
    for entry in entries {
        if entry.range.start < covered {
            return Err(Broken::Tensor(
                entry.name.clone(),
                format!("its bytes overlap those of `{previous}`"),
            ));
        }
        if entry.range.start > covered {
            let hole = entry.range.start - covered;
            return Err(Broken::Tensor(
                entry.name.clone(),
                format!("{hole} bytes before it belong to no tensor"),
            ));
        }
        covered = entry.range.end;
        previous = &entry.name;
    }
    if covered != file_end {
        return Err(Broken::File(format!(
            "{} bytes at its end belong to no tensor",
            file_end - covered
        )));
    }
    Ok(())
}

/// The header object, in file order, duplicates kept.
struct Header(Vec<(String, RawEntry)>);

/// One entry as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl RawEntry {
    /// The entry's bytes within `data_bytes` of data.
    fn locate(&self, data_bytes: usize) -> Result<Range<usize>, String> {
        let (start, end) = self.data_offsets;
        if start > end || end > data_bytes {
            return Err(format!(
                "data_offsets [{start}, {end}] lie outside the file's {data_bytes} bytes of data"
            ));
        }
        let Some(elements) = self
            .shape
            .iter()
            .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        else {
            return Err(format!("shape {:?} overflows", self.shape));
        };
        let Some(bits) = DType::named(&self.dtype).bits() else {
            return Ok(start..end);
        };
        match elements.checked_mul(bits) {
            None => Err(format!(
                "shape {:?} of {} overflows",
                self.shape, self.dtype
            )),
            Some(bits) if bits % 8 != 0 || bits / 8 != end - start => Err(format!(
                "shape {:?} of {} takes {} bytes, but data_offsets span {}",
                self.shape,
                self.dtype,
                bits.div_ceil(8),
                end - start
            )),
            Some(_) => Ok(start..end),
        }
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let entry = map
                        .next_value()
                        .map_err(|error| de::Error::custom(format!("tensor `{name}`: {error}")))?;
                    entries.push((name, entry));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
