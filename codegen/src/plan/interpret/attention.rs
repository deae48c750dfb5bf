//! Ops in which tokens attend to others.

use super::Error;
use super::array::{Array, dot};
use super::attend::{Attended, Pairs, Softmax, attend, grouped, merge, with_sink};
use super::cache::{Cache, Piece};
use super::call::{Keys, Queries, picked};
use super::dropout::Dropout;
use super::params::Linear;
use super::rotate::{angles, rotate};
use super::run::Machine;
use super::visible::Sight;
use crate::plan::{CacheContent, Op, Turned, ValueId};

/// Keys with what belongs to them: latents or expanded heads, and shared rope keys.
struct Cached {
    first: Array,
    second: Array,
    keys: Keys,
}

impl Machine<'_> {
    /// The result of an attention op.
    pub(super) fn attention(&mut self, op: &Op) -> Result<Attended, Error> {
        match op {
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                selection,
                ..
            } => {
                let (rows, keys) = self.call.own_keys();
                let kv = picked(self.array(*kv)?, &rows);
                let k_rope = picked(self.array(*k_rope)?, &rows);
                self.expanded(*q, &kv, &k_rope, &keys, *selection)
            }
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                selection,
                ..
            } => {
                let (rows, keys) = self.call.own_keys();
                let latent = picked(self.array(*latent)?, &rows);
                let k_rope = picked(self.array(*k_rope)?, &rows);
                self.absorbed((*q_latent, *q_rope), &latent, &k_rope, &keys, *selection)
            }
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection,
                ..
            } => {
                let all = self.everything()?;
                self.absorbed(
                    (*q_latent, *q_rope),
                    &all.first,
                    &all.second,
                    &all.keys,
                    *selection,
                )
            }
            Op::AttendNaiveCache { q, selection, .. } => {
                let heads = self.array(*q)?.heads;
                let all = self.everything()?;
                self.expanded(
                    *q,
                    &all.first.cut(heads),
                    &all.second,
                    &all.keys,
                    *selection,
                )
            }
            Op::AttendGroups { q, k, v, .. } => {
                let (q, k, v) = (self.array(*q)?, self.array(*k)?, self.array(*v)?);
                match self.call.extras.context {
                    None => {
                        let (rows, keys) = self.call.own_keys();
                        let (k, v) = (picked(k, &rows), picked(v, &rows));
                        Ok(self.groups(q, &k, &v, &self.call.queries, &keys))
                    }
                    Some(context) => {
                        let lengths: Vec<usize> = context
                            .sequences
                            .iter()
                            .map(ExactSizeIterator::len)
                            .collect();
                        let rows: Vec<usize> =
                            context.sequences.iter().cloned().flatten().collect();
                        let (queries, keys) = self.call.among_others(&lengths);
                        Ok(self.groups(q, &picked(k, &rows), &picked(v, &rows), &queries, &keys))
                    }
                }
            }
            Op::AttendGroupCache { q, .. } => self.group_cache(self.array(*q)?),
            Op::FlashDecode { q, k, v, .. } => self.flash_decode(*q, *k, *v),
            Op::AttendContext {
                q,
                latent,
                k_rope,
                slot,
                part,
                chunk,
                ..
            } => {
                let up = self.inner(slot, *part)?;
                self.context(*q, (*latent, *k_rope), up, chunk.size as usize)
            }
            Op::Sink { x, slot, .. } => {
                let logits = slot.map(|slot| self.params.sinks(slot)).transpose()?;
                let logit = |head: usize| logits.map_or(0.0, |logits| logits[head]);
                Ok(with_sink(self.attended(*x)?, logit))
            }
            _ => Err(Error::BadPlan("an op that attends was wanted")),
        }
    }

    pub(super) fn sight(&self) -> Sight<'_> {
        Sight {
            mask: self.program.mask,
            given: self.call.extras.visible,
            blocks: self.call.extras.blocks,
        }
    }

    pub(super) fn softmax(&self) -> Softmax<'_> {
        let plan = self.program.softmax;
        let seed = self.call.extras.dropout_seed;
        let seed = seed.filter(|_| !self.plan.phase.is_cached() && plan.dropout > 0.0);
        Softmax {
            scale: self.program.softmax_scale.value,
            plan,
            bias: self.call.extras.bias.filter(|_| plan.bias),
            dropout: seed.map(|seed| Dropout {
                probability: plan.dropout,
                seed,
            }),
        }
    }

    pub(super) fn pairs<'a>(
        &'a self,
        queries: &'a Queries,
        keys: &'a Keys,
        selection: Option<ValueId>,
    ) -> Result<Pairs<'a>, Error> {
        let selection = selection.map(|id| self.selection(id)).transpose()?;
        Ok(Pairs {
            sight: self.sight(),
            queries,
            keys,
            selection: selection.map(|(lists, _)| lists),
        })
    }

    /// `q_n · k_n + q_r · k_r` and `v`, with `[k_n; v]` per head in `kv`.
    fn expanded(
        &self,
        q: ValueId,
        kv: &Array,
        k_rope: &Array,
        keys: &Keys,
        selection: Option<ValueId>,
    ) -> Result<Attended, Error> {
        let q = self.array(q)?;
        let (nope, value) = (self.size("QK_NOPE_HEAD_DIM")?, self.size("V_HEAD_DIM")?);
        let product = |query: usize, head: usize, key: usize| {
            let (q, k) = (q.at(query, head), &kv.at(key, head)[..nope]);
            dot(&q[..nope], k) + dot(&q[nope..], k_rope.at(key, 0))
        };
        Ok(attend(
            self.pairs(&self.call.queries, keys, selection)?,
            self.softmax(),
            (q.rows, q.heads, value),
            product,
            |key, head| &kv.at(key, head)[nope..],
        ))
    }

    /// `q̃ · ĉ + q_r · k_r` and `ĉ`, the same for every head.
    fn absorbed(
        &self,
        (q_latent, q_rope): (ValueId, ValueId),
        latent: &Array,
        k_rope: &Array,
        keys: &Keys,
        selection: Option<ValueId>,
    ) -> Result<Attended, Error> {
        let (q_latent, q_rope) = (self.array(q_latent)?, self.array(q_rope)?);
        let product = |query: usize, head: usize, key: usize| {
            let content = dot(q_latent.at(query, head), latent.at(key, 0));
            content + dot(q_rope.at(query, head), k_rope.at(key, 0))
        };
        Ok(attend(
            self.pairs(&self.call.queries, keys, selection)?,
            self.softmax(),
            (q_latent.rows, q_latent.heads, q_latent.dim),
            product,
            |key, _| latent.at(key, 0),
        ))
    }

    fn groups(&self, q: &Array, k: &Array, v: &Array, queries: &Queries, keys: &Keys) -> Attended {
        let pairs = Pairs {
            sight: self.sight(),
            queries,
            keys,
            selection: None,
        };
        grouped(pairs, self.softmax(), q, k, v)
    }

    /// The cache of keys and values that the call reads: another layer's where the layer has none of its own.
    fn read_cache(&self) -> Result<&Cache, Error> {
        match self.program.source {
            None => Ok(self.call.cache),
            Some(_) => self.call.extras.source.ok_or(Error::MissingExtra("source")),
        }
    }

    /// All that the pieces' requests have cached, the call's own tokens included.
    fn everything(&self) -> Result<Cached, Error> {
        let cache = self.read_cache()?;
        let complete = |(piece, cached): (&Piece, &usize)| {
            cache.entry_count(piece.request) == cached + piece.tokens
        };
        if !self.call.pieces.iter().zip(&self.call.cached).all(complete) {
            return Err(Error::BadPlan(
                "attention over a cache that the call's tokens are not in",
            ));
        }
        let (first, second, keys) = cache.gather(self.call.pieces, |piece| {
            0..self.call.cached[piece] + self.call.pieces[piece].tokens
        });
        Ok(Cached {
            first,
            second,
            keys: self.call.recognised(keys),
        })
    }

    /// Attention among the new tokens, merged with attention over what the pieces' requests had cached before the call, in runs of
    /// `chunk` tokens.
    fn context(
        &self,
        q: ValueId,
        (own_latent, own_key): (ValueId, ValueId),
        up: &Linear,
        chunk: usize,
    ) -> Result<Attended, Error> {
        let heads = self.array(q)?.heads;
        let (own, own_keys) = self.call.own_keys();
        let kv = up.apply(&picked(self.array(own_latent)?, &own)).cut(heads);
        let own_key = picked(self.array(own_key)?, &own);
        let mut merged = self.expanded(q, &kv, &own_key, &own_keys, None)?;
        let (latent, k_rope, keys) = self
            .read_cache()?
            .gather(self.call.pieces, |piece| 0..self.call.cached[piece]);
        let rows: Vec<usize> = (0..keys.0.len()).collect();
        for run in rows.chunks(chunk.max(1)) {
            let kv = up.apply(&picked(&latent, run)).cut(heads);
            let keys = Keys(run.iter().map(|&row| keys.0[row]).collect());
            let part = self.expanded(q, &kv, &picked(&k_rope, run), &keys, None)?;
            merged = merge(&merged, &part);
        }
        Ok(merged)
    }

    /// Attention over a cache of groups: the request's own tokens, or all of its context.
    fn group_cache(&self, q: &Array) -> Result<Attended, Error> {
        let cache = &self.call.cache;
        let (k, v, keys) = cache.gather(self.call.pieces, |_| 0..usize::MAX);
        let groups = self.program.groups().size as usize;
        let (k, v) = (k.cut(groups), v.cut(groups));
        let content = self.program.cache.as_ref().map(|plan| plan.content);
        if content == Some(CacheContent::Context) {
            let pieces = self.call.pieces.iter();
            let lengths: Vec<usize> = pieces.map(|piece| cache.tokens(piece.request)).collect();
            let (queries, keys) = self.call.among_others(&lengths);
            return Ok(self.groups(q, &k, &v, &queries, &keys));
        }
        let keys = self.call.recognised(keys);
        Ok(self.groups(q, &k, &v, &self.call.queries, &keys))
    }

    /// Rotates the first elements of queries and keys, appends keys and values to the cache, and attends to all of it.
    fn flash_decode(&mut self, q: ValueId, k: ValueId, v: ValueId) -> Result<Attended, Error> {
        let table = self.rotary()?;
        let (cos, sin) = angles(table, &self.call.positions);
        let turned = |x| -> Result<Array, Error> {
            let layouts = (table.input, table.output);
            Ok(rotate(self.array(x)?, (&cos, &sin), Turned::First, layouts))
        };
        let (q, k, v) = (turned(q)?, turned(k)?, self.array(v)?.clone());
        self.call.cache.write(self.call.pieces, &k, &v);
        self.group_cache(&q)
    }

    /// The context's rows as pieces of the call's requests.
    pub(super) fn context_pieces(&self) -> Result<Vec<Piece>, Error> {
        let context = self.call.extras.context;
        let sequences = context.ok_or(Error::MissingExtra("context"))?.sequences;
        let pieces = self.call.pieces.iter().zip(sequences);
        Ok(pieces
            .map(|(piece, rows)| Piece {
                request: piece.request,
                tokens: rows.len(),
            })
            .collect())
    }
}
