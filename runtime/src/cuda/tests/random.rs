//! Random values: the host's, bit for bit.

use super::in_each_type;

in_each_type! { values }

mod cases {
    use super::super::{Cuda, Number, device};
    use crate::backend::Backend;
    use crate::weights::generator::Recipe;

    pub(super) fn values<T: Number>() {
        for recipe in [
            Recipe::for_hidden_states(7),
            Recipe::for_tensor("q_layernorm.weight", &[1536], u64::MAX),
            Recipe::for_tensor("q_proj.bias", &[1536], 0),
            Recipe::for_tensor("q_proj.weight", &[24, 7168], 1),
            Recipe {
                seed: 3,
                base: -0.1,
                amplitude: 1e-3,
            },
        ] {
            for len in [0, 1, 1 << 16] {
                let found = Cuda::<T>::generated(&device(), &recipe, "layer.a", len);
                let found = device().download(&found.expect("runs")).expect("values");
                let wanted = recipe.values("layer.a", len);
                for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    let (found, wanted) = (found.to_f64(), f64::from(*wanted));
                    assert_eq!(found.to_bits(), wanted.to_bits(), "{recipe:?}, value {i}");
                }
                assert_eq!(found.len(), len);
            }
        }
    }
}
