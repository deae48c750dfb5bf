//! Line breaking as rustfmt does it, for the few shapes of code that generated text is made of.
//!
//! Emission has to be pure and quick, so it can't call rustfmt; tests hold every emitted file against it.

/// Columns of a line, rustfmt's `max_width`.
const MAX_WIDTH: usize = 100;

/// Widest arguments, method chain or array that stays on one line (`fn_call_width`, `chain_width`, `array_width`).
const SMALL_WIDTH: usize = 60;

/// Widest element of an array that is packed several to a line (`short_array_element_width_threshold`).
const SHORT_ELEMENT: usize = 10;

/// Columns of one indentation.
const INDENT: usize = 4;

/// Text made line by line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    text: String,
    indent: usize,
}

/// Where a chain that starts at `self` is broken first.
enum Broken {
    /// Behind `self`.
    AtSelf,
    /// Behind the equals sign.
    BehindEquals,
}

/// A call: `callee(arguments)tail`.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// A path, or a receiver and its method: `attention::expanded`, `self.rotary.key`.
    pub(crate) callee: String,
    /// The arguments, none of which is ever broken.
    pub(crate) arguments: Vec<String>,
    /// `?`, or nothing.
    pub(crate) tail: &'static str,
}

impl Call {
    /// `callee(arguments)?`.
    pub(crate) fn fallible(callee: impl Into<String>, arguments: &[&str]) -> Self {
        Self {
            callee: callee.into(),
            arguments: owned(arguments),
            tail: "?",
        }
    }

    /// `callee(arguments)`.
    pub(crate) fn infallible(callee: impl Into<String>, arguments: &[&str]) -> Self {
        Self {
            callee: callee.into(),
            arguments: owned(arguments),
            tail: "",
        }
    }

    fn on_one_line(&self) -> String {
        format!(
            "{}({}){}",
            self.callee,
            self.arguments.join(", "),
            self.tail
        )
    }

    /// Whether rustfmt would break the call before each dot rather than between its arguments: they are short, the chain is long,
    /// and it does not start at `self`.
    fn breaks_between_links(&self) -> bool {
        let is_chain = self.callee.matches('.').count() >= 2 && !self.callee.starts_with("self.");
        is_chain && width(&self.arguments.join(", ")) <= SMALL_WIDTH
    }

    /// Whether rustfmt would break the call behind its receiver: a single method with generic and short arguments.
    fn breaks_behind_receiver(&self) -> bool {
        let (receiver, method) = self.callee.split_once('.').unwrap_or(("", ""));
        let is_single = !method.contains('.') && method.contains("::<");
        is_single && receiver.len() > INDENT && width(&self.arguments.join(", ")) <= SMALL_WIDTH
    }

    /// Whether rustfmt would leave the call unbroken on a line that is wide enough.
    fn is_small(&self) -> bool {
        let links = self
            .callee
            .split("::<")
            .next()
            .unwrap_or("")
            .matches('.')
            .count();
        let chain = links < 2 || width(&self.on_one_line()) + width(self.tail) <= SMALL_WIDTH;
        chain && width(&self.arguments.join(", ")) <= SMALL_WIDTH
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The generic arguments in a list of them, those inside brackets left whole.
fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut all) = (0_usize, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                all.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(list[start..].trim());
    all
}

fn width(text: &str) -> usize {
    text.chars().count()
}

impl Lines {
    /// Empty text whose lines start `levels` indentations in.
    pub(crate) fn indented(levels: usize) -> Self {
        Self {
            text: String::new(),
            indent: levels * INDENT,
        }
    }

    /// The text, without its last line feed.
    pub(crate) fn into_text(mut self) -> String {
        if self.text.ends_with('\n') {
            self.text.pop();
        }
        self.text
    }

    /// One line, or an empty one.
    pub(crate) fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n(' ', self.indent));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    /// `lines` below one, one level deeper.
    pub(crate) fn beneath(&mut self, line: &str, inside: impl FnOnce(&mut Self)) {
        self.line(line);
        self.indent += INDENT;
        inside(self);
        self.indent -= INDENT;
    }

    /// `lines` between an opening and a closing one, one level deeper.
    pub(crate) fn block(&mut self, open: &str, close: &str, inside: impl FnOnce(&mut Self)) {
        self.beneath(open, inside);
        self.line(close);
    }

    /// The first line of a block whose lines follow.
    pub(crate) fn opened(&mut self, open: &str) {
        self.line(open);
        self.indent += INDENT;
    }

    /// The last line of a block that was [`opened`](Self::opened).
    pub(crate) fn closed(&mut self, close: &str) {
        self.indent -= INDENT;
        self.line(close);
    }

    /// The lines of a pattern, without what closes it.
    pub(crate) fn pattern(&mut self, open: &str, fields: &[String]) {
        self.line(open);
        self.indent += INDENT;
        fields.iter().for_each(|field| self.line(field));
        self.indent -= INDENT;
    }

    /// Prose behind `marker` (`//`, `///`, `//!`), broken at the line's width.
    pub(crate) fn prose(&mut self, marker: &str, text: &str) {
        self.wrapped((marker, marker), text.split_whitespace(), " ");
    }

    /// An item of a list in documentation.
    pub(crate) fn bullet(&mut self, marker: &str, text: &str) {
        self.wrapped(
            (&format!("{marker} -"), &format!("{marker}  ")),
            text.split_whitespace(),
            " ",
        );
    }

    /// A comment of clauses, each followed by `;  ` but the last: broken between them.
    pub(crate) fn clauses(&mut self, text: &str) {
        self.wrapped(("//", "//  "), text.split(";  "), ";  ");
    }

    /// Words with `between` between them, `start.0` before the first line and `start.1` before the others.
    fn wrapped<'t>(
        &mut self,
        start: (&str, &str),
        words: impl Iterator<Item = &'t str>,
        between: &str,
    ) {
        let mut line = start.0.to_owned();
        for (i, word) in words.enumerate() {
            let joint = if i == 0 { " " } else { between };
            if i > 0 && self.indent + width(&line) + width(joint) + width(word) + 1 > MAX_WIDTH {
                self.line(&format!("{line}{}", between.trim_end()));
                line = format!("{} {word}", start.1);
            } else {
                line.push_str(joint);
                line.push_str(word);
            }
        }
        self.line(&line);
    }

    /// `before` `call` `after`, where `before` is `let x = `, `x: ` or nothing and `after` is `;`, `,` or nothing.
    pub(crate) fn call(&mut self, before: &str, call: &Call, after: &str) {
        let whole = call.on_one_line();
        // rustfmt measures a chain with its `?` as if two columns more were needed
        let tried = 2 * usize::from(call.callee.contains('.') && !call.tail.is_empty());
        let fits = |before: &str, indent: usize| {
            let line = indent + width(before) + width(&whole) + width(after);
            call.is_small() && line + tried <= MAX_WIDTH
        };
        let open = format!("{before}{}(", call.callee);
        if fits(before, self.indent) {
            self.line(&format!("{before}{whole}{after}"));
        } else if let Some(assigned) = before.strip_suffix("= ")
            && fits("", self.indent + INDENT)
        {
            self.line(&format!("{assigned}="));
            self.indent += INDENT;
            self.line(&format!("{whole}{after}"));
            self.indent -= INDENT;
        } else if before.is_empty() && call.breaks_between_links() {
            self.links(call, after);
        } else if (before.is_empty() || before.ends_with("= ")) && call.breaks_behind_receiver() {
            let (receiver, method) = call.callee.split_once('.').unwrap_or((&call.callee, ""));
            self.line(&format!("{before}{receiver}"));
            self.indent += INDENT;
            self.line(&format!(
                ".{method}({}){}{after}",
                call.arguments.join(", "),
                call.tail
            ));
            self.indent -= INDENT;
        } else if let Some(broken) = self.field_method(before, call, after) {
            match broken {
                Broken::AtSelf => self.field_links(before, call, after),
                Broken::BehindEquals => {
                    self.line(before.trim_end());
                    self.indent += INDENT;
                    self.field_links("", call, after);
                    self.indent -= INDENT;
                }
            }
        } else if let Some(assigned) = before.strip_suffix("= ")
            && self.indent + width(&open) + tried > MAX_WIDTH
        {
            self.line(&format!("{assigned}="));
            self.indent += INDENT;
            self.call("", call, after);
            self.indent -= INDENT;
        } else {
            self.block(&open, &format!("){}{after}", call.tail), |lines| {
                if call
                    .arguments
                    .iter()
                    .all(|word| width(word) <= SHORT_ELEMENT)
                {
                    return lines.packed(&call.arguments);
                }
                for argument in &call.arguments {
                    lines.argument(argument);
                }
            });
        }
    }

    /// An argument on a line of its own; an array that is long, element by element.
    fn argument(&mut self, argument: &str) {
        let elements = argument
            .strip_prefix("&[")
            .and_then(|rest| rest.strip_suffix(']'));
        match elements.filter(|elements| width(elements) > SMALL_WIDTH) {
            Some(elements) => self.block("&[", "],", |lines| {
                for element in elements.split(", ") {
                    lines.line(&format!("{element},"));
                }
            }),
            None => self.line(&format!("{argument},")),
        }
    }

    /// How rustfmt breaks a method of a field of `self` whose arguments are short but whose chain is not; `None` where it breaks between
    /// arguments.
    fn field_method(&self, before: &str, call: &Call, after: &str) -> Option<Broken> {
        let is_short = width(&call.arguments.join(", ")) <= SMALL_WIDTH;
        let links = call.callee.strip_prefix("self.")?.matches('.').count();
        if links != 1 || !is_short || call.callee.contains("::<") || call.callee.contains('(') {
            return None;
        }
        let whole = width(&call.on_one_line()) + width(after) + 2 * width(call.tail);
        let fits = |columns: usize| self.indent + columns + whole <= MAX_WIDTH;
        if before.is_empty() {
            return Some(Broken::AtSelf);
        }
        if call.arguments.len() <= 2 || fits(width(before)) {
            return Some(Broken::AtSelf);
        }
        fits(INDENT).then_some(Broken::BehindEquals)
    }

    /// `before self`, then each of the links on a line of its own; the first one beside a `self` that begins a line.
    fn field_links(&mut self, before: &str, call: &Call, after: &str) {
        let links: Vec<&str> = call.callee.split('.').collect();
        let alone = if before.is_empty() { 2 } else { 1 };
        self.line(&format!("{before}{}", links[..alone].join(".")));
        self.indent += INDENT;
        for (i, link) in links.iter().enumerate().skip(alone) {
            let end = if i + 1 == links.len() {
                format!("({}){}{after}", call.arguments.join(", "), call.tail)
            } else {
                String::new()
            };
            self.line(&format!(".{link}{end}"));
        }
        self.indent -= INDENT;
    }

    /// A call with each of its links on a line of its own.
    fn links(&mut self, call: &Call, after: &str) {
        let mut links = call.callee.split('.');
        self.line(links.next().unwrap_or_default());
        let links: Vec<&str> = links.collect();
        self.indent += INDENT;
        for (i, link) in links.iter().enumerate() {
            let end = if i + 1 == links.len() {
                format!("({}){}{after}", call.arguments.join(", "), call.tail)
            } else {
                String::new()
            };
            self.line(&format!(".{link}{end}"));
        }
        self.indent -= INDENT;
    }

    /// `name: ty,` of a struct, the type on its own line or broken between its arguments where it has to.
    pub(crate) fn field(&mut self, name: &str, ty: &str) {
        if self.indent + width(name) + 2 + width(ty) < MAX_WIDTH {
            return self.line(&format!("{name}: {ty},"));
        }
        if self.indent + INDENT + width(ty) < MAX_WIDTH {
            self.line(&format!("{name}:"));
            self.indent += INDENT;
            self.line(&format!("{ty},"));
            self.indent -= INDENT;
            return;
        }
        let (outer, inside) = ty.split_once('<').unwrap_or((ty, ""));
        let arguments = top_level(inside.strip_suffix('>').unwrap_or(inside));
        self.block(&format!("{name}: {outer}<"), ">,", |lines| {
            for argument in arguments {
                lines.line(&format!("{argument},"));
            }
        });
    }

    /// `item = value;`, the value on its own line where it has to.
    pub(crate) fn assignment(&mut self, item: &str, value: &str) {
        if self.indent + width(item) + 3 + width(value) < MAX_WIDTH {
            self.line(&format!("{item} = {value};"));
        } else {
            self.line(&format!("{item} ="));
            self.indent += INDENT;
            self.line(&format!("{value};"));
            self.indent -= INDENT;
        }
    }

    /// `before` `start` and its `links`, `;`: on one line, or each link on its own.
    pub(crate) fn chain(&mut self, before: &str, start: &str, links: &[&str]) {
        let whole = format!("{start}{}", links.concat());
        let fits = self.indent + width(before) + width(&whole) < MAX_WIDTH;
        if fits && (width(&whole) <= SMALL_WIDTH || links.len() < 2) {
            return self.line(&format!("{before}{whole};"));
        }
        if let (Some(assigned), true) = (
            before.strip_suffix("= "),
            !fits && width(&whole) <= SMALL_WIDTH,
        ) {
            self.line(&format!("{assigned}="));
            self.indent += INDENT;
            self.line(&format!("{whole};"));
            self.indent -= INDENT;
            return;
        }
        self.line(&format!("{before}{start}"));
        self.indent += INDENT;
        for (i, link) in links.iter().enumerate() {
            let end = if i + 1 == links.len() { ";" } else { "" };
            self.line(&format!("{link}{end}"));
        }
        self.indent -= INDENT;
    }

    /// `item = name<arguments>;`, broken before the type or between its arguments where it has to.
    pub(crate) fn generic_assignment(&mut self, item: &str, (name, of): &(String, Vec<String>)) {
        let whole = format!("{name}<{}>", of.join(", "));
        if self.indent + INDENT + width(&whole) < MAX_WIDTH {
            return self.assignment(item, &whole);
        }
        self.block(&format!("{item} = {name}<"), ">;", |lines| {
            of.iter()
                .for_each(|argument| lines.line(&format!("{argument},")));
        });
    }

    /// `head { ... }`, the brace on its own line where it has to.
    pub(crate) fn item(&mut self, head: &str, inside: impl FnOnce(&mut Self)) {
        if self.indent + width(head) + 2 <= MAX_WIDTH {
            self.block(&format!("{head} {{"), "}", inside);
        } else {
            self.line(head);
            self.block("{", "}", inside);
        }
    }

    /// `pattern => value,` of a match, the value in a block where it has to.
    pub(crate) fn arm(&mut self, pattern: &str, value: &str) {
        let whole = format!("{pattern} => {value},");
        if self.indent + width(&whole) <= MAX_WIDTH {
            return self.line(&whole);
        }
        self.block(&format!("{pattern} => {{"), "}", |lines| lines.line(value));
    }

    /// A function: its signature, and what `body` writes.
    pub(crate) fn function(
        &mut self,
        head: &str,
        parameters: &[String],
        returns: &str,
        body: impl FnOnce(&mut Self),
    ) {
        let whole = format!("{head}({}) -> {returns} {{", parameters.join(", "));
        if self.indent + width(&whole) <= MAX_WIDTH {
            return self.block(&whole, "}", body);
        }
        self.block(
            &format!("{head}("),
            &format!(") -> {returns} {{"),
            |lines| {
                for parameter in parameters {
                    lines.line(&format!("{parameter},"));
                }
            },
        );
        self.indent += INDENT;
        body(self);
        self.indent -= INDENT;
        self.line("}");
    }

    /// `item = [elements];`.
    pub(crate) fn array(&mut self, item: &str, elements: &[String]) {
        let inside = elements.join(", ");
        let small = width(&inside) <= SMALL_WIDTH;
        if small && self.indent + width(item) + width(&inside) + 6 <= MAX_WIDTH {
            return self.line(&format!("{item} = [{inside}];"));
        }
        if small && self.indent + INDENT + width(&inside) + 3 <= MAX_WIDTH {
            return self.assignment(item, &format!("[{inside}]"));
        }
        self.block(&format!("{item} = ["), "];", |lines| {
            // Tuples are never packed
            let is_short =
                |element: &String| width(element) <= SHORT_ELEMENT && !element.starts_with('(');
            if elements.iter().all(is_short) {
                lines.packed(elements);
            } else {
                elements
                    .iter()
                    .for_each(|element| lines.line(&format!("{element},")));
            }
        });
    }

    /// `use path::{names};`, the names sorted.
    pub(crate) fn import(&mut self, path: &str, names: &[String]) {
        let whole = match names {
            [name] => format!("use {path}::{name};"),
            names => format!("use {path}::{{{}}};", names.join(", ")),
        };
        if self.indent + width(&whole) <= MAX_WIDTH {
            return self.line(&whole);
        }
        self.block(&format!("use {path}::{{"), "};", |lines| {
            lines.packed(names)
        });
    }

    /// As many words to a line as fit, each followed by a comma. rustfmt keeps a column free.
    pub(crate) fn packed(&mut self, words: &[String]) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && self.indent + width(&line) + width(word) + 2 >= MAX_WIDTH {
                self.line(&line);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            line.push(',');
        }
        self.line(&line);
    }
}
