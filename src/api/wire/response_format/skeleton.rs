//! A skeleton as a shape of answers: JSON in which `"<string>"`, `"<string:12>"`, `"<number>"`,
//! `"<integer:3>"`, `"<boolean>"` and `"<a|b|c>"` stand for values.

use super::budget::{Budget, VALUES_MAX};
use super::path::Path;
use crate::api::error::ApiResult;
use crate::engine::Shape;
use crate::text::{quoted, shown};
use serde_json::Value;

/// The shape of the answers that fill in `skeleton`.
pub(super) fn shape(skeleton: &Value, path: &Path<'_>, budget: &mut Budget) -> ApiResult<Shape> {
    shape_at(skeleton, path, 0, budget)
}

fn shape_at(skeleton: &Value, path: &Path<'_>, depth: usize, budget: &mut Budget) -> ApiResult<Shape> {
    budget.value(path, depth)?;
    match skeleton {
        Value::Object(members) => {
            let mut shapes = Vec::with_capacity(members.len());
            for (name, value) in members {
                budget.name(path, name)?;
                shapes.push((name.clone(), shape_at(value, &path.at(name), depth + 1, budget)?));
            }
            Ok(Shape::Object(shapes))
        }
        Value::Array(values) => {
            let mut items = Vec::with_capacity(values.len());
            for (index, value) in values.iter().enumerate() {
                items.push(shape_at(value, &path.at(&format!("[{index}]")), depth + 1, budget)?);
            }
            Ok(Shape::List { least: items.len(), items, is_distinct: false })
        }
        Value::String(text) => match text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
            Some(blank) => typed_blank(blank, path, budget),
            None => constant(skeleton, path, budget),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => constant(skeleton, path, budget),
    }
}

fn constant(value: &Value, path: &Path<'_>, budget: &mut Budget) -> ApiResult<Shape> {
    let json = value.to_string();
    budget.text(path, &json)?;
    Ok(Shape::Constant(json))
}

fn typed_blank(blank: &str, path: &Path<'_>, budget: &mut Budget) -> ApiResult<Shape> {
    let (word, cells) = match blank.split_once(':') {
        Some((word, cells)) if !blank.contains('|') => {
            let size = cells.parse().ok().filter(|cells| (1..=VALUES_MAX).contains(cells));
            let wrong = || path.invalid(&format!("{} is no number of tokens from 1 to {VALUES_MAX}", quoted(cells)));
            (word, Some(size.ok_or_else(wrong)?))
        }
        Some(_) | None => (blank, None),
    };
    match word {
        "string" => Ok(Shape::Text { cells, least: 0, characters: None }),
        "number" | "integer" => Ok(Shape::Number { cells, is_whole: word == "integer", is_signed: true, digits: None }),
        "boolean" => Ok(Shape::OneOf(vec!["true".to_owned(), "false".to_owned()])),
        _ if blank.contains('|') => {
            let options: Vec<String> = blank.split('|').map(|option| Value::from(option).to_string()).collect();
            budget.options(path, &options)?;
            Ok(Shape::OneOf(options))
        }
        _ => {
            let known = "<string>, <string:12>, <number>, <integer>, <boolean> and <one|two|three>";
            Err(path.invalid(&format!("<{}> is none of {known}", shown(blank))))
        }
    }
}
