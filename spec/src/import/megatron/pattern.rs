//! Lists of layers as Megatron's command line takes them: `4`, or `([1]*3+[0])*2`.

use crate::node::{Node, NodeKind, Scalar};

/// Which layers a pattern is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Every so many layers, the last of them is another one.
    Every(u32),
    /// One entry per layer.
    List(Vec<bool>),
}

impl Pattern {
    /// The pattern that a value is, `None` where it is none.
    pub(super) fn of(value: &Node) -> Option<Self> {
        match &value.kind {
            NodeKind::Scalar(Scalar::Int(every)) => u32::try_from(*every)
                .ok()
                .filter(|every| *every > 0)
                .map(Self::Every),
            NodeKind::Scalar(Scalar::Str(text)) => expression(text).map(Self::List),
            NodeKind::Seq(items) => items
                .iter()
                .map(|item| match item.kind {
                    NodeKind::Scalar(Scalar::Int(0)) => Some(false),
                    NodeKind::Scalar(Scalar::Int(1)) => Some(true),
                    _ => None,
                })
                .collect::<Option<_>>()
                .map(Self::List),
            _ => None,
        }
    }

    /// Whether a layer, counted from 1, is one of the usual kind; `None` behind the list's end.
    pub(super) fn holds(&self, number: u32) -> Option<bool> {
        match self {
            Self::Every(every) => Some(!number.is_multiple_of(*every)),
            Self::List(list) => list.get(number as usize - 1).copied(),
        }
    }
}

/// More entries than any model has layers.
const MOST: usize = 4096;

/// A sum of lists, each perhaps times a number.
fn expression(text: &str) -> Option<Vec<bool>> {
    let mut reader = Reader {
        rest: text.trim(),
        depth: 0,
    };
    let list = reader.sum()?;
    reader.rest.is_empty().then_some(list)
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn sum(&mut self) -> Option<Vec<bool>> {
        self.depth += 1;
        if self.depth > 16 {
            return None;
        }
        let mut list = self.product()?;
        while self.eat('+') {
            list.extend(self.product()?);
            if list.len() > MOST {
                return None;
            }
        }
        self.depth -= 1;
        Some(list)
    }

    fn product(&mut self) -> Option<Vec<bool>> {
        let list = if self.eat('(') {
            let list = self.sum()?;
            self.eat(')').then_some(list)?
        } else {
            self.list()?
        };
        if !self.eat('*') {
            return Some(list);
        }
        let times = self.number()?;
        (list.len().checked_mul(times)? <= MOST).then(|| list.repeat(times))
    }

    fn list(&mut self) -> Option<Vec<bool>> {
        self.eat('[').then_some(())?;
        let mut list = Vec::new();
        loop {
            list.push(match self.number()? {
                0 => false,
                1 => true,
                _ => return None,
            });
            if !self.eat(',') {
                break;
            }
        }
        self.eat(']').then_some(list)
    }

    fn number(&mut self) -> Option<usize> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = self.rest.get(..digits)?.parse().ok()?;
        self.rest = self.rest.get(digits..)?.trim_start();
        Some(number)
    }

    fn eat(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_python_would() {
        let list = |bits: &str| Some(bits.chars().map(|bit| bit == '1').collect::<Vec<_>>());
        assert_eq!(expression("[0]*3+[1]*2"), list("00011"));
        assert_eq!(expression("([1]*3 + [0])*2"), list("11101110"));
        assert_eq!(expression("[1,0, 1]"), list("101"));
        for wrong in ["", "[2]", "[1]*", "[1", "([1]", "[1]*99999", "4", "[1]x"] {
            assert_eq!(expression(wrong), None, "{wrong}");
        }
        assert_eq!(expression(&"(".repeat(100_000)), None);
        let every = Pattern::Every(4);
        assert_eq!((every.holds(3), every.holds(4)), (Some(true), Some(false)));
    }
}
