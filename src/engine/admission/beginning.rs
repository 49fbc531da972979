//! What alternative shapes begin with: the constant text before the first open value, by which a
//! reader tells them apart. Out of scope: cells and tokens.

use crate::engine::request::Shape;
use crate::text::json_string;

/// What the JSON of a shape begins with.
#[derive(Debug)]
pub(super) struct Beginning<'s> {
    pub(super) shape: &'s Shape,
    /// Without a space at its end.
    pub(super) text: String,
    /// Whether this is all of it.
    pub(super) is_whole: bool,
}

/// The beginnings of the shapes, but of those that begin alike only the first.
pub(super) fn different(shapes: &[Shape]) -> Vec<Beginning<'_>> {
    let mut all: Vec<Beginning<'_>> = Vec::new();
    for shape in shapes {
        let mut text = String::new();
        let is_whole = begin(shape, &mut text);
        text.truncate(text.trim_end().len());
        if all.iter().all(|other| other.text != text) {
            all.push(Beginning { shape, text, is_whole });
        }
    }
    all
}

/// The bytes that all beginnings share.
pub(super) fn shared_length(all: &[Beginning<'_>]) -> usize {
    let Some((first, others)) = all.split_first() else { return 0 };
    let shared = |other: &Beginning<'_>| {
        let same = first.text.chars().zip(other.text.chars()).take_while(|(one, other)| one == other);
        same.map(|(character, _)| character.len_utf8()).sum()
    };
    others.iter().map(shared).min().unwrap_or(0)
}

/// Appends the constant text before the first open value; true if there is none.
fn begin(shape: &Shape, text: &mut String) -> bool {
    match shape {
        Shape::Constant(json) => {
            text.push_str(json);
            true
        }
        Shape::Text { characters: Some(0), .. } => {
            text.push_str("\"\"");
            true
        }
        Shape::Text { .. } | Shape::Pattern { .. } => {
            text.push('"');
            false
        }
        Shape::Number { .. } | Shape::Range(_) | Shape::Either(_) => false,
        Shape::OneOf(options) => match options.first() {
            Some(first) if options.iter().all(|option| option == first) => {
                text.push_str(first);
                true
            }
            _ => {
                text.push_str(if options.iter().all(|option| option.starts_with('"')) { "\"" } else { "" });
                false
            }
        },
        Shape::List { items, least, is_distinct } => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index >= *least || *is_distinct {
                    return false;
                }
                text.push_str(if index == 0 { "" } else { ", " });
                if !begin(item, text) {
                    return false;
                }
            }
            text.push(']');
            true
        }
        Shape::Map { members, .. } => {
            text.push('{');
            if members.is_empty() {
                text.push('}');
            }
            members.is_empty()
        }
        Shape::Object(members) => {
            text.push('{');
            for (index, (name, shape)) in members.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                text.push_str(&json_string(name));
                text.push_str(": ");
                if !begin(shape, text) {
                    return false;
                }
            }
            text.push('}');
            true
        }
    }
}
