//! The kernels of softmax attention over rows of keys and values with Hopper's tensor cores, and of its gradients: which widths they are
//! written for.

use super::kernels::KernelUnit;

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

/// The unit.
const UNIT: &str = "flash_forward";
/// Rows of queries of a block.
const ROWS: usize = 128;
/// Bytes of shared memory for queries, keys and values.
const ROOM: usize = 232_448 - 3072;
/// What a multiprocessor's tensor cores multiply and add in a clock.
const PRODUCTS_A_CLOCK: usize = 2048;
/// What its special-function units do in a clock.
const FUNCTIONS_A_CLOCK: usize = 16;

/// What a kernel was compiled for, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlashChoice {
    /// Widths of keys, of their part that heads share, and of values.
    pub widths: [usize; 3],
    /// Whether logits are capped.
    pub capped: bool,
    /// Whether the largest logit of each row and head is told.
    pub tells_most: bool,
    /// Whether keys lie in pages.
    pub paged: bool,
}

impl FlashChoice {
    /// That of a unit; `None` where it is another kernel's.
    pub fn of(unit: &KernelUnit) -> Option<Self> {
        let &[key, rope, value, capped, most, paged] = &unit.dims[..] else {
            return None;
        };
        (unit.unit == UNIT).then_some(Self {
            widths: [key, rope, value],
            capped: capped > 0,
            tells_most: most > 0,
            paged: paged > 0,
        })
    }

    /// The unit that is compiled for it.
    pub fn unit(&self) -> KernelUnit {
        let [key, rope, value] = self.widths;
        let choices = [self.capped, self.tells_most, self.paged].map(usize::from);
        KernelUnit {
            unit: UNIT,
            dims: [&[key, rope, value], &choices[..]].concat(),
        }
    }

    /// Keys that a block attends to at a time: as many as registers and shared memory have room for, as `KEYS` of `flash_tiles.cuh` says.
    pub fn keys(&self) -> usize {
        let [query_tiles, value_tiles] = {
            let [key, rope, value] = self.widths.map(tiles);
            [key + rope, value]
        };
        let piecemeal = self.paged || !self.widths.iter().all(|width| width.is_multiple_of(TILE));
        let registers = if piecemeal { 232 } else { 240 };
        let others = match (self.capped, value_tiles > 2) {
            (true, _) => 48,
            (false, true) => 40,
            (false, false) => 32,
        };
        let tile_bytes = |rows: usize| rows * TILE * 2;
        let fits = |keys: usize| {
            let bytes =
                query_tiles * tile_bytes(ROWS) + 2 * (query_tiles + value_tiles) * tile_bytes(keys);
            self.widths[2] / 2 + keys * 3 / 4 + others <= registers && bytes <= ROOM
        };
        // Pages are powers of two, or made of such
        let sizes: &[usize] = match self.paged {
            true => &[128, 64, 32],
            false => &[128, 112, 96, 80, 64, 48, 32],
        };
        sizes.iter().copied().find(|&keys| fits(keys)).unwrap_or(16)
    }

    /// Clocks of a multiprocessor for a tile of logits: of its tensor cores, and of its special-function units.
    pub fn clocks(&self) -> [usize; 2] {
        let [key, rope, value] = self.widths;
        let pairs = ROWS * self.keys();
        let columns = key + rope + value;
        let functions = if self.capped { 3 } else { 1 };
        [
            pairs * columns / PRODUCTS_A_CLOCK,
            pairs * functions / FUNCTIONS_A_CLOCK,
        ]
    }

    /// The choices, and what each costs.
    pub fn reason(&self) -> String {
        let [products, functions] = self.clocks();
        let binds = match functions > products {
            true => "exponentials bind",
            false => "products bind",
        };
        let cap = match self.capped {
            true => {
                "a soft cap, for two more special functions a logit and up to 1.4 times as long"
            }
            false => "no soft cap",
        };
        let most = match self.tells_most {
            true => "the largest logit is told, for 2 to 5 % of the time",
            false => "no largest logit",
        };
        let pages = match self.paged {
            true => "keys in pages, for a copy of each page and 64 columns",
            false => "keys in rows",
        };
        format!(
            "a tile of {ROWS} queries and {} keys takes {products} clocks of tensor cores and {functions} of special functions, so {binds}; {cap}; {most}; {pages}; \
             windows are in the host's tables, and cost nothing; sinks take their share afterwards, for a pass over the output",
            self.keys()
        )
    }
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
    fn choices_say_what_they_cost() {
        let choice = FlashChoice {
            widths: [128, 64, 128],
            capped: false,
            tells_most: true,
            paged: false,
        };
        assert_eq!(FlashChoice::of(&choice.unit()), Some(choice));
        // As docs/kernels/prefill.md counts them
        assert_eq!((choice.keys(), choice.clocks()), (128, [2560, 1024]));
        assert!(choice.reason().contains("products bind; no soft cap"));
        let capped = FlashChoice {
            capped: true,
            ..choice
        };
        assert!(capped.reason().contains("exponentials bind; a soft cap"));
        let wide = FlashChoice {
            widths: [256, 0, 256],
            ..choice
        };
        assert_eq!((wide.keys(), wide.clocks()), (80, [2560, 640]));
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
