//! What other systems assert, and what becomes of each assertion here.
//!
//! Megatron-Core, MaxText, vLLM, FlashMLA and Hugging Face refuse combinations of options, mostly while they run. Each such
//! condition either is a diagnostic of this compiler, or is met by the runtime with an error, or cannot be written down.

mod kernels;
mod maxtext;
mod megatron;
mod nobody;
mod vllm;

/// A condition that some system asserts, or that none does though it should.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// Number within its system's list.
    pub number: &'static str,
    /// The condition, in words.
    pub text: &'static str,
    /// What becomes of it here.
    pub answer: Answer,
}

/// What becomes of a condition here.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// `check` refuses it: a spec, or what of it differs from [`super::BASE`], that meets the condition.
    Refused(&'static str),
    /// The runtime, the loader or rustc refuses it: which one, and how.
    Met(&'static str),
    /// It can't be written down: why.
    Never(&'static str),
}

/// The conditions of one system.
#[derive(Debug, Clone, Copy)]
pub struct System {
    /// Its name.
    pub name: &'static str,
    /// Its conditions.
    pub conditions: &'static [Condition],
}

/// Every system's conditions.
pub const SYSTEMS: [System; 5] = [
    System {
        name: "Megatron-Core",
        conditions: megatron::CONDITIONS,
    },
    System {
        name: "MaxText",
        conditions: maxtext::CONDITIONS,
    },
    System {
        name: "vLLM",
        conditions: vllm::CONDITIONS,
    },
    System {
        name: "FlashMLA, DeepGEMM, transformers, DeepSeek's reference, mistral.rs",
        conditions: kernels::CONDITIONS,
    },
    System {
        name: "Nobody",
        conditions: nobody::CONDITIONS,
    },
];

const fn refused(number: &'static str, text: &'static str, spec: &'static str) -> Condition {
    Condition {
        number,
        text,
        answer: Answer::Refused(spec),
    }
}

const fn met(number: &'static str, text: &'static str, how: &'static str) -> Condition {
    Condition {
        number,
        text,
        answer: Answer::Met(how),
    }
}

const fn never(number: &'static str, text: &'static str, why: &'static str) -> Condition {
    Condition {
        number,
        text,
        answer: Answer::Never(why),
    }
}
