//! What the assembler says of the kernels it made: registers, shared memory, and whether something went to slow memory.

/// One function, most of them kernels; sizes are bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionReport {
    /// Its name, mangled unless it is `extern "C"`.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u64,
    /// Local memory that a thread's stack takes.
    pub stack_frame: u64,
    /// Written because registers ran out.
    pub spill_stores: u64,
    /// Read because registers ran out.
    pub spill_loads: u64,
    /// Local memory that was warned of.
    pub local_bytes: u64,
}

/// Something that costs speed: a warning `(C75xx)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Its code, e.g. `C7510`.
    pub code: String,
    /// The kernel, where the warning names one.
    pub function: Option<String>,
    /// What it says.
    pub text: String,
}

/// All that a log tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they were assembled.
    pub functions: Vec<FunctionReport>,
    /// In the order of the log.
    pub warnings: Vec<Warning>,
}

impl Report {
    /// The function of this name.
    pub fn function(&self, name: &str) -> Option<&FunctionReport> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// The first function that keeps values in local memory.
    pub fn spilled(&self) -> Option<&FunctionReport> {
        self.functions.iter().find(|function| {
            function.stack_frame
                + function.spill_stores
                + function.spill_loads
                + function.local_bytes
                > 0
        })
    }

    /// The function of this name, made where there is none.
    fn entry(&mut self, name: &str) -> &mut FunctionReport {
        let at = self
            .functions
            .iter()
            .position(|function| function.name == name)
            .unwrap_or_else(|| {
                self.functions.push(FunctionReport {
                    name: name.into(),
                    ..FunctionReport::default()
                });
                self.functions.len() - 1
            });
        &mut self.functions[at]
    }
}

/// Reads a log that was written with `-v`, `-warn-spills` and `-warn-lmem-usage`. Lines that it doesn't know are left out.
pub fn report(log: &str) -> Report {
    let mut report = Report::default();
    // What a line of numbers is about: the kernel, and within it the function
    let mut kernel = String::new();
    let mut function = String::new();
    for line in log.lines() {
        if let Some(warning) = warning(line) {
            report.warnings.push(warning);
        } else if line.contains("Compiling entry function") {
            kernel = quoted(line).unwrap_or_default().into();
            function.clone_from(&kernel);
            report.entry(&kernel);
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim().trim_matches('\'').into();
            report.entry(&function);
        } else if line.contains("Local memory used for function") {
            if let (Some(name), Some((_, size))) = (quoted(line), line.rsplit_once(':')) {
                report.entry(name).local_bytes = number_before(size, "bytes").unwrap_or(0);
            }
        } else if line.contains("bytes stack frame") {
            let entry = report.entry(&function);
            entry.stack_frame = number_before(line, "bytes stack frame").unwrap_or(0);
            entry.spill_stores = number_before(line, "bytes spill stores").unwrap_or(0);
            entry.spill_loads = number_before(line, "bytes spill loads").unwrap_or(0);
        } else if line.contains("Used ") && line.contains(" registers") {
            let entry = report.entry(&kernel);
            let registers = number_before(line, "registers").unwrap_or(0);
            entry.registers = u32::try_from(registers).unwrap_or(u32::MAX);
            entry.shared_bytes = number_before(line, "bytes smem").unwrap_or(0);
            if let Some(local) = number_before(line, "bytes lmem") {
                entry.local_bytes = local;
            }
        }
    }
    report
}

/// The warning in a line, if it holds one.
fn warning(line: &str) -> Option<Warning> {
    let (_, from_code) = line.split_once("(C75")?;
    let (digits, text) = from_code.split_once(')')?;
    Some(Warning {
        code: format!("C75{digits}"),
        function: text
            .split_once("function ")
            .and_then(|(_, name)| quoted(name))
            .map(str::to_string),
        text: text.trim().into(),
    })
}

/// What stands in a line's first quotes.
fn quoted(line: &str) -> Option<&str> {
    line.split('\'').nth(1)
}

/// The number before a unit.
fn number_before(line: &str, unit: &str) -> Option<u64> {
    let (before, _) = line.split_once(unit)?;
    before.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVRTC 13.0's words.
    const LOG: &str = "\
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'gemm'
ptxas warning : Local memory used for function 'spill', size of stack frame: 1072 bytes
ptxas warning : Registers are spilled to local memory in function 'spill', 1952 bytes spill stores, 2232 bytes spill loads
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'shared' for 'sm_90a'
ptxas info    : Function properties for shared
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 256 bytes smem
ptxas info    : Compile time = 2.190 ms
ptxas info    : Compiling entry function 'spill' for 'sm_90a'
ptxas info    : Function properties for spill
ptxas         .     1072 bytes stack frame, 1952 bytes spill stores, 2232 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 1072 bytes cumulative stack size
ptxas info    : Compile time = 92.776 ms";

    #[test]
    fn every_kernel_is_read() {
        let report = report(LOG);
        assert_eq!(report.functions.len(), 2);
        assert_eq!(
            report.function("shared"),
            Some(&FunctionReport {
                name: "shared".into(),
                registers: 10,
                shared_bytes: 256,
                ..FunctionReport::default()
            })
        );
        let spill = FunctionReport {
            name: "spill".into(),
            registers: 32,
            shared_bytes: 0,
            stack_frame: 1072,
            spill_stores: 1952,
            spill_loads: 2232,
            local_bytes: 1072,
        };
        assert_eq!(report.function("spill"), Some(&spill));
        assert_eq!(report.spilled(), Some(&spill));
    }

    #[test]
    fn warnings_keep_their_code_and_kernel() {
        let [ignored, serialized] = &report(LOG).warnings[..] else {
            panic!("two warnings");
        };
        assert_eq!((ignored.code.as_str(), &ignored.function), ("C7508", &None));
        assert_eq!(serialized.code, "C7510");
        assert_eq!(serialized.function.as_deref(), Some("gemm"));
        assert!(serialized.text.starts_with("Potential Performance Loss"));
    }

    #[test]
    fn functions_that_kernels_call_have_their_own_stack() {
        // As older assemblers write it
        let report = report(
            "ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
             ptxas info    : Function properties for k\n    \
             8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
             ptxas info    : Function properties for _Z4helpi\n    \
             16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n\
             ptxas info    : Used 40 registers, 64 bytes smem, 8 bytes lmem, 400 bytes cmem[0]",
        );
        let k = report.function("k").unwrap();
        assert_eq!(
            (k.registers, k.shared_bytes, k.stack_frame, k.local_bytes),
            (40, 64, 8, 8)
        );
        let help = report.function("_Z4helpi").unwrap();
        assert_eq!((help.stack_frame, help.spill_stores), (16, 4));
    }

    #[test]
    fn what_is_no_log_tells_nothing() {
        assert_eq!(report(""), Report::default());
        assert_eq!(report("nonsense (C75\n(C7510"), Report::default());
    }
}
