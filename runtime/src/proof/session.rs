//! Feeding requests to a layer with a cache, some tokens at a time.

use super::sample::{Dice, Request};
use crate::{
    Backend, Batch, CacheFormat, Caches, Error, KvCache, Result, Scalar, Sequence, Tensor,
};

/// A cache, the blocks of each request, and how many of its tokens have been fed.
#[derive(Debug)]
pub(crate) struct Session<'a, L: Caches<B>, B: Backend, E: CacheFormat, I: CacheFormat> {
    layer: &'a L,
    requests: &'a [Request],
    cache: L::Cache<E, I>,
    blocks: Vec<Vec<u32>>,
    cached: Vec<usize>,
    /// Blocks of the cache, and tokens of a contiguous one's.
    room: (usize, usize),
    device: B::Device,
}

/// How blocks are handed out, and what is in them at first.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    /// Shuffles them.
    pub(crate) dice: Dice,
    /// Blocks that no request gets.
    pub(crate) spare: u32,
    /// What every slot holds before it is written.
    pub(crate) fill: f64,
}

impl<'a, L: Caches<B>, B: Backend, E: CacheFormat, I: CacheFormat> Session<'a, L, B, E, I> {
    /// An empty cache with room for all tokens of `requests`.
    pub(crate) fn new(
        layer: &'a L,
        device: &B::Device,
        requests: &'a [Request],
        blocks: Blocks,
    ) -> Result<Self> {
        let longest = requests.iter().map(Request::tokens).max().unwrap_or(0);
        let needed = |request: &Request| match L::Cache::<E, I>::PAGE_SIZE {
            Some(page) => request.tokens().div_ceil(page.max(1)),
            None => 1,
        };
        let total: usize = requests.iter().map(needed).sum();
        let total = u32::try_from(total)
            .ok()
            .and_then(|total| total.checked_add(blocks.spare));
        let total = total.ok_or(Error::Overflow {
            what: "the number of cache blocks",
        })?;
        let mut cache = L::Cache::<E, I>::with_blocks(device, total as usize, longest)?;
        cache.fill(blocks.fill)?;
        let Blocks { mut dice, .. } = blocks;
        let mut free = dice.shuffled(total).into_iter();
        let blocks = requests
            .iter()
            .map(|request| free.by_ref().take(needed(request)).collect())
            .collect();
        Ok(Self {
            layer,
            requests,
            cache,
            blocks,
            cached: vec![0; requests.len()],
            room: (total as usize, longest),
            device: device.clone(),
        })
    }

    /// Feeds the next `new[i]` tokens of each request through `call`; returns their outputs, request by request, `[new, h]`.
    pub(crate) fn step(
        &mut self,
        new: &[usize],
        call: impl FnOnce(&L, &mut L::Cache<E, I>, &Batch, &Tensor<B>) -> Result<Tensor<B>>,
    ) -> Result<Vec<Vec<f64>>> {
        let (mut hidden, mut positions, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (request, &new)) in self.requests.iter().zip(new).enumerate() {
            let tokens = self.cached[i]..self.cached[i] + new;
            let Some(slice) = request.positions.get(tokens.clone()) else {
                return Err(Error::BadBatch(format!(
                    "request {i} has fewer than {} tokens",
                    tokens.end
                )));
            };
            positions.extend_from_slice(slice);
            let values =
                &request.hidden[tokens.start * L::HIDDEN_SIZE..tokens.end * L::HIDDEN_SIZE];
            hidden.extend(values.iter().map(|&value| B::Elem::from_f64(value)));
            sequences.push(Sequence {
                cached: tokens.start,
                new,
                blocks: &self.blocks[i],
            });
        }
        let batch = Batch::new(&sequences)?.with_positions(positions)?;
        let hidden = Tensor::from_vec(&self.device, hidden, L::HIDDEN_SIZE)?;
        let out = call(self.layer, &mut self.cache, &batch, &hidden)?.to_vec()?;
        let mut values = out.into_iter().map(Scalar::to_f64);
        let split = new
            .iter()
            .map(|new| values.by_ref().take(new * L::HIDDEN_SIZE).collect())
            .collect();
        for (cached, new) in self.cached.iter_mut().zip(new) {
            *cached += new;
        }
        Ok(split)
    }

    /// Feeds all tokens, `plan[step][request]` of them at a time; returns all outputs, request by request.
    pub(crate) fn feed(
        &mut self,
        plan: &[Vec<usize>],
        mut call: impl FnMut(&L, &mut L::Cache<E, I>, &Batch, &Tensor<B>) -> Result<Tensor<B>>,
    ) -> Result<Vec<Vec<f64>>> {
        let mut all = vec![Vec::new(); self.requests.len()];
        for new in plan {
            for (all, new) in all.iter_mut().zip(self.step(new, &mut call)?) {
                all.extend(new);
            }
        }
        Ok(all)
    }

    /// What [`KvCache::with_blocks`] gives another layer a cache of the same blocks for.
    pub(crate) fn room(&self) -> (usize, usize) {
        self.room
    }

    /// How many tokens of each request have been fed.
    pub(crate) fn cached(&self) -> &[usize] {
        &self.cached
    }

    /// What the cache holds of request `i`: latents and rope keys, token by token; `None` for a naive cache.
    pub(crate) fn latent_rows(&self, i: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        self.cache.latent_rows(&self.blocks[i], self.cached[i])
    }

    /// The index keys that the cache holds of request `i`, token by token; `None` where it holds none.
    pub(crate) fn index_rows(&self, i: usize) -> Result<Option<Vec<f64>>> {
        self.cache.index_rows(&self.blocks[i], self.cached[i])
    }
}
