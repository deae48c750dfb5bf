//! What a latent cache keeps of new tokens, made on the way into it.

use super::format::{CacheFormat, Entries};
use super::index::IndexCache;
use super::indexed::IndexedCache;
use super::latent::LatentCache;
use super::layout::CacheLayout;
use crate::backend::{Backend, Rotation, Strided};
use crate::batch::Batch;
use crate::error::{Result, expect_count};
use crate::prologue::{IndexKey, Normed, NormedRows, PrologueQueries, RotatedKey};
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::Rows;

/// The question of [`Backend::prologue`]: rows to be normed and rotated, and where a cache keeps them. Slots are of both caches.
#[derive(Debug)]
pub struct Prologue<'a, B: Backend, F: CacheFormat, I: CacheFormat> {
    /// The latent of the queries.
    pub queries: Option<&'a NormedRows<'a, B>>,
    /// The latent of keys and values.
    pub latent: &'a NormedRows<'a, B>,
    /// The shared part of the keys.
    pub rope: Strided<'a, B, B::Elem>,
    /// How it is rotated.
    pub rotation: &'a Rotation<'a, B>,
    /// Where latents and rotated parts go.
    pub entries: &'a mut Entries<B, F>,
    /// An indexer's keys.
    pub key: Option<PrologueKey<'a, B, I>>,
    /// A slot for each row; `None`: the row is not kept.
    pub slots: &'a [Option<usize>],
    /// Whether latents and rotated parts are wanted as rows, too.
    pub keeps: bool,
}

/// What an indexer's keys are made of.
#[derive(Debug)]
pub struct PrologueKey<'a, B: Backend, I: CacheFormat> {
    /// The keys.
    pub rows: &'a NormedRows<'a, B>,
    /// How a part of them is rotated.
    pub rotation: &'a Rotation<'a, B>,
    /// Whether they are times the normalised Hadamard matrix.
    pub transformed: bool,
    /// Where they go.
    pub entries: &'a mut Entries<B, I>,
}

/// What [`Backend::prologue`] makes beside what it writes.
#[derive(Debug)]
pub struct PrologueParts<B: Backend> {
    /// The queries' normed latent, where there was one.
    pub queries: Option<B::Buffer<B::Elem>>,
    /// Normed latents and rotated parts, where they were wanted.
    pub entries: Option<[B::Buffer<B::Elem>; 2]>,
}

impl<B: Backend, F: CacheFormat, L: RopeLayout, P: CacheLayout, const C: usize, const R: usize>
    LatentCache<B, F, L, P, C, R>
{
    /// Writes the new tokens' latents and rotated keys, which are computed on the way, and the norm of the queries' latent beside them: `q` is
    /// that norm, or `()`. Everything is checked before anything is written.
    ///
    /// # Errors
    /// As [`LatentCache::write`].
    pub fn prologue<'a, Q: PrologueQueries<'a, B>>(
        &mut self,
        batch: &Batch,
        q: Q,
        latent: Normed<'a, B, C>,
        k_rope: RotatedKey<'a, B, L, R>,
    ) -> Result<Q::Out> {
        let slots = self.prologue_slots(batch, &q, &latent, &k_rope)?;
        self.prologue_at(&slots, q, latent, k_rope)
    }

    /// The same, to slots that have been looked up.
    fn prologue_at<'a, Q: PrologueQueries<'a, B>>(
        &mut self,
        slots: &[Option<usize>],
        q: Q,
        latent: Normed<'a, B, C>,
        k_rope: RotatedKey<'a, B, L, R>,
    ) -> Result<Q::Out> {
        if let Some(parts) = self.in_one_pass(slots, &q, (&latent, &k_rope), false)? {
            return q.made(parts.queries);
        }
        let (latent, k_rope) = (latent.compute()?, k_rope.compute(&self.device)?);
        self.entries
            .write(slots, latent.view().strided(), k_rope.view().strided())?;
        q.made(None)
    }

    /// [`LatentCache::prologue`], with the latents and the rotated keys as rows, too.
    ///
    /// # Errors
    /// As [`LatentCache::write`].
    #[expect(
        clippy::type_complexity,
        reason = "three results, each of its own type"
    )]
    pub fn prologue_kept<'a, Q: PrologueQueries<'a, B>>(
        &mut self,
        batch: &Batch,
        q: Q,
        latent: Normed<'a, B, C>,
        k_rope: RotatedKey<'a, B, L, R>,
    ) -> Result<(Q::Out, Rows<B, C>, RopeKey<B, L, R>)> {
        let slots = self.prologue_slots(batch, &q, &latent, &k_rope)?;
        if let Some(PrologueParts {
            queries,
            entries: Some(entries),
        }) = self.in_one_pass(&slots, &q, (&latent, &k_rope), true)?
        {
            let (latent, k_rope) = self.dressed(slots.len(), entries);
            return Ok((q.made(queries)?, latent, k_rope));
        }
        let (latent, k_rope) = (latent.compute()?, k_rope.compute(&self.device)?);
        self.entries
            .write(&slots, latent.view().strided(), k_rope.view().strided())?;
        Ok((q.made(None)?, latent, k_rope))
    }

    /// Both, if the device has a pass for it.
    fn in_one_pass<'a, Q: PrologueQueries<'a, B>>(
        &mut self,
        slots: &[Option<usize>],
        q: &Q,
        (latent, k_rope): (&Normed<'a, B, C>, &RotatedKey<'a, B, L, R>),
        keeps: bool,
    ) -> Result<Option<PrologueParts<B>>> {
        let asked = Prologue::<B, F, f32> {
            queries: q.rows(),
            latent: &latent.rows,
            rope: k_rope.x,
            rotation: &k_rope.rotation,
            entries: &mut self.entries,
            key: None,
            slots,
            keeps,
        };
        B::prologue(&self.device, asked)
    }

    /// Where the rows go, all of which agree with the batch.
    fn prologue_slots<'a, Q: PrologueQueries<'a, B>>(
        &self,
        batch: &Batch,
        q: &Q,
        latent: &Normed<'a, B, C>,
        k_rope: &RotatedKey<'a, B, L, R>,
    ) -> Result<Vec<Option<usize>>> {
        let tokens = batch.tokens();
        expect_count("latents to be cached", latent.rows(), tokens)?;
        expect_count("rotated keys to be cached", k_rope.x.rows, tokens)?;
        expect_count("positions", k_rope.angles, tokens)?;
        if let Some(rows) = q.rows() {
            expect_count("latents of queries", rows.x.rows, tokens)?;
        }
        self.geometry.written(batch)
    }
}

impl<
    B: Backend,
    F: CacheFormat,
    I: CacheFormat,
    L: RopeLayout,
    P: CacheLayout,
    const C: usize,
    const R: usize,
    const DI: usize,
> IndexedCache<LatentCache<B, F, L, P, C, R>, IndexCache<B, I, P, DI>>
{
    /// [`LatentCache::prologue`], with an indexer's keys, which are computed and written as well.
    ///
    /// # Errors
    /// As [`LatentCache::write`] and [`IndexCache::write`].
    pub fn prologue<'a, Q: PrologueQueries<'a, B>>(
        &mut self,
        batch: &Batch,
        q: Q,
        latent: Normed<'a, B, C>,
        k_rope: RotatedKey<'a, B, L, R>,
        key: IndexKey<'a, B, DI>,
    ) -> Result<Q::Out> {
        expect_count("index keys to be cached", key.normed.rows(), batch.tokens())?;
        expect_count("positions of index keys", key.angles, batch.tokens())?;
        let slots = self.kv.prologue_slots(batch, &q, &latent, &k_rope)?;
        let key_slots = self.index.written(batch)?;
        if key_slots == slots {
            let asked = Prologue {
                queries: q.rows(),
                latent: &latent.rows,
                rope: k_rope.x,
                rotation: &k_rope.rotation,
                entries: &mut self.kv.entries,
                key: Some(PrologueKey {
                    rows: &key.normed.rows,
                    rotation: &key.rotation,
                    transformed: key.transformed,
                    entries: &mut self.index.entries,
                }),
                slots: &slots,
                keeps: false,
            };
            if let Some(parts) = B::prologue(&self.kv.device, asked)? {
                return q.made(parts.queries);
            }
        }
        self.index.write_to(&key_slots, key.compute()?.view())?;
        self.kv.prologue_at(&slots, q, latent, k_rope)
    }
}
