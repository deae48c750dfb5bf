//! `mla-gen tune SPEC…`

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mla_codegen::cuda::kernel_text;
use mla_codegen::plan::absorbed::Absorbed;
use mla_codegen::plan::machine::H200;
use mla_codegen::plan::tuned::{Candidates, candidates};
use mla_codegen::{decode_digest, plan};
use mla_spec::{CacheDType, CacheKind, Checked, DType, Store};
use mla_tuned::{Line, Shape, Table};

use crate::args::Tune;
use crate::driver::tuning::{Text, Tuner, Wanted};
use crate::driver::variant::compute_in;
use crate::failure::Failure;
use crate::{folder, source, talk};

/// Units without sizes that are needed beside the kernels that attend: what cuts their work, and what fills a cache.
const BESIDE: [&str; 2] = ["decode_schedule", "random"];

/// Measures kernels of absorbed decode, and writes a table of the fastest.
pub(crate) fn tune(args: &Tune) -> Result<(), Failure> {
    if let Some(file) = &args.compile_to {
        return Tuner::compile()?.copy_to(file);
    }
    let mut shapes = BTreeMap::new();
    for path in &args.specs {
        let mut checked = source::spec(path, &args.config)?.checked;
        if let Some(dtype) = args.dtype {
            compute_in(dtype.into(), &mut checked.build);
        }
        for shape in of_layer(&checked, args)? {
            let candidates = candidates(&H200, &shape).ok_or_else(|| no_kernels(&checked))?;
            shapes.insert(shape, candidates);
        }
    }
    let open = undecided(shapes);
    if open.is_empty() {
        talk::note("nothing was measured, and no table written: the model alone decides");
        return Ok(());
    }
    if let Some(file) = &args.out {
        can_be_written(file)?;
    }
    let text = Tuner::compile()?.measure(decode_digest(), texts(&open), wanted(&open))?;
    let table = Table::read(&text).map_err(|reason| {
        Failure::File(format!("what was measured is no table: {reason}:\n{text}"))
    })?;
    for shape in open.keys() {
        if let Some(line) = table.find(shape) {
            talk::status("measured", &told(shape, line));
        }
    }
    match &args.out {
        None => talk::data(&text),
        Some(file) => {
            folder::write_file(file, text.as_bytes())?;
            talk::status("wrote", &format!("`{}`", file.display()));
            Ok(())
        }
    }
}

/// The shapes that a layer's decode steps have: its heads, or those of a rank, with each number of new tokens.
fn of_layer(checked: &Checked, args: &Tune) -> Result<Vec<Shape>, Failure> {
    refuse_other_attention(checked)?;
    let latent = checked.layer.latent().ok_or_else(|| no_kernels(checked))?;
    let all = latent.dims.num_attention_heads;
    let mut shapes = Vec::new();
    for &ranks in &args.ranks {
        if !all.is_multiple_of(ranks) {
            return Err(Failure::Usage(format!(
                "`--ranks {ranks}` does not divide the {all} heads of `{}`; give numbers of ranks that do",
                checked.layer.name
            )));
        }
        shapes.extend(args.new.iter().map(|&new| Shape {
            keys: "bf16",
            heads: all / ranks,
            new,
            latent: latent.dims.kv_lora_rank,
            rope: latent.dims.qk_rope_head_dim,
        }));
    }
    Ok(shapes)
}

/// Refuses a layer whose decode has no kernels to choose from, and says what would have to be otherwise.
fn refuse_other_attention(checked: &Checked) -> Result<(), Failure> {
    let (layer, build) = (&checked.layer, &checked.build);
    let Some(latent) = layer.latent() else {
        return Err(refused(
            checked,
            "has no latents: what is tuned is decode of MLA layers, over a cache of latents",
        ));
    };
    let (width, rope) = (latent.dims.kv_lora_rank, latent.dims.qk_rope_head_dim);
    let rules = [
        (
            build.cache.kind == CacheKind::Latent,
            "caches keys and values of each head; give it a cache of latents, such as `format: latent_bf16`",
        ),
        (
            matches!(build.cache.store, Store::Plain(_)),
            "caches bytes, for which there is one kernel for few rows and one for many; give it `format: latent_bf16`, or pass `--dtype bf16`",
        ),
        (
            build.dtype == DType::Bf16 && build.cache.store == Store::Plain(CacheDType::Bf16),
            "does not compute and cache in bf16, which alone there are several kernels for; pass `--dtype bf16`",
        ),
        (
            layer.indexer().is_none(),
            "attends to keys that an indexer picks, for which there is one kernel only; tune a dense layer",
        ),
        (
            layer.logits.soft_cap.is_none() && !layer.logits.bias,
            "caps its logits or adds to them, for which there is one kernel only; tune a layer with plain softmax",
        ),
        (
            Absorbed::takes(width, rope),
            "has latents whose width is no multiple of 128 up to 1024, or a rotated part that is no multiple of 16 up to 64; there is one kernel only for these",
        ),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, reason)) => Err(refused(checked, reason)),
        None => match attends_to_latents(checked) {
            true => Ok(()),
            false => Err(no_kernels(checked)),
        },
    }
}

/// Whether a phase of a layer asks for kernels that are chosen between.
fn attends_to_latents(checked: &Checked) -> bool {
    let units = plan::kernels(&plan::program(checked));
    units.iter().any(|unit| unit.unit == "decode_schedule")
}

fn no_kernels(checked: &Checked) -> Failure {
    refused(
        checked,
        "has no phase that attends to cached latents on `sm_90a`; name `decode` among `build.phases` and `sm_90a` among `build.targets`, and leave `build.form` to the planner",
    )
}

fn refused(checked: &Checked, reason: &str) -> Failure {
    Failure::Usage(format!("`{}` {reason}", checked.layer.name))
}

/// Those of the shapes whose fastest kernel the model does not know.
fn undecided(shapes: BTreeMap<Shape, Candidates>) -> BTreeMap<Shape, Candidates> {
    let (open, decided): (BTreeMap<_, _>, BTreeMap<_, _>) = shapes
        .into_iter()
        .partition(|(_, candidates)| candidates.kernels.len() > 1);
    for (shape, Candidates { model, .. }) in &decided {
        talk::note(&format!(
            "{}: not measured, since no kernel comes near {} of {} rows by the model",
            named(shape),
            model.unit,
            model.rows
        ));
    }
    open
}

/// Refuses a file that could not be written in the end, or that holds something else.
fn can_be_written(file: &Path) -> Result<(), Failure> {
    let folder = file.parent().filter(|parent| *parent != Path::new(""));
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(Failure::write(
            file,
            "there is no such folder; make it, or choose another",
        ));
    }
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::write(file, error)),
        Ok(text) => Table::read(&text).map(drop).map_err(|reason| {
            let problem = format!(
                "what is there is no table of `mla-gen tune` ({reason}); choose another file"
            );
            Failure::write(file, problem)
        }),
    }
}

/// The texts of all kernels that shapes are measured with.
fn texts(shapes: &BTreeMap<Shape, Candidates>) -> Vec<Text> {
    let beside = BESIDE.into_iter().map(|unit| (unit, Vec::new()));
    let mut units: BTreeSet<(&'static str, Vec<usize>)> = beside.collect();
    for (shape, candidates) in shapes {
        units.extend(candidates.kernels.iter().map(|kernel| {
            let dims = [kernel.rows, shape.heads, shape.latent, shape.rope];
            (kernel.unit, dims.map(|size| size as usize).to_vec())
        }));
    }
    let text = |(unit, dims): (&'static str, Vec<usize>)| {
        let text = kernel_text(unit, &dims)?;
        Some(Text { unit, dims, text })
    };
    units.into_iter().filter_map(text).collect()
}

fn wanted(shapes: &BTreeMap<Shape, Candidates>) -> Vec<Wanted> {
    let of = |(shape, candidates): (&Shape, &Candidates)| Wanted {
        heads: shape.heads,
        new: shape.new,
        latent: shape.latent,
        rope: shape.rope,
        model: candidates.model.rows,
        blocks: candidates.kernels.iter().map(|one| one.rows).collect(),
    };
    shapes.iter().map(of).collect()
}

fn named(shape: &Shape) -> String {
    let Shape {
        heads,
        new,
        latent,
        rope,
        ..
    } = shape;
    format!("{heads} heads, {new} new, {latent} + {rope} wide")
}

/// What came out of a shape.
fn told(shape: &Shape, line: &Line) -> String {
    let verdict = match line.overrides() {
        true => format!(
            "blocks of {} rows, not the model's of {}",
            line.chosen(),
            line.model
        ),
        false => format!("blocks of {} rows, as by the model", line.model),
    };
    format!("{}: {verdict}", named(shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mla_tuned::Situation;

    fn shape(heads: u32, new: u32) -> Shape {
        Shape {
            keys: "bf16",
            heads,
            new,
            latent: 512,
            rope: 64,
        }
    }

    fn of(shapes: &[Shape]) -> BTreeMap<Shape, Candidates> {
        let with = |shape: &Shape| Some((*shape, candidates(&H200, shape)?));
        shapes.iter().filter_map(with).collect()
    }

    #[test]
    fn what_is_measured_brings_its_kernels() {
        let open = undecided(of(&[shape(16, 1), shape(16, 2), shape(128, 1)]));
        // Nothing comes near the wide kernel for 128 heads
        assert_eq!(open.len(), 2);
        let wanted = wanted(&open);
        assert_eq!(wanted.len(), 2);
        assert!(wanted.iter().all(|one| one.blocks.contains(&one.model)));
        // Both shapes have the same kernels
        let names: Vec<String> = texts(&open)
            .iter()
            .map(|text| format!("{} {:?}", text.unit, text.dims))
            .collect();
        assert_eq!(
            names,
            [
                "decode_narrow [16, 16, 512, 64]",
                "decode_narrow [32, 16, 512, 64]",
                "decode_schedule []",
                "decode_wide [64, 16, 512, 64]",
                "random []",
            ]
        );
        assert!(undecided(of(&[shape(128, 2)])).is_empty());
    }

    #[test]
    fn an_override_is_told() {
        let mut situation = Situation::new(1, 8192);
        situation.note(16, 8.0);
        situation.note(32, 10.0);
        let mut line = Line {
            model: 32,
            situations: [situation; 2],
        };
        let name = "16 heads, 2 new, 512 + 64 wide";
        assert_eq!(
            told(&shape(16, 2), &line),
            format!("{name}: blocks of 16 rows, not the model's of 32")
        );
        line.model = 16;
        assert_eq!(
            told(&shape(16, 2), &line),
            format!("{name}: blocks of 16 rows, as by the model")
        );
    }
}
