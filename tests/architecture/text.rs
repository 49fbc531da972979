//! What a file looks like: its length, and the width of its comments or of its prose.

const LINES_MAX: usize = 400;
/// Characters of a line of prose. Code is as wide as rustfmt makes it.
const COLUMNS_MAX: usize = 100;

/// Faults of a Rust file.
pub(crate) fn rust_faults(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let too_long =
        (lines > LINES_MAX).then(|| format!("{name}: {lines} lines, {LINES_MAX} are allowed; split it by subject"));
    let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
    too_long.into_iter().chain(wide(name, comments)).collect()
}

/// Faults of a Markdown file. Tables, code, front matter and single words may be wider, and where a
/// link leads does not count.
pub(crate) fn markdown_faults(name: &str, text: &str) -> Vec<String> {
    let mut fence = None;
    let prose = text.lines().enumerate().filter(|(number, line)| {
        let line = line.trim_start();
        let mark = ["```", "~~~", "---"].into_iter().find(|mark| line.starts_with(mark));
        match (fence, mark) {
            (None, Some("---")) if *number > 0 => {}
            (None, Some(mark)) => {
                fence = Some(mark);
                return false;
            }
            (Some(open), mark) => {
                fence = fence.filter(|_| mark != Some(open));
                return false;
            }
            (None, None) => {}
        }
        !line.starts_with('|') && line.contains(' ')
    });
    let prose: Vec<(usize, String)> = prose.map(|(number, line)| (number, without_links(line))).collect();
    wide(name, prose.iter().map(|(number, line)| (*number, line.as_str()))).collect()
}

fn wide<'a>(name: &str, lines: impl Iterator<Item = (usize, &'a str)>) -> impl Iterator<Item = String> {
    lines.filter(|(_, line)| line.chars().count() > COLUMNS_MAX).map(move |(number, line)| {
        let columns = line.chars().count();
        format!("{name}:{}: {columns} columns, {COLUMNS_MAX} are allowed", number + 1)
    })
}

/// A line without the addresses in it.
fn without_links(line: &str) -> String {
    let (mut left, mut rest) = (String::new(), line);
    let marks = ["](", "http://", "https://"];
    while let Some((at, mark)) = marks.into_iter().filter_map(|mark| Some((rest.find(mark)?, mark))).min() {
        let (before, link) = rest.split_at(at + mark.len());
        left.push_str(before);
        rest = &link[link.find([')', '>', ' ']).unwrap_or(link.len())..];
    }
    left + rest
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(rust_faults("a.rs", &"x\n".repeat(400)), [""; 0]);
    assert_eq!(rust_faults("a.rs", &"x\n".repeat(401)), ["a.rs: 401 lines, 400 are allowed; split it by subject"]);
}

#[test]
fn a_wide_comment_is_found() {
    let check = |line: &str, columns: usize| {
        let faults = rust_faults("a.rs", &format!("//! A job.\n{line}\n"));
        let expected = format!("a.rs:2: {columns} columns, 100 are allowed");
        assert_eq!(faults, if columns > 100 { vec![expected] } else { Vec::new() }, "{line}");
    };
    for mark in ["//", "///", "//!", "    //"] {
        check(&format!("{mark}{}", "x".repeat(100 - mark.len())), 100);
        check(&format!("{mark}{}", "x".repeat(101 - mark.len())), 101);
        check(&format!("{mark}{}", "ü".repeat(100 - mark.len())), 100);
    }
    check(&format!("let a = \"{}\";", "x".repeat(110)), 0);
}

#[test]
fn wide_prose_is_found() {
    let check = |text: &str, lines: &[usize]| {
        let faults = markdown_faults("a.md", &text.replace('~', &"x".repeat(90)));
        let expected: Vec<String> = lines.iter().map(|line| format!("a.md:{line}: ")).collect();
        let fits = |(fault, expected): (&String, &String)| fault.starts_with(expected.as_str());
        assert!(faults.len() == lines.len() && faults.iter().zip(&expected).all(fits), "{text:?}: {faults:?}");
    };
    check("~ 123456789\n~ 1234567890\n", &[2]);
    check("- ~\n\n  ~ 123456789\n", &[3]);
    check("| ~ | 1234567890 |\n", &[]);
    check("```sh\n~ 1234567890\n```\n~ 1234567890\n```\n~ 1234567890\n", &[4]);
    check("---\na: ~ 1234567890\n---\n~ 1234567890\n\n---\n~ 1234567890\n", &[4, 7]);
    check("a [~](https://a.b/1234567890) b\n", &[]);
    check("a [~ 1234567890](https://a.b) b\n", &[1]);
    check("a <https://~.b/1234567890> b\n[a]: https://~.b/1234567890\n", &[]);
}
