//! `mla-gen init`

use std::path::Path;

use crate::args::Init;
use crate::failure::Failure;
use crate::{folder, talk};

/// A spec that passes the checks, with the choices beside each value.
pub(crate) const SPEC: &str = include_str!("init.yaml");

/// Writes the commented spec.
pub(crate) fn init(args: &Init) -> Result<(), Failure> {
    if args.file == Path::new("-") {
        return talk::data(SPEC);
    }
    folder::write_new(&args.file, SPEC, args.force)?;
    let file = args.file.display();
    talk::status(
        "wrote",
        &format!("`{file}`; next: mla-gen check {file}, then mla-gen {file}"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::SPEC;
    use mla_spec::{Sources, check, read, render};

    #[test]
    fn the_first_spec_is_accepted_without_a_warning() {
        let mut sources = Sources::default();
        let document = read::yaml(&mut sources, "init.yaml", SPEC).unwrap();
        let (checked, found) = check(&document);
        assert!(
            found.is_empty(),
            "{}",
            render::text(&found, &sources, false)
        );
        assert_eq!(checked.unwrap().layer.name, "MyAttention");
    }
}
