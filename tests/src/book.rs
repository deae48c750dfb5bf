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
