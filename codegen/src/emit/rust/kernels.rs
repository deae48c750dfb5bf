//! The list of kernels that a layer brings along.

use super::layout::{Call, Lines};
use super::parts::Look;
use crate::emit::KernelTexts;
use crate::plan::{self, Program};

/// The array of a layer's kernels; `None` where it brings none along.
pub(crate) fn kernels(program: &Program, texts: KernelTexts, look: Look) -> Option<String> {
    if texts == KernelTexts::None {
        return None;
    }
    let units = plan::kernels(program);
    let mut lines = look.lines();
    look.doc("The layer's CUDA kernels.", &mut lines);
    let open = format!("const KERNELS: [KernelSource; {}] = [", units.len());
    lines.block(&open, "];", |lines| {
        for unit in &units {
            let name = unit.name();
            match texts {
                KernelTexts::Files => {
                    source(&name, &format!("include_str!(\"cuda/{name}.cu\")"), lines);
                }
                _ => source(&name, &format!("{:?}", unit.text()), lines),
            }
        }
    });
    Some(lines.into_text())
}

fn source(name: &str, text: &str, lines: &mut Lines) {
    let name = format!("\"{name}\"");
    let call = Call::infallible("KernelSource::new", &[&name, text]);
    lines.call("", &call, ",");
}
