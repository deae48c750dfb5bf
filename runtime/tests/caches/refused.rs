//! Batches and caches that are refused, and change nothing.

use super::*;

#[test]
fn a_batch_may_not_write_what_it_reads_as_cached() {
    let cache = Latent::<Paged<4>>::paged(&DEVICE, 3).expect("cache");
    let writes = Sequence {
        cached: 0,
        new: 3,
        blocks: &[0],
    };
    let reads = Sequence {
        cached: 3,
        new: 2,
        blocks: &[0, 1],
    };
    let shared = Sequence {
        cached: 4,
        new: 1,
        blocks: &[0, 2],
    };
    let check = |sequences: &[Sequence<'_>]| {
        let batch = Batch::new(sequences).expect("batch");
        cache.check(&batch, batch.tokens())
    };
    assert!(check(&[writes, reads]).is_err());
    // A prefix that both only read may be shared
    let other = Sequence {
        blocks: &[0, 1],
        ..shared
    };
    check(&[shared, other]).expect("fits");
}

/// Batches that must be refused by every function of a paged cache of 3 blocks of 4, without a change.
fn refused(batch: &Batch, rows_given: usize) {
    let mut cache = Latent::<Paged<4>>::paged(&DEVICE, 3).expect("cache");
    KvCache::<B>::fill(&mut cache, 1.0).expect("filled");
    assert!(cache.check(batch, rows_given).is_err());
    let n = batch.tokens();
    let written = cache.write(
        batch,
        rows::<C>(values(rows_given * C, 0.0)).view(),
        &key(values(n * R, 0.0)),
    );
    if written.is_ok() {
        // A table may be too short though its slots are mapped; then reading is what is refused
        let attended: Result<Attended<B, H, C>, Error> = cache.attend(
            batch,
            &heads::<C>(values(n * H * C, 0.0)),
            heads::<R>(values(n * H * R, 0.0)).view(),
            Visibility::CAUSAL,
            SCALE,
        );
        assert!(attended.is_err());
    } else {
        let (latent, _) = cache.entries(&[0, 1, 2], 12).expect("entries");
        assert_eq!(latent.to_vec().expect("values"), [1.0; 12 * C]);
    }
}

#[test]
fn hostile_batches_are_refused_and_change_nothing() {
    let one = |cached, new, blocks: &[u32]| {
        Batch::new(&[Sequence {
            cached,
            new,
            blocks,
        }])
        .expect("batch")
    };
    refused(&one(0, 2, &[3]), 2); // no such block
    refused(&one(0, 2, &[u32::MAX]), 2);
    refused(&one(0, 2, &[]), 2); // no room
    refused(&one(4, 1, &[0]), 1);
    refused(&one(1_000_000, 1, &[0, 1, 2]), 1);
    refused(&one(0, 5, &[1, 1]), 5); // the same block twice
    refused(&one(0, 2, &[0]), 3); // rows
    refused(
        &Batch::new(&[
            Sequence {
                cached: 0,
                new: 2,
                blocks: &[1],
            },
            Sequence {
                cached: 1,
                new: 1,
                blocks: &[1],
            },
        ])
        .expect("batch"),
        3,
    );
    refused(
        &one(0, 2, &[0])
            .with_slot_mapping(vec![12, -1])
            .expect("mapping"),
        2,
    );
    refused(
        &one(0, 2, &[0])
            .with_slot_mapping(vec![i64::MAX, -1])
            .expect("mapping"),
        2,
    );
    refused(
        &one(0, 2, &[0])
            .with_slot_mapping(vec![5, 5])
            .expect("mapping"),
        2,
    );
    refused(
        &one(0, 2, &[])
            .with_slot_mapping(vec![5, 6])
            .expect("mapping"),
        2,
    );
    assert!(one(0, 2, &[0]).with_slot_mapping(vec![0]).is_err());
    assert!(one(0, 2, &[0]).with_slot_mapping(vec![0, -2]).is_err());
    for (cached, new) in [(usize::MAX, 1), (u32::MAX as usize, 1), (0, usize::MAX)] {
        let batch = Batch::new(&[Sequence {
            cached,
            new,
            blocks: &[],
        }]);
        assert!(matches!(batch, Err(Error::BadBatch(_))), "{cached} {new}");
    }
}

#[test]
fn caches_that_cannot_be_are_refused() {
    assert!(Latent::<Paged<4>>::paged(&DEVICE, usize::MAX).is_err());
    assert!(Latent::<Contiguous>::contiguous(&DEVICE, usize::MAX, 2).is_err());
    assert!(Naive::<Contiguous>::contiguous(&DEVICE, 1 << 40, 1 << 20).is_err());
    assert!(Latent::<Paged<4>>::with_blocks(&DEVICE, 2, 5).is_err());
    let empty = Latent::<Contiguous>::contiguous(&DEVICE, 1, 0).expect("an empty cache");
    assert!(
        empty
            .check(
                &Batch::new(&[Sequence {
                    cached: 0,
                    new: 0,
                    blocks: &[0]
                }])
                .expect("batch"),
                0
            )
            .is_ok()
    );
    assert!(
        empty
            .check(
                &Batch::new(&[Sequence {
                    cached: 0,
                    new: 1,
                    blocks: &[0]
                }])
                .expect("batch"),
                1
            )
            .is_err()
    );
    let two = Latent::<Contiguous>::contiguous(&DEVICE, 4, 8).expect("cache");
    assert!(
        two.check(
            &Batch::new(&[Sequence {
                cached: 0,
                new: 1,
                blocks: &[0, 1]
            }])
            .expect("batch"),
            1
        )
        .is_err()
    );
}
