//! Layers that are trained and do nothing else of interest: one linear, whose outputs' halves stand for the logits of two heads.

macro_rules! trained_layer {
    ($(#[$about:meta])* $module:ident, backward_dw: $times:literal $(, $clip:ident)?) => {
        $(#[$about])*
        pub(super) mod $module {
            use crate::*;

            pub(crate) const HIDDEN_SIZE: usize = 6;
            const TENSORS: [TensorShape; 1] =
                [TensorShape::new("o_proj.weight", &[HIDDEN_SIZE, HIDDEN_SIZE])];

            pub(crate) struct Straight<B: Backend> {
                linear: Linear<B, HIDDEN_SIZE, HIDDEN_SIZE>,
            }

            pub(crate) struct Saved<B: Backend> {
                max_logits: Vec<f64>,
                backend: std::marker::PhantomData<B>,
            }

            pub(crate) struct Deferred<B: Backend>(std::marker::PhantomData<B>);

            pub(crate) struct InputGradients<B: Backend> {
                hidden: Rows<B, HIDDEN_SIZE>,
            }

            pub(crate) struct Parameters<B: Backend> {
                linear: LinearParameters<B, HIDDEN_SIZE, HIDDEN_SIZE>,
            }

            impl<B: Backend> Parameters<B> {
                fn zeros(device: &B::Device) -> Result<Self> {
                    let linear = LinearParameters::zeros(device, &[("o_proj", HIDDEN_SIZE)])?;
                    Ok(Self { linear })
                }
            }

            impl<B: Backend> Straight<B> {
                fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
                    let weights = weights.exactly(prefix, &TENSORS)?;
                    let linear = Linear::load(&weights, &["o_proj"], device)?;
                    Ok(Self { linear })
                }

                fn forward_train(
                    &self,
                    hidden: &Rows<B, HIDDEN_SIZE>,
                    _positions: &[u32],
                    mask: &Mask,
                ) -> Result<(Rows<B, HIDDEN_SIZE>, Saved<B>)> {
                    mask.segments(hidden.rows(), Visibility::CAUSAL, Padding::Allowed)?;
                    let out = self.linear.forward(hidden)?;
                    let mut max_logits = vec![f64::NEG_INFINITY; 2];
                    for row in out.to_vec()?.chunks(HIDDEN_SIZE) {
                        for (largest, half) in max_logits.iter_mut().zip(row.chunks(3)) {
                            *largest = half.iter().fold(*largest, |a, b| a.max(b.to_f64()));
                        }
                    }
                    let backend = std::marker::PhantomData;
                    Ok((out, Saved { max_logits, backend }))
                }

                fn backward(
                    &self,
                    _saved: Saved<B>,
                    hidden: &Rows<B, HIDDEN_SIZE>,
                    d_output: &Rows<B, HIDDEN_SIZE>,
                    gradients: &mut Parameters<B>,
                ) -> Result<InputGradients<B>> {
                    gradients.linear.accumulate(hidden, d_output)?;
                    let hidden = self.linear.backward_input(d_output)?;
                    Ok(InputGradients { hidden })
                }

                fn backward_input(
                    &self,
                    _saved: Saved<B>,
                    d_output: &Rows<B, HIDDEN_SIZE>,
                    _gradients: &mut Parameters<B>,
                ) -> Result<(InputGradients<B>, Deferred<B>)> {
                    let hidden = self.linear.backward_input(d_output)?;
                    Ok((InputGradients { hidden }, Deferred(std::marker::PhantomData)))
                }

                fn backward_dw(
                    &self,
                    _deferred: Deferred<B>,
                    hidden: &Rows<B, HIDDEN_SIZE>,
                    d_output: &Rows<B, HIDDEN_SIZE>,
                    gradients: &mut Parameters<B>,
                ) -> Result<()> {
                    for _ in 0..$times {
                        gradients.linear.accumulate(hidden, d_output)?;
                    }
                    Ok(())
                }

                $(
                    fn $clip(
                        &mut self,
                        max_logits: &[f64],
                        master: Option<&mut Parameters<B>>,
                    ) -> Result<Vec<f64>> {
                        assert!(master.is_none());
                        let clip = QkClip { threshold: 0.5, alpha: 0.5 };
                        let factors = clip.factors(max_logits)?;
                        self.linear.scale_rows(&qk_clip::heads(&factors, &[(3, 1.0)])?)?;
                        Ok(factors)
                    }
                )?
            }

            crate::layer_traits!(Straight: load);
            crate::parameters!(Straight: linear);
            crate::train_traits!(
                Straight:
                forward_train(),
                backward(hidden, d_output),
                backward_input(d_output),
                backward_dw(hidden, d_output),
                gradients(hidden),
                $($clip,)?
            );
        }
    };
}

trained_layer!(
    /// As it should be.
    usual, backward_dw: 1, clip_qk
);
trained_layer!(
    /// Adds its weight's gradient twice where that is asked for apart.
    twice, backward_dw: 2
);
