//! The layers that the book's Rust uses, and that Rust as documentation tests.

include!(concat!(env!("OUT_DIR"), "/book.rs"));

/// Documentation tests of a chapter.
macro_rules! chapters {
    ($($name:ident $file:literal)*) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../../docs/book/src/", $file))]
            pub mod $name {}
        )*

        /// The chapters whose Rust is tested.
        pub const CHAPTERS: &[&str] = &[$($file),*];
    };
}

chapters! {
    caches "caches.md"
    cuda "cuda.md"
    errors "errors.md"
    first_layer "first-layer.md"
    generated_code "generated-code.md"
    training "training.md"
}

#[cfg(test)]
mod tests {
    use super::CHAPTERS;

    #[test]
    fn every_chapter_with_rust_is_among_them() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/book/src");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).expect("the book").flatten() {
            let name = entry.file_name().into_string().expect("a name");
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if text.lines().any(|line| line == "```rust") {
                assert!(CHAPTERS.contains(&name.as_str()), "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, CHAPTERS.len());
    }
}
