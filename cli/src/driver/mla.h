/* A layer that mla-gen generated, as a shared library: `mla-gen build SPEC --shared FILE.so`.
 *
 * A library holds one layer. Two may be loaded side by side, opened with dlopen and RTLD_LOCAL, since all define the same names.
 *
 * Status. Functions return MLA_OK or why not; mla_last_error() says more. Where a function fails, handles that it would have made are
 * null and tensors that it would have written have any content. No function panics or throws into its caller.
 *
 * Contract, for all functions. What a pointer names is as large as its neighbours in the argument list say. Pointers named `host` are to
 * the host's memory and are read before the function returns; a tensor's `data` is memory of the device that the layer was opened on,
 * with its shape and strides on the host. Handles are those that a function of the same library made, and are not used after they were
 * freed. Streams are CUstream (cudaStream_t) of the device's primary context, which is the runtime API's and torch's; null is the
 * default stream. What is freed while something that was made with it is left stays until that is freed, too: steps keep layers and
 * caches. Only memory of the caller's own has to outlive the steps that name it. `out` may be `hidden` itself; what is in it before a call's work is done
 * may be anything.
 *
 * Order. mla_forward, mla_prefill, mla_decode and mla_mixed run in a stream of the device's own: after what the caller's stream holds when they are
 * called, and before what it gets afterwards, by events; the host does not wait. They may allocate and upload, so they refuse a stream
 * that is being captured: make a step before, and run that. Work of one device shares memory, so all calls on one device are to be
 * ordered by the caller: one stream, or streams that wait for each other. Functions may be called from any thread.
 *
 * Steps. mla_step_... writes down what the device is asked to do, with all tables and uploads, and runs nothing. mla_step_run queues it
 * in a stream, any number of times: it reads and writes its tensors' memory as that is then, but lengths, positions and blocks stay
 * those of its making. Nothing is allocated and nobody waits, so the stream may be one that is being captured into a CUDA graph; run a
 * step once before, since drivers load kernels when they first run. A step is freed once its last run, and that of graphs that hold it, is done.
 */
#ifndef MLA_H
#define MLA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum mla_status {
  MLA_OK = 0,
  MLA_BAD_ARGUMENT = 1, /* an argument can be seen to be wrong; the message names it */
  MLA_REFUSED = 2,      /* the layer, the weights or the device refuse; the message says why */
  MLA_PANIC = 3,        /* a mistake in the library */
};

enum mla_dtype { MLA_F32 = 0, MLA_BF16 = 1, MLA_F16 = 2, MLA_F64 = 3, MLA_I32 = 4, MLA_E4M3 = 5, MLA_U8 = 6 };

enum mla_phase { MLA_FORWARD = 1, MLA_PREFILL = 2, MLA_DECODE = 4, MLA_MIXED = 8 };

typedef struct mla_device mla_device;
typedef struct mla_layer mla_layer;
typedef struct mla_cache mla_cache;
typedef struct mla_step mla_step;

/* A tensor in the device's memory. Strides count elements and are not negative. Neighbours along the last dimension have to lie side by
 * side, weights aside. Where a function wants rows `[.., width]` or heads `[.., heads, width]`, the dimensions in front may be any that
 * lie as one. */
typedef struct {
  void* data;
  int32_t dtype; /* enum mla_dtype */
  int32_t rank;  /* at most 8 */
  const int64_t* shape;
  const int64_t* strides; /* null: row-major without gaps */
} mla_tensor;

typedef struct {
  const char* name;
  mla_tensor tensor;
} mla_named_tensor;

/* Requests whose new tokens stand one after another in the rows of `hidden`. All arrays are the host's. */
typedef struct {
  int64_t requests;
  const int64_t* cached;       /* [requests] tokens that the cache holds of each */
  const int64_t* added;        /* [requests] new tokens of each */
  const int64_t* block_counts; /* [requests] blocks of each */
  const uint32_t* blocks;      /* the blocks of each, in the order of its tokens, request after request */
  const uint32_t* positions;   /* one for each new token; null: they continue from `cached` */
} mla_batch;

typedef struct {
  const char* name; /* the layer's, for as long as the library is loaded */
  int64_t hidden_size;
  int32_t dtype;   /* of `hidden` and `out`: enum mla_dtype */
  uint32_t phases; /* those that it has: enum mla_phase, added up */
} mla_description;

/* Why this thread's last failing call failed; valid until its next one. */
const char* mla_last_error(void);

/* What the library holds. */
int32_t mla_describe(mla_description* into);

/* A GPU, counted from 0 as the driver sees them; -1 is the host emulating one, for tests: there, device memory is host memory. */
int32_t mla_device_open(int32_t ordinal, mla_device** device);
int32_t mla_device_free(mla_device* device);

/* Loads the layer from a safetensors file, or the folder of a sharded checkpoint: from the tensors below `prefix`, such as
 * "model.layers.0.self_attn", which have to be exactly the layer's. */
int32_t mla_layer_open(const mla_device* device, const char* path, const char* prefix, mla_layer** layer);

/* The same from tensors on the device, with any strides; they are copied by way of the host, once `stream` has come to its end. */
int32_t mla_layer_from_tensors(const mla_device* device, const mla_named_tensor* tensors, int64_t count, void* stream, mla_layer** layer);
int32_t mla_layer_free(mla_layer* layer);

/* An empty cache in the spec's formats. A paged one has `blocks` pages, and `tokens_per_block` is the spec's page size; a contiguous one
 * has a block for each request, of as many tokens. */
int32_t mla_cache_new(const mla_device* device, int64_t blocks, int64_t tokens_per_block, mla_cache** cache);
int32_t mla_cache_free(mla_cache* cache);

/* Whole sequences, no cache. `hidden` and `out` are rows of hidden_size, `positions` one per row (host). Sequence i is rows
 * cu_seqlens[i] .. cu_seqlens[i + 1] (host, sequences + 1 of them); null: all rows are one. */
int32_t mla_forward(const mla_layer* layer, void* stream, const mla_tensor* hidden, const uint32_t* positions, const uint32_t* cu_seqlens,
                    int64_t sequences, const mla_tensor* out);

/* New tokens of a batch against what the cache holds, which gets them: planned for many per request, for few, and for each request by its
 * own number, its prompt or a part of it beside others' single tokens. A step of the last keeps the choice of its making. */
int32_t mla_prefill(const mla_layer* layer, mla_cache* cache, void* stream, const mla_batch* batch, const mla_tensor* hidden,
                    const mla_tensor* out);
int32_t mla_decode(const mla_layer* layer, mla_cache* cache, void* stream, const mla_batch* batch, const mla_tensor* hidden,
                   const mla_tensor* out);
int32_t mla_mixed(const mla_layer* layer, mla_cache* cache, void* stream, const mla_batch* batch, const mla_tensor* hidden,
                  const mla_tensor* out);

/* The same, written down. */
int32_t mla_step_forward(const mla_layer* layer, const mla_tensor* hidden, const uint32_t* positions, const uint32_t* cu_seqlens,
                         int64_t sequences, const mla_tensor* out, mla_step** step);
int32_t mla_step_prefill(const mla_layer* layer, mla_cache* cache, const mla_batch* batch, const mla_tensor* hidden, const mla_tensor* out,
                         mla_step** step);
int32_t mla_step_decode(const mla_layer* layer, mla_cache* cache, const mla_batch* batch, const mla_tensor* hidden, const mla_tensor* out,
                        mla_step** step);
int32_t mla_step_mixed(const mla_layer* layer, mla_cache* cache, const mla_batch* batch, const mla_tensor* hidden, const mla_tensor* out,
                       mla_step** step);

/* Queues a step in a stream. */
int32_t mla_step_run(const mla_step* step, void* stream);
int32_t mla_step_free(mla_step* step);

/* Single operations, in the library's number type, over the caller's memory; results are contiguous. A library brings their kernels for its own
 * widths, and for all of its heads, half, a fourth and an eighth of them.
 *
 * Absorbed attention over a paged latent cache: q [requests, new, heads, latent + rope], cache [pages, page, (1,) latent + rope], out
 * [requests, new, heads, latent] = softmax(scale q k) k[.. latent]. Request i has lengths[i] tokens (host), its new ones included, in
 * blocks[i * blocks_each ..] (host). Where `causal`, a new token does not see those behind it. */
int32_t mla_step_attend_paged(const mla_device* device, const mla_tensor* q, const mla_tensor* cache, int64_t latent,
                              const uint32_t* blocks, int64_t blocks_each, const int64_t* lengths, double scale, int32_t causal,
                              const mla_tensor* out, mla_step** step);

/* The same over chosen entries: q [rows.., heads, latent + rope], entries [keys.., latent + rope], indices [rows.., most] of entries
 * (i32, on the device, read by every run), in any order, -1 for none, each at most once in a row. counts [rows..] (i32, on the device, read by every
 * run): how many of a row's indices count, the first ones; null: all of them. Entries may be bytes (MLA_U8), [keys.., 656] for latents of 512 and a
 * rotated part of 64: codes of e4m3, four scales of f32, the rotated part in bf16, as caches of `fp8_ds_mla` have them. */
int32_t mla_step_attend_selected(const mla_device* device, const mla_tensor* q, const mla_tensor* entries, int64_t latent,
                                 const mla_tensor* indices, const mla_tensor* counts, double scale, const mla_tensor* out, mla_step** step);

/* Attention over rows of keys and values: q [rows.., heads, key + shared], k [rows.., groups, key], k_shared [rows.., groups, shared], v [rows..,
 * groups, value], out [rows.., heads, value]; numbers of groups divide that of heads, and may differ. k_shared is the part of keys that the last
 * columns of q meet, of one group where all heads share it, and null where keys have no such part. Nothing is put together: k and v may be columns of
 * one tensor. Sequences as for mla_forward. */
int32_t mla_step_attend_rows(const mla_device* device, const mla_tensor* q, const mla_tensor* k, const mla_tensor* k_shared,
                             const mla_tensor* v, const uint32_t* cu_seqlens, int64_t sequences, double scale, int32_t causal,
                             const mla_tensor* out, mla_step** step);

/* The same, and lse [rows.., heads], the natural logarithm of each row and head's sum of exponentials (f32, or f64 in a library of f64). */
int32_t mla_step_attend_rows_lse(const mla_device* device, const mla_tensor* q, const mla_tensor* k, const mla_tensor* k_shared,
                                 const mla_tensor* v, const uint32_t* cu_seqlens, int64_t sequences, double scale, int32_t causal,
                                 const mla_tensor* out, const mla_tensor* lse, mla_step** step);

/* Its gradients, by out, lse and the gradient of out: d_q, d_k and d_v are shaped as q, k and v and may be columns of larger tensors, d_k_shared
 * is summed over the heads that share it, contiguous, in lse's type, and null where k_shared is. k and v have equally many groups, k_shared as many
 * or one. Where `deterministic` is 0, sums may be added up in any order: that is faster, and each run has other last bits. Sequences
 * have all rows. */
int32_t mla_step_attend_rows_backward(const mla_device* device, const mla_tensor* q, const mla_tensor* k, const mla_tensor* k_shared,
                                      const mla_tensor* v, const uint32_t* cu_seqlens, int64_t sequences, double scale, int32_t causal,
                                      const mla_tensor* out, const mla_tensor* lse, const mla_tensor* d_out, int32_t deterministic,
                                      const mla_tensor* d_q, const mla_tensor* d_k, const mla_tensor* d_k_shared, const mla_tensor* d_v,
                                      mla_step** step);

/* Prefill of one request over a paged latent cache, in the expanded form: what a layer's prefill does between its projections. q [new.., heads, key +
 * rope], cache [pages, page, (1,) latent + rope], of which `blocks` (host) name the request's, with `cached` tokens; latents [new.., latent] and
 * k_rope [new.., rope] are the new tokens', which need not be in the cache; w_kv [heads * (key + value), latent] is the weight of the up
 * projection, each head's rows of keys in front of those of its values; out [new.., heads, value]. New token i sees the first cached + i + 1. `chunk`
 * cached tokens are expanded at a time, the new ones with the last of them: there is room for keys and values of chunk + new tokens, and
 * where `cached` is no more than `chunk`, nothing is merged. */
int32_t mla_step_attend_chunked(const mla_device* device, const mla_tensor* q, const mla_tensor* cache, const uint32_t* blocks,
                                int64_t block_count, int64_t cached, const mla_tensor* latents, const mla_tensor* k_rope,
                                const mla_tensor* w_kv, int64_t chunk, double scale, const mla_tensor* out, mla_step** step);

/* An indexer's logits: out [rows.., columns] (f32), of which row i and column j is scale k_scale[j] sum over heads h of relu(q[i, h] k[j])
 * weights[i, h], for j from starts[i] up to ends[i] (host); other columns are not written. q [rows.., heads, width] and k [keys.., width] are both of
 * e4m3, and then there is a scale for each key, k_scale [keys] (f32), or both of bf16, and then k_scale is null; weights [rows.., heads] (f32) hold the
 * scales of queries, if those have some. Takes a Hopper GPU, and a library of a layer with an indexer of as many heads, as wide: 8, 16, 32 or 64, of 64
 * or 128. */
int32_t mla_step_index_logits(const mla_device* device, const mla_tensor* q, const mla_tensor* k, const mla_tensor* k_scale,
                              const mla_tensor* weights, const int64_t* starts, const int64_t* ends, double scale, const mla_tensor* out,
                              mla_step** step);

/* The same over a paged cache: q [requests, new, heads, width], weights [requests, new, heads], out [requests, new, columns]. Of e4m3, the cache is
 * [pages, page * (width + 4)] bytes (u8; the last dimension may be several): a page's codes, key after key, then its keys' scales; of bf16, it is [pages,
 * page, (1,) width]. A page is a power of two of 8 keys or more, a multiple of 64, or holds all of a request's. Requests, blocks and lengths as for
 * mla_step_attend_paged; a new token does not see those behind it. */
int32_t mla_step_index_logits_paged(const mla_device* device, const mla_tensor* q, const mla_tensor* cache, const mla_tensor* weights,
                                    const uint32_t* blocks, int64_t blocks_each, const int64_t* lengths, double scale,
                                    const mla_tensor* out, mla_step** step);

/* The best scores of each row: scores [rows.., width] (f32, or f64 in a library of f64), of which row i has ends[i] (host); out
 * [rows.., most] (i32) gets their columns in ascending order, -1 behind the last one. Ties go to the lower column; a NaN is worse than every number, and
 * minus infinity is never chosen where there are more than `most` scores. Where `blocks` (host) is not null, out gets slots of a paged cache in place of
 * columns: that of column c is blocks[i * blocks_each + c / page] * page + c % page. */
int32_t mla_step_topk(const mla_device* device, const mla_tensor* scores, const int64_t* ends, const uint32_t* blocks, int64_t blocks_each,
                      int64_t page, const mla_tensor* out, mla_step** step);

#ifdef __cplusplus
}
#endif

#endif
