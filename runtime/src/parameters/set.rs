//! All parameters of a layer, and what can be done with such a set as a whole.

use std::path::Path;

use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::{Error, Result, finite};
use crate::weights::{Selected, TensorShape, Weights};

use super::groups::{Parameter, ParameterGroup};
use super::layout::ParameterLayout;
use super::ops::ParameterOps;

/// A layer's parameters, or what has their shapes: gradients, an optimiser's moments. [`parameters!`](crate::parameters!) implements it.
///
/// Sets of one layer agree in what they hold: slots, parameters, shapes and names, in a fixed order.
pub trait ParameterSet<B: Backend> {
    /// Zeros.
    ///
    /// # Errors
    /// When the device has no room.
    fn zeros(device: &B::Device) -> Result<Self>
    where
        Self: Sized;

    /// The checkpoint tensors that the layer is made of.
    fn tensor_shapes(&self) -> &'static [TensorShape];

    /// The name of a slot, counted from 0, and its parameters; `None` behind the last one.
    fn group(&self, index: usize) -> Option<(&'static str, &dyn ParameterGroup<B>)>;

    /// As [`group`](Self::group), to be changed.
    fn group_mut(&mut self, index: usize) -> Option<(&'static str, &mut dyn ParameterGroup<B>)>;

    /// Calls `visitor` with each parameter and the name of its slot, in order.
    ///
    /// # Errors
    /// The first one of the visitor's.
    fn visit(
        &self,
        visitor: &mut dyn FnMut(&'static str, &Parameter<B>) -> Result<()>,
    ) -> Result<()> {
        for (slot, group) in (0..).map_while(|index| self.group(index)) {
            for parameter in (0..).map_while(|index| group.parameter(index)) {
                visitor(slot, parameter)?;
            }
        }
        Ok(())
    }

    /// As [`visit`](Self::visit), to change them.
    ///
    /// # Errors
    /// The first one of the visitor's.
    fn visit_mut(
        &mut self,
        visitor: &mut dyn FnMut(&'static str, &mut Parameter<B>) -> Result<()>,
    ) -> Result<()> {
        let mut slots = 0..;
        while let Some((slot, group)) = slots.next().and_then(|index| self.group_mut(index)) {
            let mut parameters = 0..;
            while let Some(parameter) = parameters
                .next()
                .and_then(|index| group.parameter_mut(index))
            {
                visitor(slot, parameter)?;
            }
        }
        Ok(())
    }

    /// Copies of all values, as the tensors of a checkpoint: Hugging Face's names below the layer's prefix, stacks and groups undone.
    ///
    /// # Errors
    /// When the device refuses a copy.
    fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        self.visit(&mut |_, parameter| {
            let layout = parameter.layout();
            let pieces = (0..).map_while(|index| Some((index, layout.piece(index)?)));
            for (index, (name, shape)) in pieces {
                let values = parameter.piece(index)?;
                tensors.push(NamedTensor {
                    name: name.to_owned(),
                    shape,
                    values: values.into_iter().map(Scalar::to_f64).collect(),
                });
            }
            Ok(())
        })?;
        Ok(tensors)
    }

    /// Reads all values from the tensors below `prefix`, each rounded once to the accumulation type: the tensors, their names and their
    /// types are those that the layer itself could be loaded from.
    ///
    /// Master weights that are loaded so may hold more than `parameters` of a layer does, whose working weights are rounded already.
    ///
    /// # Errors
    /// The tensors below `prefix` are not exactly the layer's; nothing is changed then.
    fn load(&mut self, weights: &Weights, prefix: &str) -> Result<()> {
        let selected = weights.exactly(prefix, self.tensor_shapes())?;
        self.visit_mut(&mut |_, parameter| parameter.load(&selected))
    }

    /// Writes all values to a safetensors file that the layer, and other code that knows Hugging Face's names, can be loaded from: `F32`,
    /// or `F64` for `f64`. See [`parameters::save`](super::save), which takes several layers.
    ///
    /// # Errors
    /// When the device refuses a copy or the system the file. What stood at `path` before is still there then.
    fn save(&self, path: impl AsRef<Path>, prefix: &str) -> Result<()>
    where
        Self: Sized,
    {
        super::save::<B>(path, &[(prefix, self)])
    }

    /// Makes every value 0, whatever it was.
    ///
    /// # Errors
    /// When the device refuses.
    fn fill_zero(&mut self) -> Result<()> {
        self.visit_mut(&mut |_, parameter| {
            B::Parameters::on_host(
                &parameter.device,
                [&mut parameter.values],
                [],
                |[values], []| values.fill(Accum::<B>::default()),
            )
        })
    }

    /// Multiplies every value by `by`.
    ///
    /// # Errors
    /// When `by` is not finite, or the device refuses.
    fn scale(&mut self, by: f64) -> Result<()> {
        let by = finite("a factor", by)?;
        self.visit_mut(&mut |_, parameter| {
            B::scale_accum(&parameter.device, &mut parameter.values, by)
        })
    }

    /// Adds the values of another set: another micro-batch's gradients.
    ///
    /// # Errors
    /// When the sets don't agree, or the device refuses.
    fn add(&mut self, other: &Self) -> Result<()>
    where
        Self: Sized,
    {
        agree::<B>(self, other)?;
        for index in 0.. {
            let (Some((_, group)), Some((_, other))) = (self.group_mut(index), other.group(index))
            else {
                break;
            };
            for index in 0.. {
                let (Some(parameter), Some(other)) =
                    (group.parameter_mut(index), other.parameter(index))
                else {
                    break;
                };
                B::Parameters::add(&parameter.device, &mut parameter.values, &other.values)?;
            }
        }
        Ok(())
    }

    /// `Σ x²` over all values, squared and summed in `f64`: its root is the norm that gradients are clipped by.
    ///
    /// # Errors
    /// When the device refuses.
    fn square_norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        self.visit(&mut |_, parameter| {
            sum += B::Parameters::square_norm(&parameter.device, &parameter.values)?;
            Ok(())
        })?;
        Ok(sum)
    }

    /// Whether no value is infinite or a NaN.
    ///
    /// # Errors
    /// When the device refuses.
    fn is_finite(&self) -> Result<bool> {
        let mut all = true;
        self.visit(&mut |_, parameter| {
            all = all && B::Parameters::is_finite(&parameter.device, &parameter.values)?;
            Ok(())
        })?;
        Ok(all)
    }

    /// Walks through sets of one layer side by side: `work` is called once per parameter, with its flat values in each set of `changed`
    /// and of `read`. Where the device is the CPU no value is copied. This is what optimisers are written with:
    ///
    /// ```
    /// # use mla_runtime::{Backend, Cpu, ParameterSet, Result};
    /// // Gradient descent with momentum; matrices decay
    /// fn step<P: ParameterSet<Cpu>>(weights: &mut P, momentum: &mut P, gradients: &P) -> Result<()> {
    ///     P::update([weights, momentum], [gradients], |at, [weights, momentum], [gradients]| {
    ///         let decay = if at.layout.is_matrix() { 0.1 } else { 0.0 };
    ///         for ((w, m), g) in weights.iter_mut().zip(momentum).zip(gradients) {
    ///             *m = 0.9 * *m + g;
    ///             *w -= 1e-3 * (*m + decay * *w);
    ///         }
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// When the sets don't agree, and then nothing is changed; when the device refuses.
    fn update<const N: usize, const M: usize>(
        changed: [&mut Self; N],
        read: [&Self; M],
        work: impl FnMut(ParameterAt<'_>, [&mut [Accum<B>]; N], [&[Accum<B>]; M]),
    ) -> Result<()>
    where
        Self: Sized,
    {
        side_by_side(changed, read, work)
    }
}

/// A layer whose parameters can be taken out and put back. [`parameters!`](crate::parameters!) implements it.
pub trait Trainable<B: Backend>: Sized {
    /// The set of its parameters.
    type Parameters: ParameterSet<B>;

    /// Names of the slots that have parameters, in the order of the set's groups.
    const TRAINABLE: &'static [&'static str];

    /// Names of the slots whose gradients a backward pass adds to, in the same order: what the stage of an indexer's training leaves
    /// frozen is not among them.
    const TRAINED: &'static [&'static str];

    /// Copies of the working weights, widened to the accumulation type, which is exact.
    ///
    /// # Errors
    /// When the device has no room or refuses a copy.
    fn parameters(&self, device: &B::Device) -> Result<Self::Parameters>;

    /// Makes `from` the working weights, rounded to nearest, ties to even.
    ///
    /// # Errors
    /// When the device refuses. The weights may be partly replaced then.
    fn assign(&mut self, from: &Self::Parameters) -> Result<()>;
}

/// Which parameter [`ParameterSet::update`] is at.
#[derive(Debug, Clone, Copy)]
pub struct ParameterAt<'a> {
    /// The slot's name: `linear_q_up_proj`.
    pub slot: &'static str,
    /// Its shape, and what checkpoints call its parts.
    pub layout: &'a ParameterLayout,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name below the layer's prefix.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// The values, exact.
    pub values: Vec<f64>,
}

impl<B: Backend> Parameter<B> {
    /// The values of piece `index` of the layout, in the checkpoint's order.
    pub(crate) fn piece(&self, index: usize) -> Result<Vec<Accum<B>>> {
        B::Parameters::on_host(&self.device, [], [&self.values], |[], [values]| {
            self.layout.taken(index, values)
        })
    }

    fn load(&mut self, weights: &Selected<'_>) -> Result<()> {
        if let Some(names) = self.layout.grouped_names()
            && let Some((shape, values)) = weights.read_grouped::<Accum<B>>(&names)?
        {
            if shape != self.layout.shape() {
                return Err(Error::shape(
                    names.join(" and "),
                    &shape,
                    &self.layout.shape(),
                ));
            }
            return self.replace(|whole| whole.copy_from_slice(&values));
        }
        for index in 0..self.layout.pieces() {
            let Some((name, wanted)) = self.layout.piece(index) else {
                break;
            };
            let (shape, values) = weights.read::<Accum<B>>(name)?;
            if shape != wanted {
                return Err(Error::shape(name, &shape, &wanted));
            }
            let layout = self.layout.clone();
            self.replace(|whole| layout.put(index, &values, whole))?;
        }
        Ok(())
    }

    fn replace(&mut self, work: impl FnOnce(&mut [Accum<B>])) -> Result<()> {
        B::Parameters::on_host(&self.device, [&mut self.values], [], |[values], []| {
            work(values);
        })
    }
}

/// Refuses sets that differ in more than their values.
fn agree<B: Backend>(left: &impl ParameterSet<B>, right: &impl ParameterSet<B>) -> Result<()> {
    for slot in 0.. {
        let (left, right) = match (left.group(slot), right.group(slot)) {
            (Some(left), Some(right)) => (left, right),
            (None, None) => break,
            _ => return Err(disagree("number of slots")),
        };
        for index in 0.. {
            match (left.1.parameter(index), right.1.parameter(index)) {
                (None, None) => break,
                (Some(left), Some(right)) if left.layout == right.layout => {}
                _ => return Err(disagree(left.0)),
            }
        }
    }
    Ok(())
}

fn disagree(what: &str) -> Error {
    Error::BadConstant(format!(
        "sets of parameters that are used together are not of one layer: they differ in `{what}`"
    ))
}

/// [`ParameterSet::update`].
fn side_by_side<B: Backend, P: ParameterSet<B>, const N: usize, const M: usize>(
    mut changed: [&mut P; N],
    read: [&P; M],
    mut work: impl FnMut(ParameterAt<'_>, [&mut [Accum<B>]; N], [&[Accum<B>]; M]),
) -> Result<()> {
    if N + M == 0 {
        return Ok(());
    }
    let others = || changed.iter().map(|set| &**set).chain(read);
    others()
        .zip(others().skip(1))
        .try_for_each(|(left, right)| agree(left, right))?;
    for slot in 0.. {
        let ours = all(changed.each_mut().map(|set| set.group_mut(slot)));
        let theirs = all(read.map(|set| set.group(slot)));
        let (Some(mut ours), Some(theirs)) = (ours, theirs) else {
            break;
        };
        let names = ours.iter().map(|group| group.0);
        let slot = names.chain(theirs.iter().map(|group| group.0)).next();
        for index in 0.. {
            let changed = ours.each_mut().map(|group| group.1.parameter_mut(index));
            let read = theirs.map(|group| group.1.parameter(index));
            let (Some(changed), Some(read)) = (all(changed), all(read)) else {
                break;
            };
            at(slot.unwrap_or_default(), changed, read, &mut work)?;
        }
    }
    Ok(())
}

/// Calls `work` with one parameter of every set.
fn at<B: Backend, const N: usize, const M: usize>(
    slot: &'static str,
    changed: [&mut Parameter<B>; N],
    read: [&Parameter<B>; M],
    work: &mut impl FnMut(ParameterAt<'_>, [&mut [Accum<B>]; N], [&[Accum<B>]; M]),
) -> Result<()> {
    let mut first: Option<(&B::Device, &ParameterLayout)> = None;
    let changed = changed.map(|parameter| {
        first.get_or_insert((&parameter.device, &parameter.layout));
        &mut parameter.values
    });
    let read = read.map(|parameter| {
        first.get_or_insert((&parameter.device, &parameter.layout));
        &parameter.values
    });
    let Some((device, layout)) = first else {
        return Ok(());
    };
    B::Parameters::on_host(device, changed, read, |changed, read| {
        work(ParameterAt { slot, layout }, changed, read);
    })
}

/// All of them, or `None` where one is absent.
fn all<T, const N: usize>(items: [Option<T>; N]) -> Option<[T; N]> {
    let present: Vec<T> = items.into_iter().flatten().collect();
    present.try_into().ok()
}

/// Implements [`ParameterSet`](crate::ParameterSet) and [`Trainable`](crate::Trainable) for a generated layer.
///
/// ```text
/// mla_runtime::parameters!(Name: linear_q_down_proj, q_layernorm, linear_q_up_proj);
/// mla_runtime::parameters!(Name: linear_proj, indexer_wk; trained: indexer_wk); // the others are frozen
/// ```
///
/// It stands in the module of the layer, lists the slots that have parameters, and uses these items of it:
///
/// - `Name<B: Backend>`, with a field of each slot's name that is a [`Module`](crate::Module);
/// - `Parameters<B: Backend>`, with a field of each slot's name, the [`Module::Parameters`](crate::Module::Parameters) of it, and
///   `zeros(&B::Device) -> Result<Self>`;
/// - `TENSORS: [TensorShape; _]`.
#[macro_export]
macro_rules! parameters {
    ($layer:ident: $($slot:ident),* $(,)?) => {
        $crate::parameters!($layer: $($slot),*; trained: $($slot),*);
    };
    ($layer:ident: $($slot:ident),* $(,)?; trained: $($trained:ident),* $(,)?) => {
        impl<B: $crate::Backend> $crate::ParameterSet<B> for Parameters<B> {
            fn zeros(device: &B::Device) -> $crate::Result<Self> {
                <Parameters<B>>::zeros(device)
            }

            fn tensor_shapes(&self) -> &'static [$crate::TensorShape] {
                &TENSORS
            }

            fn group(
                &self,
                index: usize,
            ) -> ::core::option::Option<(&'static str, &dyn $crate::ParameterGroup<B>)> {
                let groups: [(&'static str, &dyn $crate::ParameterGroup<B>);
                    <[&str]>::len(&[$(::core::stringify!($slot)),*])] =
                    [$((::core::stringify!($slot), &self.$slot)),*];
                groups.into_iter().nth(index)
            }

            fn group_mut(
                &mut self,
                index: usize,
            ) -> ::core::option::Option<(&'static str, &mut dyn $crate::ParameterGroup<B>)> {
                let groups: [(&'static str, &mut dyn $crate::ParameterGroup<B>);
                    <[&str]>::len(&[$(::core::stringify!($slot)),*])] =
                    [$((::core::stringify!($slot), &mut self.$slot)),*];
                groups.into_iter().nth(index)
            }
        }

        impl<B: $crate::Backend> $crate::Trainable<B> for $layer<B> {
            type Parameters = Parameters<B>;

            const TRAINABLE: &'static [&'static str] = &[$(::core::stringify!($slot)),*];
            const TRAINED: &'static [&'static str] = &[$(::core::stringify!($trained)),*];

            fn parameters(&self, device: &B::Device) -> $crate::Result<Self::Parameters> {
                #[allow(unused_mut)] // Where there are no slots
                let mut parameters = <Parameters<B>>::zeros(device)?;
                $($crate::Module::<B>::read(&self.$slot, &mut parameters.$slot)?;)*
                ::core::result::Result::Ok(parameters)
            }

            fn assign(&mut self, from: &Self::Parameters) -> $crate::Result<()> {
                let _ = from;
                $($crate::Module::<B>::assign(&mut self.$slot, &from.$slot)?;)*
                ::core::result::Result::Ok(())
            }
        }
    };
}
