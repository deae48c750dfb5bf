//! A small reader of pages: enough of HTML to say that one is well-formed, and what is in it.

use std::collections::BTreeMap;

/// Elements that have no end.
const VOID: [&str; 4] = ["meta", "input", "img", "br"];

/// Elements whose text is not markup.
const RAW: [&str; 2] = ["style", "script"];

/// A page that was read.
pub(crate) struct Page {
    elements: Vec<Element>,
    /// Where each name stands.
    ids: BTreeMap<String, usize>,
    text: String,
}

/// A start tag.
#[derive(Debug)]
pub(crate) struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    /// The element around it.
    parent: Option<usize>,
}

impl Element {
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn has_class(&self, class: &str) -> bool {
        let classes = self.attribute("class").unwrap_or("");
        classes.split(' ').any(|own| own == class)
    }

    /// A length of its style, in pixels.
    fn length(&self, name: &str) -> Option<f64> {
        let style = self.attribute("style")?.split(';');
        let mut pairs = style.filter_map(|pair| pair.split_once(':'));
        let (_, value) = pairs.find(|(own, _)| *own == name)?;
        value.strip_suffix("px")?.parse().ok()
    }
}

impl Page {
    /// Reads a page; every tag has to be closed, in turn, every name to be one element's, and every `<` of a text to be escaped.
    pub(crate) fn read(html: &str) -> Result<Self, String> {
        let mut page = Self {
            elements: Vec::new(),
            ids: BTreeMap::new(),
            text: String::new(),
        };
        let mut open: Vec<usize> = Vec::new();
        let mut rest = html
            .strip_prefix("<!doctype html>")
            .ok_or("it has no doctype")?;
        while let Some(start) = rest.find('<') {
            page.text.push_str(&rest[..start]);
            rest = &rest[start..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                rest = after(comment, "-->")?;
            } else if let Some(end) = rest.strip_prefix("</") {
                let (name, more) = end.split_once('>').ok_or("a tag does not end")?;
                let closed = open.pop().ok_or_else(|| format!("`{name}` was not open"))?;
                let wanted = &page.elements[closed].name;
                if wanted != name {
                    return Err(format!("`{name}` closes `{wanted}`"));
                }
                rest = more;
            } else {
                let (mut element, is_closed, more) = tag(&rest[1..])?;
                element.parent = open.last().copied();
                let name = element.name.clone();
                let id = element.attribute("id").map(str::to_owned);
                if let Some(id) = id
                    && page.ids.insert(id.clone(), page.elements.len()).is_some()
                {
                    return Err(format!("`{id}` is two elements' name"));
                }
                page.elements.push(element);
                rest = more;
                if RAW.contains(&name.as_str()) {
                    rest = after(rest, &format!("</{name}>"))?;
                } else if !is_closed && !VOID.contains(&name.as_str()) {
                    open.push(page.elements.len() - 1);
                }
            }
        }
        match open.last() {
            Some(left) => Err(format!("`{}` is not closed", page.elements[*left].name)),
            None => Ok(page),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.elements
            .iter()
            .filter(|element| element.name == name)
            .count()
    }

    pub(crate) fn has_id(&self, id: &str) -> bool {
        self.ids.contains_key(id)
    }

    pub(crate) fn element(&self, id: &str) -> &Element {
        let found = self.ids.get(id).map(|at| &self.elements[*at]);
        found.unwrap_or_else(|| panic!("there is no {id}"))
    }

    pub(crate) fn with_class<'a>(&'a self, class: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements
            .iter()
            .filter(move |element| element.has_class(class))
    }

    /// What refers to a name finds it, headings are in order, nothing is loaded, and there are landmarks and a skip link.
    pub(crate) fn assert_sound(&self, page: &str) {
        let mut level = 0;
        for element in &self.elements {
            for (name, value) in &element.attributes {
                self.assert_attribute(page, name, value);
            }
            let depth = element
                .name
                .strip_prefix('h')
                .and_then(|depth| depth.parse::<u32>().ok());
            if let Some(depth) = depth {
                assert!(
                    depth <= level + 1,
                    "{page}: a heading {depth} below one of {level}"
                );
                level = depth;
            }
            if element.name == "svg" {
                let is_named = element
                    .attribute("aria-label")
                    .is_some_and(|label| !label.is_empty());
                let is_hidden = element.attribute("aria-hidden") == Some("true");
                assert!(is_named || is_hidden, "{page}: an svg has no name");
            }
            let is_focusable =
                element.attribute("tabindex") == Some("0") || element.has_class("op");
            assert!(
                !is_focusable || element.attribute("aria-label").is_some(),
                "{page}: something that has focus has no name: {element:?}"
            );
        }
        for landmark in ["header", "nav", "main", "footer", "h1", "title"] {
            assert_eq!(self.count(landmark), 1, "{page}: {landmark}");
        }
        for loaded in ["link", "iframe", "object", "embed", "img", "base", "form"] {
            assert_eq!(self.count(loaded), 0, "{page}: {loaded}");
        }
        assert!(
            self.with_class("skip").next().is_some(),
            "{page}: a skip link"
        );
    }

    fn assert_attribute(&self, page: &str, name: &str, value: &str) {
        match name {
            "href" => {
                let target = value.strip_prefix('#');
                let target = target.unwrap_or_else(|| panic!("{page}: `{value}` leaves the page"));
                assert!(self.has_id(target), "{page}: nothing is called {target}");
            }
            "for" | "aria-labelledby" | "aria-describedby" | "aria-controls" => {
                for target in value.split(' ') {
                    assert!(self.has_id(target), "{page}: nothing is called {target}");
                }
            }
            "src" | "srcset" | "action" | "poster" => panic!("{page}: it loads {value}"),
            "style" => assert!(!value.contains("url("), "{page}: {value}"),
            _ => assert!(!name.starts_with("on"), "{page}: {name}"),
        }
    }

    /// No card lies on another, no box leaves its card or lies on another there.
    pub(crate) fn assert_apart(&self, page: &str) {
        let mut cards: Vec<(Option<usize>, [f64; 4])> = Vec::new();
        for (index, element) in self.elements.iter().enumerate() {
            if !element.has_class("card") {
                continue;
            }
            let own = rectangle(element).unwrap_or_else(|| panic!("{page}: {element:?}"));
            for (_, other) in cards.iter().filter(|(list, _)| *list == element.parent) {
                assert!(
                    are_apart(&own, other),
                    "{page}: cards {own:?} and {other:?}"
                );
            }
            cards.push((element.parent, own));
            self.assert_boxes(page, index, &own);
        }
        assert!(!cards.is_empty(), "{page} has cards");
    }

    fn assert_boxes(&self, page: &str, card: usize, frame: &[f64; 4]) {
        let lists = self.elements.iter().enumerate();
        let lists = lists.filter(|(_, list)| list.has_class("ops") && list.parent == Some(card));
        let lists: Vec<usize> = lists.map(|(index, _)| index).collect();
        let boxes = self.elements.iter().filter(|element| {
            let is_port = element.has_class("port") && element.parent == Some(card);
            is_port || element.parent.is_some_and(|parent| lists.contains(&parent))
        });
        let mut before: Vec<[f64; 4]> = Vec::new();
        for element in boxes {
            let Some(own) = rectangle(element) else {
                continue;
            };
            let [x, y, width, height] = own;
            let is_inside = x >= 0.0 && y >= 0.0 && x + width <= frame[2] && y + height <= frame[3];
            assert!(is_inside, "{page}: {own:?} leaves {frame:?}");
            for other in &before {
                assert!(
                    are_apart(&own, other),
                    "{page}: boxes {own:?} and {other:?}"
                );
            }
            before.push(own);
        }
    }
}

/// Place and size; names of what enters a card have a height of their own.
fn rectangle(element: &Element) -> Option<[f64; 4]> {
    let height = match element.has_class("port") {
        true => Some(18.0),
        false => element.length("--h"),
    };
    let [x, y, width] = ["--x", "--y", "--w"].map(|name| element.length(name));
    Some([x?, y?, width?, height?])
}

fn are_apart(one: &[f64; 4], other: &[f64; 4]) -> bool {
    let beside =
        |at: usize| one[at] + one[at + 2] <= other[at] || other[at] + other[at + 2] <= one[at];
    beside(0) || beside(1)
}

fn after<'a>(text: &'a str, end: &str) -> Result<&'a str, String> {
    let found = text
        .split_once(end)
        .ok_or_else(|| format!("there is no `{end}`"))?;
    Ok(found.1)
}

/// A start tag from behind its `<`: the element, whether it ends itself, and what follows.
fn tag(text: &str) -> Result<(Element, bool, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return Err(format!("a text holds `<`: {}", excerpt(text)));
    }
    let mut element = Element {
        name: name.to_owned(),
        attributes: Vec::new(),
        parent: None,
    };
    loop {
        rest = rest.trim_start();
        if let Some(more) = rest.strip_prefix("/>") {
            return Ok((element, true, more));
        }
        if let Some(more) = rest.strip_prefix('>') {
            return Ok((element, false, more));
        }
        let end = rest
            .find(|c: char| "=> ".contains(c))
            .ok_or("a tag does not end")?;
        let (attribute, more) = rest.split_at(end);
        if attribute.is_empty() || attribute.contains(['"', '<', '/']) {
            return Err(format!("a tag holds `{attribute}`: {}", excerpt(text)));
        }
        let (value, more) = match more.strip_prefix("=\"") {
            Some(quoted) => quoted.split_once('"').ok_or("an attribute does not end")?,
            None => ("", more),
        };
        if value.contains('<') {
            return Err(format!("an attribute holds `<`: {}", excerpt(value)));
        }
        if element.attribute(attribute).is_some() {
            return Err(format!("`{attribute}` stands twice: {}", excerpt(text)));
        }
        element
            .attributes
            .push((attribute.to_owned(), value.to_owned()));
        rest = more;
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}
