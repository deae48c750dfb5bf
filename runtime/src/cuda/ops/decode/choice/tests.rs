//! The choice for shapes that have a kernel, and for each reason that none runs.

use super::*;
use mla_tuned::{Line, Situation};

fn window(rows: usize, heads: usize, width: usize) -> Window {
    Window {
        rows,
        heads,
        width,
        aligned: true,
    }
}

/// DeepSeek-V3's decode.
fn good() -> Facts {
    Facts {
        hopper: true,
        checked: false,
        batch_invariant: false,
        types: ["bf16"; 2],
        queries: window(4, 128, 512),
        queries_rope: window(4, 128, 64),
        keys: window(1 << 20, 1, 512),
        keys_rope: window(1 << 20, 1, 64),
        most_queries: 1,
        values_width: 512,
        values_are_keys: true,
        selects: false,
        masked: false,
        adjusted: false,
        scale: 0.07,
        page: Some(64),
        covered: true,
    }
}

#[test]
fn absorbed_attention_over_a_cache_in_bf16_has_a_kernel() {
    let runs = |change: &dyn Fn(&mut Facts)| {
        let mut facts = good();
        change(&mut facts);
        assert_eq!(chosen(&facts), Ok(Variant::Wide), "{facts:?}");
    };
    runs(&|_| {});
    for page in [None, Some(1), Some(16), Some(128), Some(192)] {
        runs(&|facts| facts.page = page);
    }
    // A part without width has any number of heads, anywhere
    runs(&|facts| {
        facts.queries_rope = window(4, 128, 0);
        facts.keys_rope = Window {
            aligned: false,
            ..window(1 << 20, 7, 0)
        };
    });
}

#[test]
fn many_rows_have_blocks_of_128_where_latents_are_narrow() {
    for (heads, new, latent, wanted) in [
        (128, 1, 256, Variant::Tall),
        (128, 2, 128, Variant::Tall),
        (40, 1, 256, Variant::Wide),
        (64, 1, 128, Variant::Wide),
        (40, 2, 256, Variant::Tall),
        (40, 4, 128, Variant::Tall),
        (16, 2, 256, Variant::Narrow32),
        (65, 1, 512, Variant::Wide),
    ] {
        let facts = Facts {
            queries: window(4, heads, latent),
            keys: window(1 << 20, 1, latent),
            values_width: latent,
            most_queries: new,
            ..good()
        };
        assert_eq!(chosen(&facts), Ok(wanted), "{heads} x {new}, {latent}");
    }
}

#[test]
fn few_rows_have_kernels_of_their_own() {
    for (heads, new, wanted) in [
        (8, 1, Variant::Narrow16),
        (16, 1, Variant::Narrow16),
        (8, 4, Variant::Narrow32),
        (16, 2, Variant::Narrow32),
        (16, 3, Variant::Wide),
        (40, 1, Variant::Wide),
        (128, 2, Variant::Wide),
    ] {
        let facts = Facts {
            queries: window(4, heads, 512),
            most_queries: new,
            ..good()
        };
        assert_eq!(chosen(&facts), Ok(wanted), "{heads} heads, {new} new");
    }
}

#[test]
fn other_latents_are_shared_by_two_warpgroups() {
    for (heads, new, width, wanted) in [
        (16, 1, 1024, Variant::Deep16),
        (16, 1, 384, Variant::Deep16),
        (16, 2, 640, Variant::Deep32),
        (128, 2, 1024, Variant::Deep32),
    ] {
        let facts = Facts {
            queries: window(4, heads, width),
            keys: window(1 << 20, 1, width),
            values_width: width,
            most_queries: new,
            ..good()
        };
        assert_eq!(chosen(&facts), Ok(wanted), "{heads} heads, {width} wide");
        assert_eq!(Variant::with_rows(64, width as u32), None);
    }
}

#[test]
fn what_was_measured_runs_where_its_shape_is_met_and_its_kernel_is_there() {
    let facts = |heads, new| Facts {
        queries: window(4, heads, 512),
        most_queries: new,
        ..good()
    };
    // Two blocks of 16 rows instead of one of 32
    let situations = [Situation::new(128, 8192), Situation::new(1, 8192)];
    let situations = situations.map(|mut situation| {
        situation.note(16, 9.0);
        situation.note(32, 10.0);
        situation
    });
    let line = Line {
        model: 32,
        situations,
    };
    let shape = Shape {
        keys: "bf16",
        heads: 16,
        new: 2,
        latent: 512,
        rope: 64,
    };
    let mut table = Table::empty("a GPU", "kernels");
    table.insert(shape, line);
    let narrow = Some(Variant::Narrow16);
    assert_eq!(measured(Some(&table), &facts(16, 2)), narrow);
    assert_eq!(measured(None, &facts(16, 2)), None);
    // Other heads, other keys
    assert_eq!(measured(Some(&table), &facts(32, 1)), None);
    let mut other = facts(16, 2);
    other.types[1] = "f16";
    assert_eq!(measured(Some(&table), &other), None);

    let usual = chosen(&facts(16, 2)).expect("a kernel");
    assert_eq!(usual, Variant::Narrow32);
    assert_eq!(first(narrow, usual, |_| true), narrow);
    assert_eq!(first(None, usual, |_| true), Some(usual));
    // A layer from before the table
    assert_eq!(first(narrow, usual, |one| *one == usual), Some(usual));
    assert_eq!(first(narrow, usual, |_| false), None);
}

#[test]
fn codes_have_kernels_for_few_rows_and_for_many() {
    let asked = |heads, new, latent, page, kind| {
        let facts = Facts {
            queries: window(4, heads, latent),
            keys: window(1 << 20, 1, latent),
            values_width: latent,
            most_queries: new,
            page: Some(page),
            ..good()
        };
        chosen_for_codes(&facts, kind)
    };
    for kind in [Kind::E4m3, Kind::E5m2, Kind::DsMla] {
        assert_eq!(asked(16, 1, 512, 64, kind), Ok(Variant::Narrow16));
        assert_eq!(asked(16, 2, 512, 8, kind), Ok(Variant::Wide));
        assert_eq!(asked(128, 1, 512, 64, kind), Ok(Variant::Wide));
    }
    assert_eq!(asked(16, 1, 128, 64, Kind::E4m3), Ok(Variant::Narrow16));
    assert_eq!(asked(128, 1, 128, 64, Kind::E4m3), Ok(Variant::Wide));
    for (found, reason) in [
        (asked(16, 1, 256, 64, Kind::DsMla), "scales"),
        (asked(16, 1, 512, 4, Kind::E4m3), "8 tokens"),
        (asked(16, 1, 192, 64, Kind::E4m3), "multiple of 128"),
        (asked(16, 1, 1024, 64, Kind::E4m3), "128, 256 or 512"),
    ] {
        let found = found.expect_err(reason);
        assert!(found.contains(reason), "{found}");
    }
}

#[test]
fn codes_of_chosen_keys_have_kernels_whatever_the_pages() {
    let asked = |heads, latent, rope, kind| {
        let facts = Facts {
            queries: window(4, heads, latent),
            queries_rope: window(4, heads, rope),
            keys: window(1 << 20, 1, latent),
            keys_rope: window(1 << 20, 1, rope),
            values_width: latent,
            most_queries: 9,
            selects: true,
            page: Some(5),
            ..good()
        };
        chosen_for_codes(&facts, kind)
    };
    for kind in [Kind::E4m3, Kind::E5m2, Kind::DsMla] {
        assert_eq!(asked(16, 512, 64, kind), Ok(Variant::Narrow16));
        assert_eq!(asked(17, 512, 64, kind), Ok(Variant::Wide));
    }
    assert_eq!(asked(16, 512, 48, Kind::DsMla), Ok(Variant::Narrow16));
    let refused = asked(16, 512, 48, Kind::E4m3).expect_err("half a product");
    assert!(refused.contains("0, 32 or 64 codes"), "{refused}");
}

#[test]
fn whatever_does_not_fit_is_named() {
    let refused = |change: &dyn Fn(&mut Facts), reason: &str| {
        let mut facts = good();
        change(&mut facts);
        let found = chosen(&facts).expect_err(reason);
        assert!(found.contains(reason), "{found}");
    };
    refused(&|facts| facts.hopper = false, "Hopper");
    refused(&|facts| facts.checked = true, "checked");
    refused(&|facts| facts.batch_invariant = true, "rows beside");
    refused(&|facts| facts.types[0] = "f32", "bf16");
    refused(&|facts| facts.types[1] = "f16", "bf16");
    refused(&|facts| facts.selects = true, "selected");
    refused(&|facts| facts.masked = true, "mask");
    refused(&|facts| facts.adjusted = true, "capped");
    refused(&|facts| facts.scale = -1.0, "scale");
    refused(&|facts| facts.scale = f64::NAN, "scale");
    refused(&|facts| facts.keys.heads = 2, "several heads");
    refused(&|facts| facts.keys_rope.heads = 128, "several heads");
    refused(&|facts| facts.values_are_keys = false, "values");
    refused(&|facts| facts.values_width = 128, "values");
    for width in [192, 1152] {
        refused(
            &|facts| {
                (facts.queries.width, facts.keys.width, facts.values_width) = (width, width, width);
            },
            "multiple of 128",
        );
    }
    refused(&|facts| facts.keys_rope.width = 40, "rotated");
    refused(&|facts| facts.keys_rope.width = 80, "rotated");
    refused(&|facts| facts.queries_rope.width = 32, "differ in width");
    for page in [0, 48, 100] {
        refused(&|facts| facts.page = Some(page), "pages");
    }
    refused(&|facts| facts.queries.aligned = false, "16 bytes");
    refused(&|facts| facts.keys_rope.aligned = false, "16 bytes");
    refused(&|facts| facts.keys.rows = 0, "no keys");
    refused(&|facts| facts.keys.rows = 1 << 31, "too many rows");
    refused(&|facts| facts.covered = false, "without a block");
}
