//! Generated layers that are trained, behind a trait, for code over many layers: proofs, the driver of `run` and `verify`, trainers.

use crate::{AttentionBias, Backend, Extras, Load, Mask, Result, Tensor, Trainable};

/// A layer with the phase `train`: whole sequences, forward and backward.
pub trait Train<B: Backend>: Load<B> + Trainable<B> {
    /// What the forward pass keeps.
    type Saved;
    /// What [`backward_input_erased`](Self::backward_input_erased) leaves for the weights' gradients.
    type Deferred;

    /// `hidden` `[rows, h]` -> `[rows, h]`, and what the backward pass needs.
    ///
    /// # Errors
    /// Whatever the layer's own `forward_train` refuses; `hidden` of another width.
    fn forward_train_erased(
        &self,
        hidden: &Tensor<B>,
        positions: &[u32],
        mask: &Mask,
        extras: &mut Extras<'_, B>,
    ) -> Result<(Tensor<B>, Self::Saved)>;

    /// The largest logit of each head.
    fn max_logits(saved: &Self::Saved) -> &[f64];

    /// The gradients of what the forward pass was given, `d_output` being that of its output; those of the parameters are added to
    /// `gradients`. `hidden` and `extras` are what the forward pass was given.
    ///
    /// # Errors
    /// Whatever the layer's own `backward` refuses; a tensor of another width.
    fn backward_erased(
        &self,
        saved: Self::Saved,
        hidden: &Tensor<B>,
        d_output: &Tensor<B>,
        extras: &mut Extras<'_, B>,
        gradients: &mut Self::Parameters,
    ) -> Result<ErasedGradients<B>>;

    /// As [`backward_erased`](Self::backward_erased), without the gradients of the linears' weights.
    ///
    /// # Errors
    /// As [`backward_erased`](Self::backward_erased).
    fn backward_input_erased(
        &self,
        saved: Self::Saved,
        hidden: &Tensor<B>,
        d_output: &Tensor<B>,
        extras: &mut Extras<'_, B>,
        gradients: &mut Self::Parameters,
    ) -> Result<(ErasedGradients<B>, Self::Deferred)>;

    /// Adds the gradients of the linears' weights.
    ///
    /// # Errors
    /// As [`backward_erased`](Self::backward_erased).
    fn backward_dw_erased(
        &self,
        deferred: Self::Deferred,
        hidden: &Tensor<B>,
        d_output: &Tensor<B>,
        extras: &mut Extras<'_, B>,
        gradients: &mut Self::Parameters,
    ) -> Result<()>;
}

/// A layer whose weights QK-clip bounds (features 1.N).
pub trait ClipQk<B: Backend>: Train<B> {
    /// Scales the rows that make queries and keys of each head whose largest logit is above the threshold, of the layer's own weights and of
    /// `master`; returns each head's factor.
    ///
    /// # Errors
    /// When there is not one logit per head, one is a NaN, or the device refuses.
    fn clip_qk_erased(
        &mut self,
        max_logits: &[f64],
        master: Option<&mut Self::Parameters>,
    ) -> Result<Vec<f64>>;
}

/// What a backward pass returns; what the layer's has not is left empty.
#[derive(Debug)]
pub struct ErasedGradients<B: Backend> {
    /// Of the layer's input.
    pub hidden: Option<Tensor<B>>,
    /// Of the context.
    pub context: Option<Tensor<B>>,
    /// Of another layer's latents.
    pub latent: Option<Tensor<B>>,
    /// Of another layer's rotated keys.
    pub k_rope: Option<Tensor<B>>,
    /// Of the bias of the logits.
    pub bias: Option<AttentionBias<B>>,
    /// The indexer's loss.
    pub indexer_loss: Option<f64>,
}

impl<B: Backend> Default for ErasedGradients<B> {
    fn default() -> Self {
        Self {
            hidden: None,
            context: None,
            latent: None,
            k_rope: None,
            bias: None,
            indexer_loss: None,
        }
    }
}

/// Implements [`Train`], and [`ClipQk`] where the layer clips, for a generated layer.
///
/// ```text
/// mla_runtime::train_traits!(
///     Name:
///     forward_train(topk: write),         // as layer_traits! lists them
///     backward(hidden, d_output),         // what the function takes between `saved` and `gradients`
///     backward_input(d_output),
///     backward_dw(hidden, d_output),
///     gradients(hidden),                  // the fields of its InputGradients
///     clip_qk,                            // where it has that function
/// );
/// ```
#[macro_export]
macro_rules! train_traits {
    (
        $layer:ident:
        forward_train($($forward:tt)*),
        backward($($backward:tt)*),
        backward_input($($input:tt)*),
        backward_dw($($dw:tt)*),
        gradients($($gradient:ident),*),
        $($clip:ident,)?
    ) => {
        impl<B: $crate::Backend> $crate::Train<B> for $layer<B> {
            type Saved = Saved<B>;
            type Deferred = Deferred<B>;

            fn forward_train_erased(
                &self,
                hidden: &$crate::Tensor<B>,
                positions: &[u32],
                mask: &$crate::Mask,
                extras: &mut $crate::Extras<'_, B>,
            ) -> $crate::Result<($crate::Tensor<B>, Self::Saved)> {
                let _ = &extras;
                let hidden = hidden.lend_rows::<HIDDEN_SIZE>()?;
                let (out, saved) = $crate::layer_traits!(@call plain none extras (self.forward_train)
                    (&hidden, positions, mask) [$($forward)*])?;
                Ok((out.into(), saved))
            }

            fn max_logits(saved: &Self::Saved) -> &[f64] {
                &saved.max_logits
            }

            fn backward_erased(
                &self,
                saved: Self::Saved,
                hidden: &$crate::Tensor<B>,
                d_output: &$crate::Tensor<B>,
                extras: &mut $crate::Extras<'_, B>,
                gradients: &mut Self::Parameters,
            ) -> $crate::Result<$crate::ErasedGradients<B>> {
                let _ = (&hidden, &d_output, &extras);
                let found = $crate::train_traits!(@call extras hidden d_output gradients (self.backward)
                    (saved) [$($backward)*])?;
                let mut erased = $crate::ErasedGradients::default();
                $(erased.$gradient = Some(found.$gradient.into());)*
                Ok(erased)
            }

            fn backward_input_erased(
                &self,
                saved: Self::Saved,
                hidden: &$crate::Tensor<B>,
                d_output: &$crate::Tensor<B>,
                extras: &mut $crate::Extras<'_, B>,
                gradients: &mut Self::Parameters,
            ) -> $crate::Result<($crate::ErasedGradients<B>, Self::Deferred)> {
                let _ = (&hidden, &d_output, &extras);
                let (found, deferred) = $crate::train_traits!(@call extras hidden d_output gradients
                    (self.backward_input) (saved) [$($input)*])?;
                let mut erased = $crate::ErasedGradients::default();
                $(erased.$gradient = Some(found.$gradient.into());)*
                Ok((erased, deferred))
            }

            fn backward_dw_erased(
                &self,
                deferred: Self::Deferred,
                hidden: &$crate::Tensor<B>,
                d_output: &$crate::Tensor<B>,
                extras: &mut $crate::Extras<'_, B>,
                gradients: &mut Self::Parameters,
            ) -> $crate::Result<()> {
                let _ = (&hidden, &d_output, &extras);
                $crate::train_traits!(@call extras hidden d_output gradients (self.backward_dw)
                    (deferred) [$($dw)*])
            }
        }

        $($crate::train_traits!(@$clip $layer);)?
    };
    (@clip_qk $layer:ident) => {
        impl<B: $crate::Backend> $crate::ClipQk<B> for $layer<B> {
            fn clip_qk_erased(
                &mut self,
                max_logits: &[f64],
                master: Option<&mut Self::Parameters>,
            ) -> $crate::Result<Vec<f64>> {
                self.clip_qk(max_logits, master)
            }
        }
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident ($self:ident.$function:ident) ($($argument:expr),*) []) => {
        $self.$function($($argument,)* $gradients)
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [hidden $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* &*$hidden.lend_rows::<HIDDEN_SIZE>()?) [$($($rest)*)?])
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [d_output $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* &*$d_output.lend_rows::<HIDDEN_SIZE>()?) [$($($rest)*)?])
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [context $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* &$crate::extras::context($extras.context)?) [$($($rest)*)?])
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [shared_kv $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* $extras.shared_kv.reader()?) [$($($rest)*)?])
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [bias $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* $crate::extras::given($extras.bias, "a bias")?) [$($($rest)*)?])
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [d_shared_kv $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* &$crate::extras::shared_kv_gradients($extras.d_shared_kv)?) [$($($rest)*)?])
    };
    (@call $extras:ident $hidden:ident $d_output:ident $gradients:ident $function:tt ($($argument:expr),*) [loss_scale $(, $($rest:tt)*)?]) => {
        $crate::train_traits!(@call $extras $hidden $d_output $gradients $function
            ($($argument,)* $extras.loss_scale) [$($($rest)*)?])
    };
}
