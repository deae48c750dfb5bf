//! J-02: one byte per value, the rotated part included, and one scale for the whole cache: value = fp8 · `k_scale`.

use crate::backend::Backend;
use crate::cache::bytes::{ByteFormat, ByteLayout, Coding, byte_format};
use crate::cache::latent::LatentCache;
use crate::cache::layout::CacheLayout;
use crate::error::{Error, Result};
use crate::narrow::{E4m3, E5m2};
use crate::rotary::RopeLayout;

macro_rules! flat {
    ($(#[$doc:meta])+ $name:ident, $code:ident, $coding:ident, $called:literal) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name {
            k_scale: f32,
        }

        impl Default for $name {
            /// A scale of 1.
            fn default() -> Self {
                Self { k_scale: 1.0 }
            }
        }

        #[cfg(all(test, feature = "cuda"))]
        impl $name {
            /// The format of a cache with this scale.
            pub(crate) fn of_scale(k_scale: f32) -> Self {
                Self { k_scale }
            }
        }

        byte_format!(impl<> $name, $called, Latent, latent 1, rope 1);

        impl ByteFormat for $name {
            fn layout(latent: usize, rope: usize) -> ByteLayout {
                ByteLayout::beside(latent + rope)
            }

            fn encode(self, latent: &[f32], rope: &[f32], data: &mut [u8], _: &mut [u8]) {
                for (code, &value) in data.iter_mut().zip(latent.iter().chain(rope)) {
                    *code = $code::encode(value / self.k_scale).0;
                }
            }

            fn decode(self, data: &[u8], _: &[u8], latent: &mut [f32], rope: &mut [f32]) {
                for (value, &code) in latent.iter_mut().chain(rope).zip(data) {
                    *value = $code(code).decode() * self.k_scale;
                }
            }

            fn coding(self) -> Coding {
                Coding::$coding {
                    k_scale: self.k_scale,
                }
            }
        }

        impl<B: Backend, L: RopeLayout, P: CacheLayout, const C: usize, const R: usize>
            LatentCache<B, $name, L, P, C, R>
        {
            /// The cache with the scale that a checkpoint gives, 1 otherwise: it stores `value / k_scale`. To be called before
            /// anything is written, since what is there keeps its codes.
            ///
            /// # Errors
            /// When the scale is not finite and above 0.
            pub fn with_k_scale(mut self, k_scale: f32) -> Result<Self> {
                if !(k_scale.is_finite() && k_scale > 0.0) {
                    return Err(Error::BadCache(format!(
                        "k_scale is {k_scale}, wanted a finite number above 0"
                    )));
                }
                self.entries.store.format = $name { k_scale };
                Ok(self)
            }
        }
    };
}

flat! {
    /// `C + R` bytes per token: latent and rotated part as e4m3, one scale for the cache (vLLM's `fp8_e4m3`).
    Fp8E4m3, E4m3, FlatE4m3, "fp8_e4m3"
}
flat! {
    /// `C + R` bytes per token: latent and rotated part as e5m2, one scale for the cache (vLLM's `fp8_e5m2`).
    Fp8E5m2, E5m2, FlatE5m2, "fp8_e5m2"
}
