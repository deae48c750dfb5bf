//! What the gradients of attention and an indexer's loss need beside their results is linear in the number of tokens.

use mla_runtime::{
    Attended, Cpu, CpuDevice, Heads, IndexerLoss, LossEpsilon, LossReduction, Mask, Padding,
    Result, RopeKey, Rows, Selecting, Selection, Tensor, Unrotated, Visibility, attention, indexer,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const DEVICE: CpuDevice = CpuDevice::new();
const H: usize = 2;
const K: usize = 8;
/// Lengths so far apart that a matrix of queries by keys would show: 32 MiB against 2.
const TOKENS: [usize; 2] = [512, 2048];

fn heads<const G: usize, const D: usize>(rows: usize) -> Heads<Cpu, G, D> {
    let values = (0..rows * G * D).map(|i| (i as f32 * 0.7).sin()).collect();
    let tensor: Tensor<Cpu> = Tensor::from_vec(&DEVICE, values, G * D).expect("whole rows");
    Heads::try_from(tensor).expect("heads")
}

fn rows<const W: usize>(rows: usize) -> Rows<Cpu, W> {
    heads::<1, W>(rows).into_rows()
}

/// The bytes that a call allocates at most, at once.
fn peak<R>(call: impl FnOnce() -> Result<R>) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = call().expect("gradients");
    let peak = MEMORY.peak_usage();
    drop(result);
    peak - before
}

/// Bytes per further token.
fn slope(peak_at: impl Fn(usize) -> usize + Sync) -> f64 {
    // Each thread has room of its own
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let pool = pool.expect("two threads");
    let [few, many] = TOKENS.map(|tokens| pool.install(|| peak_at(tokens)));
    (many as f64 - few as f64) / (TOKENS[1] - TOKENS[0]) as f64
}

// One test: what runs beside it would be counted
#[test]
fn gradients_need_memory_per_token_and_not_per_pair() {
    let dense = |tokens: usize| {
        Mask::dense(1, tokens)
            .segments(tokens, Visibility::CAUSAL, Padding::Refused)
            .expect("segments")
    };
    let expanded = slope(|tokens| {
        let (q, kv, segments) = (heads::<H, 8>(tokens), heads::<H, 12>(tokens), dense(tokens));
        let k_rope: RopeKey<Cpu, Unrotated, 2> =
            RopeKey::unrotated(&rows::<2>(tokens)).expect("key");
        let attended: Attended<Cpu, H, 6> =
            attention::expanded(&q, &kv, &k_rope, &segments, 0.5).expect("attended");
        let (out, lse, _) = attended.into_parts().expect("parts");
        peak(|| attention::expanded_backward(&q, &kv, &k_rope, &segments, 0.5, &out, &lse, &out))
    });
    let absorbed = |selects: bool| {
        slope(|tokens| {
            let (q, q_rope) = (heads::<H, 12>(tokens), heads::<H, 2>(tokens));
            let (latent, segments) = (rows::<12>(tokens), dense(tokens));
            let k_rope: RopeKey<Cpu, Unrotated, 2> =
                RopeKey::unrotated(&rows::<2>(tokens)).expect("key");
            let chosen = (0..tokens as u32).map(|i| [i / 3, i / 2, i].to_vec());
            let chosen: Vec<Vec<u32>> = chosen
                .map(|mut list| {
                    list.dedup();
                    list
                })
                .collect();
            let chosen = Selection::<Cpu, K>::from_lists(&DEVICE, &chosen).expect("a selection");
            let q_rope = q_rope.view();
            let attended: mla_runtime::Result<Attended<Cpu, H, 12>> = if selects {
                attention::absorbed_selected(&q, q_rope, &latent, &k_rope, &segments, &chosen, 0.5)
            } else {
                attention::absorbed(&q, q_rope, &latent, &k_rope, &segments, 0.5)
            };
            let (z, lse, _) = attended.expect("attended").into_parts().expect("parts");
            peak(|| {
                if selects {
                    attention::absorbed_selected_backward(
                        &q, q_rope, &latent, &k_rope, &segments, &chosen, 0.5, &z, &lse, &z,
                    )
                } else {
                    attention::absorbed_backward(
                        &q, q_rope, &latent, &k_rope, &segments, 0.5, &z, &lse, &z,
                    )
                }
            })
        })
    };
    let loss = slope(|tokens| {
        let (q, k, segments) = (heads::<H, 8>(tokens), heads::<1, 8>(tokens), dense(tokens));
        let attended: Attended<Cpu, H, 8> =
            attention::grouped(&q, &k, &k, &segments, 0.5).expect("attended");
        let (_, lse, _) = attended.into_parts().expect("parts");
        let (index_q, index_k) = (heads::<4, 8>(tokens), rows::<8>(tokens));
        let weights = rows::<4>(tokens).view().to_per_head().expect("a copy");
        let selecting = Selecting {
            scale: 0.5,
            relu: true,
            initial: 0,
            local: 0,
        };
        let loss = IndexerLoss {
            coeff: 1.0,
            reduction: LossReduction::MeanValid,
            epsilon: LossEpsilon::Clamp,
        };
        let all = None::<&Selection<Cpu, K>>;
        peak(|| {
            indexer::loss_grouped(
                &q, &k, &lse, &segments, 0.5, all, &index_q, &index_k, &weights, &selecting, &loss,
                1.0,
            )
        })
    });
    // A row of a matrix of queries by keys would be 8 KiB and more of each token's
    for (what, bytes) in [
        ("expanded", expanded),
        ("absorbed", absorbed(false)),
        ("absorbed over a selection", absorbed(true)),
        ("an indexer's loss", loss),
    ] {
        assert!(bytes < 2048.0, "{what}: {bytes} bytes per token");
    }
}
