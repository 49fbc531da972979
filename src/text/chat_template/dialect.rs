//! Rewrites a template of transformers into minijinja's dialect: `{% generation %}` marks become
//! scopes, and `%` becomes a call, because minijinja formats texts only with a filter. Everything
//! else is kept to the letter, except that every line ends in `\n`, as Jinja reads it.

/// The function that `%` becomes a call of.
pub(super) const MODULO: &str = "__modulo";

/// The template in minijinja's dialect.
pub(super) fn translated(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            "{%" if word(rest) == "raw" => end_of_raw(rest),
            _ => {
                let tag = &rest[..tag_end(rest)];
                out.push_str(&translated_tag(tag));
                rest = &rest[tag.len()..];
                continue;
            }
        };
        out.push_str(&rest[..end]);
        rest = &rest[end..];
    }
    out + rest
}

/// The first word in a tag.
fn word(tag: &str) -> &str {
    let inside = tag.get(2..).unwrap_or_default().trim_start_matches(['-', '+']).trim_start();
    &inside[..inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len())]
}

/// The length of a raw block, its tags included.
fn end_of_raw(block: &str) -> usize {
    let ends = block.match_indices("{%").map(|(at, _)| at).find(|at| word(&block[*at..]) == "endraw");
    ends.and_then(|at| Some(at + block[at..].find("%}")? + 2)).unwrap_or(block.len())
}

/// The length of the tag at the start of `rest`, its brackets included.
fn tag_end(rest: &str) -> usize {
    let close = if rest.starts_with("{{") { "}}" } else { "%}" };
    let mut at = 2;
    let mut depth = 0_usize;
    while let Some(token) = Token::at(&rest[at..]) {
        if depth == 0 && rest[at..].starts_with(close) {
            return at + 2;
        }
        depth = match token {
            Token::Open(_) => depth + 1,
            Token::Close(_) => depth.saturating_sub(1),
            Token::Other(_) => depth,
        };
        at += token.text().len();
    }
    rest.len()
}

fn translated_tag(tag: &str) -> String {
    match word(tag) {
        "generation" if tag.starts_with("{%") => return tag.replacen("generation", "with", 1),
        "endgeneration" if tag.starts_with("{%") => return tag.replacen("endgeneration", "endwith", 1),
        _ => {}
    }
    let is_foreign = |inside: &&str| ["%", "\\U", "\\\n"].iter().any(|mark| inside.contains(mark));
    let Some(inside) = tag.get(2..tag.len().saturating_sub(2)).filter(is_foreign) else {
        return tag.to_owned();
    };
    // marks of white space control are no signs
    let after = inside.len() - inside.trim_start_matches(['-', '+']).len();
    let before = inside.trim_end_matches(['-', '+']).len().max(after);
    let expression = Rewriter { rest: &inside[after..before] }.level();
    format!("{}{}{expression}{}{}", &tag[..2], &inside[..after], &inside[before..], &tag[tag.len() - 2..])
}

/// A piece of an expression.
#[derive(Clone, Copy)]
enum Token<'a> {
    Open(&'a str),
    Close(&'a str),
    /// A word, a literal, white space, or an operator.
    Other(&'a str),
}

impl<'a> Token<'a> {
    /// The token at the start of `rest`; `None` at its end.
    fn at(rest: &'a str) -> Option<Self> {
        let first = rest.chars().next()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let run = |is_in: &dyn Fn(char) -> bool| rest.find(|c| !is_in(c)).unwrap_or(rest.len());
        Some(match first {
            '(' | '[' | '{' => Self::Open(&rest[..1]),
            ')' | ']' | '}' => Self::Close(&rest[..1]),
            '\'' | '"' => Self::Other(&rest[..literal_end(rest, first)]),
            c if is_word(c) => Self::Other(&rest[..run(&is_word)]),
            c if c.is_whitespace() => Self::Other(&rest[..run(&char::is_whitespace)]),
            _ => {
                let two = ["**", "//", "==", "!=", "<=", ">="].into_iter().find(|operator| rest.starts_with(operator));
                Self::Other(&rest[..two.map_or(first.len_utf8(), str::len)])
            }
        })
    }

    const fn text(self) -> &'a str {
        match self {
            Self::Open(text) | Self::Close(text) | Self::Other(text) => text,
        }
    }
}

/// The length of the string literal at the start of `rest`.
fn literal_end(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    rest.len()
}

/// A token without the two escapes of literals that minijinja leaves as they are: `\U` with eight
/// digits, and the end of a line.
fn unescaped(token: &str) -> String {
    if !token.starts_with(['\'', '"']) {
        return token.to_owned();
    }
    let mut out = String::new();
    let mut rest = token;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let code = escape.strip_prefix("\\U").and_then(|digits| u32::from_str_radix(digits.get(..8)?, 16).ok());
        let (written, length) = match (code.and_then(char::from_u32), escape.chars().nth(1)) {
            (Some(c), _) => (c.to_string(), 10),
            (None, Some('\n')) => (String::new(), 2),
            (None, other) => {
                let length = 1 + other.map_or(0, char::len_utf8);
                (escape[..length].to_owned(), length)
            }
        };
        out.push_str(&written);
        rest = &escape[length..];
    }
    out + rest
}

/// Operators and words that bind less than `%`, between which its operands lie.
const LOOSER: [&str; 24] = [
    "+",
    "-",
    "~",
    ",",
    ":",
    "=",
    "==",
    "!=",
    "<",
    ">",
    "<=",
    ">=",
    "and",
    "or",
    "not",
    "if",
    "else",
    "elif",
    "in",
    "for",
    "set",
    "recursive",
    "with",
    "do",
];
/// Operators that bind as much as `%`, from the left.
const EQUAL: [&str; 4] = ["%", "*", "/", "//"];

struct Rewriter<'a> {
    rest: &'a str,
}

impl<'a> Rewriter<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let token = Token::at(self.rest)?;
        self.rest = &self.rest[token.text().len()..];
        Some(token)
    }

    /// Rewrites up to a closing bracket or the end.
    fn level(&mut self) -> String {
        let (mut out, mut operand) = (String::new(), String::new());
        loop {
            match Token::at(self.rest) {
                None | Some(Token::Close(_)) => return out + &operand,
                Some(Token::Other("%")) => {
                    self.next();
                    let right = self.right();
                    let space = operand.len() - operand.trim_start().len();
                    operand = format!(
                        "{}{MODULO}({}, {}){}",
                        &operand[..space],
                        operand.trim(),
                        right.trim(),
                        &right[right.trim_end().len()..]
                    );
                }
                Some(Token::Other(text)) if binds_less(text, &operand) => {
                    self.next();
                    out = out + &operand + text;
                    operand.clear();
                }
                Some(_) => self.copy(&mut operand),
            }
        }
    }

    /// The right operand of a `%`.
    fn right(&mut self) -> String {
        let mut operand = String::new();
        loop {
            match Token::at(self.rest) {
                None | Some(Token::Close(_)) => return operand,
                Some(Token::Other(text)) if EQUAL.contains(&text) || binds_less(text, &operand) => return operand,
                Some(_) => self.copy(&mut operand),
            }
        }
    }

    /// Copies a token, or what is in brackets rewritten.
    fn copy(&mut self, operand: &mut String) {
        let Some(token) = self.next() else { return };
        operand.push_str(&unescaped(token.text()));
        if let Token::Open(_) = token {
            operand.push_str(&self.level());
            operand.push_str(self.next().map_or("", Token::text));
        }
    }
}

/// Whether an operator after `operand` ends it. A sign does not, nor does the `not` of `is not`.
fn binds_less(operator: &str, operand: &str) -> bool {
    let before = operand.trim_end();
    let is_sign = ["+", "-"].contains(&operator) && (before.is_empty() || before.ends_with("**"));
    let is_test = operator == "not" && before.split_whitespace().next_back() == Some("is");
    let is_attribute = before.ends_with('.');
    LOOSER.contains(&operator) && !is_sign && !is_test && !is_attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_minijinja_lacks_is_rewritten() {
        for (source, expected) in [
            ("{{ a % b }}", "{{ __modulo(a, b) }}"),
            ("{{- 'x%s' % (a, b) -}}", "{{- __modulo('x%s', (a, b)) -}}"),
            ("{{ a + b * c % d % e - f }}", "{{ a + __modulo(__modulo(b * c, d), e) - f }}"),
            ("{% if loop.index0 % 2 == 0 and not x %}", "{% if __modulo(loop.index0, 2) == 0 and not x %}"),
            ("{{ [-x % 3, 2 ** -1 % y] }}", "{{ [__modulo(-x, 3), __modulo(2 ** -1, y)] }}"),
            (
                "{{ m.set % a | length ~ (b % c.not[1 % 2]) }}",
                "{{ __modulo(m.set, a | length) ~ (__modulo(b, c.not[__modulo(1, 2)])) }}",
            ),
            ("{{ '%}' }}{{ {'a': {'b': 1}} }}50% {# % #}", "{{ '%}' }}{{ {'a': {'b': 1}} }}50% {# % #}"),
            ("{%- generation +%}x{% endgeneration -%}", "{%- with +%}x{% endwith -%}"),
            ("{% raw %}{{ a % b }}{% generation %}{%- endraw %}", "{% raw %}{{ a % b }}{% generation %}{%- endraw %}"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("{{ a % ", "{{ a % "),
            ("{% ", "{% "),
            ("{%", "{%"),
            ("{{ 'é", "{{ 'é"),
        ] {
            assert_eq!(translated(source), expected, "{source}");
        }
    }
}
