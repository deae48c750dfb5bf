//! The kernels of softmax attention over rows of keys and values with Hopper's tensor cores, and of its gradients: which widths they are
//! written for.

/// Columns of a tile in shared memory.
const TILE: usize = 64;

/// Whether there is a kernel for these widths: of keys, of their part that heads share, and of values.
pub fn takes([key, rope, value]: [usize; 3]) -> bool {
    let whole = [key, rope, value]
        .iter()
        .all(|width| width.is_multiple_of(16));
    whole && key > 0 && value > 0 && tiles(key) + tiles(rope) <= 4 && value <= 256
}

const fn tiles(width: usize) -> usize {
    width.div_ceil(TILE)
}

/// Rows of a tile of queries of the kernels of gradients, where there are such for these widths, of logits that are capped perhaps.
pub fn tile_of_backward(widths: [usize; 3], capped: bool) -> Option<usize> {
    let [key, rope, value] = widths;
    let width = key + rope;
    let whole = widths.iter().all(|width| width.is_multiple_of(16));
    if !whole || key == 0 || value == 0 || width > 256 || value > 256 {
        return None;
    }
    let (tile, of_tile, columns) = match width <= 96 && value <= 64 {
        true => (128, 96, width),
        false => (64, 48, width.div_ceil(32) * 16),
    };
    // Registers of a thread, as `flash_cut.cuh` counts them. A cap takes more than these, unless heads are so wide that blocks have fewer keys
    let held = (width + value) / 2 + of_tile.max(columns / 2);
    (!capped || held <= 176 || held > 208).then_some(tile)
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
            [128, 64, 192],
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

    #[test]
    fn gradients_have_kernels_for_models_too() {
        for (widths, tile) in [
            ([128, 64, 128], 64),
            ([64, 32, 64], 128),
            ([64, 0, 64], 128),
            ([128, 0, 128], 64),
            ([256, 0, 256], 64),
            ([192, 64, 256], 64),
            ([128, 64, 192], 64),
        ] {
            assert_eq!(tile_of_backward(widths, false), Some(tile), "{widths:?}");
        }
        for (widths, capped) in [
            ([20, 12, 16], false),
            ([512, 64, 512], false),
            ([0, 64, 128], false),
            ([128, 64, 128], true),
        ] {
            assert_eq!(tile_of_backward(widths, capped), None, "{widths:?}");
        }
    }
}
