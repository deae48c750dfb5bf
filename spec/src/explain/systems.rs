//! Rules of other systems' arguments and configs. The examples are such texts: they meet exactly the code they stand under, which a
//! test sees to.

use super::Rule;
use crate::diagnostic::Code;

/// In the order of the codes.
pub const RULES: &[Rule] = &[
    Rule {
        code: Code(717),
        title: "an option that is refused beside latent attention",
        rule: "options that Megatron or MaxText refuses beside latent attention, or that this language can't say, are not there",
        why: "the system itself would stop, mostly later and with fewer words; or the imported layer would be another one",
        wrong: "attention_type: mla\nfused_qkv: true\n",
        right: "attention_type: mla\nfused_qkv: false\n",
    },
    Rule {
        code: Code(718),
        title: "no arguments",
        rule: "Megatron's arguments are flags with their values, or a YAML mapping",
        why: "a text without either is another file",
        wrong: "multi latent attention, 7168 wide, 128 heads\n",
        right: "--multi-latent-attention --hidden-size 7168 --num-attention-heads 128\n",
    },
    Rule {
        code: Code(719),
        title: "the config does not ask for latent attention",
        rule: "Megatron is given `--multi-latent-attention`, MaxText `attention_type: mla` in a `deepseek` decoder block",
        why: "without, both build other attention and pass over everything that is said about latents",
        wrong: "--hidden-size 7168 --num-attention-heads 128 --kv-lora-rank 512\n",
        right: "--hidden-size 7168 --num-attention-heads 128 --kv-lora-rank 512 --multi-latent-attention\n",
    },
    Rule {
        code: Code(720),
        title: "a size is missing",
        rule: "sizes that the system has no default for are stated",
        why: "there is nothing to take in their place",
        wrong: "--multi-latent-attention --hidden-size 7168\n",
        right: "--multi-latent-attention --hidden-size 7168 --num-attention-heads 128\n",
    },
    Rule {
        code: Code(721),
        title: "what the system computes can't be said here",
        rule: "options stay within what this language has words for",
        why: "leaving out what it has none for would import another layer",
        wrong: "attention_type: mla\nglobal_parameter_scale: 2\n",
        right: "attention_type: mla\nglobal_parameter_scale: 1\n",
    },
    Rule {
        code: Code(748),
        title: "the system passes over an option",
        rule: "an option that the system takes, and that its latent attention does nothing with, is pointed out",
        why: "whoever wrote it meant something by it; neither the system's layer nor the imported one does that",
        wrong: "attention_type: mla\nattention_sink: true\n",
        right: "attention_type: mla\nattention_sink: false\n",
    },
    Rule {
        code: Code(749),
        title: "the system does something else than it looks like",
        rule: "defaults that differ by where they are read, effects that reach further than their option, and choices that are not \
               taken over are pointed out",
        why: "the config alone does not show them, and a reference run of the system would",
        wrong: "attention_type: mla\nrope_type: yarn\n",
        right: "attention_type: mla\nrope_type: yarn\nmla_naive_kvcache: false\n",
    },
];
