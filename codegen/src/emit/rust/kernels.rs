//! The list of kernels that a layer brings along.

use super::layout::{Call, Lines};
use super::parts::Look;
use crate::emit::KernelTexts;
use crate::emit::cuda::CubinFile;
use crate::plan::{self, Program};

/// The array of a layer's kernels, and of what they were compiled to; `None` where it brings none along.
pub(crate) fn kernels(
    program: &Program,
    texts: KernelTexts,
    cubins: &[CubinFile],
    look: Look,
) -> Option<String> {
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
    if !cubins.is_empty() {
        compiled(cubins, look, &mut lines);
    }
    Some(lines.into_text())
}

fn source(name: &str, text: &str, lines: &mut Lines) {
    let name = format!("\"{name}\"");
    let call = Call::infallible("KernelSource::new", &[&name, text]);
    lines.call("", &call, ",");
}

fn compiled(cubins: &[CubinFile], look: Look, lines: &mut Lines) {
    lines.line("");
    look.doc(
        "What they were compiled to, for a device and number types each.",
        lines,
    );
    let open = format!("const CUBINS: [Cubin; {}] = [", cubins.len());
    lines.block(&open, "];", |lines| {
        for cubin in cubins {
            let name = format!("{:?}", cubin.unit.name());
            let arch = format!("{:?}", cubin.arch);
            let types = format!("{:?}", cubin.types);
            let bytes = format!("include_bytes!({:?})", cubin.file);
            let call = Call::infallible("Cubin::new", &[&name, &arch, &types, &bytes]);
            lines.call("", &call, ",");
        }
    });
}
