//! `pattern`: which layer stands where.

use super::layers::{self, Named};
use super::{Attention, Keys, MOST_ATTENTIONS};
use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::text::wrong_kind;
use crate::check::value::{Field, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, NodeKind, Scalar};

/// Reads the pattern and marks the layers in it as used. `None`: refused.
pub(super) fn read(
    field: &Field<'_>,
    named: &mut [Named],
    out: &mut Diagnostics,
) -> Option<Vec<Attention>> {
    let mut expanded = Expanded {
        attentions: Vec::new(),
        right: true,
    };
    for item in field.list(out)? {
        expanded.item(item, named, out);
    }
    if expanded.attentions.len() > MOST_ATTENTIONS {
        let message = format!("the pattern has more than {MOST_ATTENTIONS} attentions");
        let label = "too long";
        let long = Diagnostic::error(codes::PATTERN_TOO_LONG, message, field.value.span, label);
        out.push(long.help("is one of the repetitions a slip?"));
        return None;
    }
    expanded.right.then_some(expanded.attentions)
}

struct Expanded {
    attentions: Vec<Attention>,
    right: bool,
}

impl Expanded {
    fn item(&mut self, item: &Node, named: &mut [Named], out: &mut Diagnostics) {
        match &item.kind {
            NodeKind::Scalar(Scalar::Str(name)) => {
                match layers::find(name, item.span, named, out) {
                    Some(layer) => {
                        named[layer].used = true;
                        self.attentions.push(Attention {
                            layer,
                            span: item.span,
                        });
                    }
                    None => self.right = false,
                }
            }
            NodeKind::Map(_) => self.repetition(item, named, out),
            _ => {
                let wanted = "the name of a layer, or `{ repeat: .., of: [..] }`";
                out.push(wrong_kind("pattern", wanted, item));
                self.right = false;
            }
        }
    }

    fn repetition(&mut self, item: &Node, named: &mut [Named], out: &mut Diagnostics) {
        let most = MOST_ATTENTIONS as u32;
        let table = Table::map("pattern", None, item, item.span, Place::Model, out);
        let Some(mut table) = table else {
            self.right = false;
            return;
        };
        let times = table
            .require("repeat")
            .and_then(|field| field.integer(1, most, out));
        let block = table.require("of").and_then(|field| field.list(out));
        table.finish(out);
        let start = self.attentions.len();
        for item in block.unwrap_or_default() {
            self.item(item, named, out);
        }
        let (Some(times), Some(_)) = (times, block) else {
            self.right = false;
            return;
        };
        let block = self.attentions[start..].to_vec();
        for _ in 1..times.value {
            // Beyond the bound the length is refused, whatever it is.
            if self.attentions.len() > MOST_ATTENTIONS {
                break;
            }
            self.attentions.extend(&block);
        }
    }
}

/// The pattern has an entry for every attention of every layer (features 4.5-20).
pub(super) fn check_length(field: &Field<'_>, found: usize, keys: &Keys, out: &mut Diagnostics) {
    let (Some(layers), Some(per_layer)) = (keys.num_hidden_layers, keys.attentions_per_layer)
    else {
        return;
    };
    let wanted = layers.value as usize * per_layer as usize;
    if found == wanted {
        return;
    }
    let each = match per_layer {
        1 => String::new(),
        several => format!(" of {several} attentions each"),
    };
    let message = format!(
        "the pattern has {found} attentions, and {} layers{each} have {wanted}",
        layers.value
    );
    let label = format!("{found} attentions");
    let length = Diagnostic::error(codes::PATTERN_LENGTH, message, field.key.span, label);
    out.push(
        length
            .and(layers.span, "so many layers")
            .note("repetitions count as often as they say")
            .help("list every attention in the order in which they run"),
    );
}
