//! Selected keys on their way from the layer that selects to those that use the same (features L-14).

use crate::backend::Backend;
use crate::error::{Error, Result, expect_count};
use crate::extras::FromHost;
use crate::selection::Selection;

/// Room for one selection. A layer with an indexer sets it in every call, layers after it get it in the same call.
#[derive(Debug)]
pub struct TopK<B: Backend, const K: usize> {
    selection: Option<Selection<B, K>>,
}

impl<B: Backend, const K: usize> TopK<B, K> {
    /// Nothing selected yet.
    pub const fn new() -> Self {
        Self { selection: None }
    }

    /// Hands a selection over; one that is there already is dropped.
    pub fn set(&mut self, selection: Selection<B, K>) {
        self.selection = Some(selection);
    }

    /// The selection for `rows` queries.
    ///
    /// # Errors
    /// When there is none, or it is for another number of queries.
    pub fn get(&self, rows: usize) -> Result<&Selection<B, K>> {
        let selection = self.selection.as_ref().ok_or_else(|| {
            Error::BadSelection("no layer before this one has selected keys".to_owned())
        })?;
        expect_count("queries of a selection", selection.rows(), rows)?;
        Ok(selection)
    }

    /// Takes the selection out, so that no later call can use it by mistake.
    pub fn take(&mut self) -> Option<Selection<B, K>> {
        self.selection.take()
    }
}

/// Positions for each query, in any order, on the host.
#[derive(Debug, Clone)]
pub struct HostTopK<B: Backend> {
    /// Where they go.
    pub device: B::Device,
    /// One list for each row.
    pub lists: Vec<Vec<u32>>,
}

impl<B: Backend, const K: usize> FromHost for TopK<B, K> {
    type Host = HostTopK<B>;

    fn from_host(host: &HostTopK<B>) -> Result<Self> {
        let mut topk = Self::default();
        topk.set(Selection::from_lists(&host.device, &host.lists)?);
        Ok(topk)
    }
}

impl<B: Backend, const K: usize> Default for TopK<B, K> {
    fn default() -> Self {
        Self::new()
    }
}
