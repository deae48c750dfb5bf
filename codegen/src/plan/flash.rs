//! The kernel of softmax attention over rows of keys and values with Hopper's tensor cores: which widths it is written for.

/// Columns of a tile in shared memory.
const TILE: usize = 64;

/// Whether there is a kernel for these widths: of keys, of their part that heads share, and of values.
pub fn takes([key, rope, value]: [usize; 3]) -> bool {
    let whole = [key, rope, value]
        .iter()
        .all(|width| width.is_multiple_of(16));
    let keys = tiles(key) + tiles(rope);
    whole && key > 0 && keys <= 4 && (1..=4).contains(&tiles(value))
}

const fn tiles(width: usize) -> usize {
    width.div_ceil(TILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_of_models_are_taken() {
        for widths in [
            [128, 64, 128],
            [64, 32, 64],
            [64, 0, 64],
            [128, 0, 128],
            [96, 0, 96],
            [256, 0, 256],
            [192, 64, 256],
            [192, 64, 128],
            [192, 0, 192],
        ] {
            assert!(takes(widths), "{widths:?}");
        }
    }

    #[test]
    fn others_are_not() {
        for widths in [
            [0, 64, 128],
            [20, 12, 16],
            [512, 64, 512],
            [128, 64, 272],
            [256, 64, 128],
        ] {
            assert!(!takes(widths), "{widths:?}");
        }
    }
}
