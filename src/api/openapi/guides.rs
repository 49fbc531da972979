//! The documentation as pages behind `GET /docs/{file}`: the Markdown of the repository, which is
//! embedded in the program, as HTML. Out of scope: how they are sent.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

/// A page of the documentation.
#[derive(Debug)]
pub(crate) struct Guide {
    /// The last part of its address.
    pub(crate) name: &'static str,
    /// Its file in the repository.
    path: &'static str,
    /// The Markdown.
    pub(crate) source: &'static str,
}

/// The guide of a Markdown file in the repository.
macro_rules! guide {
    ($name:literal, $path:literal) => {
        Guide { name: $name, path: $path, source: include_str!(concat!("../../../", $path)) }
    };
}

/// All guides, in the order in which they are listed.
pub(crate) static GUIDES: [Guide; 14] = [
    guide!("playground", "docs/playground.md"),
    guide!("cli", "docs/cli.md"),
    guide!("api", "docs/api.md"),
    guide!("policies", "docs/policies.md"),
    guide!("models", "docs/models.md"),
    guide!("sudoku", "models/sudoku/README.md"),
    guide!("training", "docs/training.md"),
    guide!("operating", "docs/operating.md"),
    guide!("deployment", "deploy/README.md"),
    guide!("runbook", "deploy/RUNBOOK.md"),
    guide!("gpu", "docs/gpu.md"),
    guide!("quality", "benches/QUALITY.md"),
    guide!("speed", "benches/RESULTS.md"),
    guide!("internals", "docs/internals.md"),
];

static PAGES: LazyLock<Vec<String>> = LazyLock::new(|| GUIDES.iter().map(Guide::rendered).collect());

impl Guide {
    /// The page. Its addresses are relative to `/docs/`.
    pub(crate) fn page(&self) -> &'static str {
        let index = GUIDES.iter().position(|guide| guide.name == self.name);
        index.map_or("", |index| PAGES[index].as_str())
    }

    fn rendered(&self) -> String {
        let events = self.events();
        let headings = headings(&events);
        let title = escaped(headings.first().map_or(self.name, |heading| heading.text.as_str()));
        let guides = GUIDES.iter().map(|guide| {
            let current = if guide.name == self.name { " aria-current=\"page\"" } else { "" };
            format!("<a href=\"{0}\"{current}>{0}</a>", guide.name)
        });
        let sections = headings.iter().filter(|heading| heading.level == 2).map(|heading| {
            let Heading { slug, text, .. } = heading;
            format!("<li><a href=\"#{slug}\">{}</a></li>", escaped(text))
        });
        let (guides, sections) = (guides.collect::<Vec<_>>().join("\n"), sections.collect::<String>());
        let mut body = String::new();
        html::push_html(&mut body, events.into_iter());
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title} - Remask</title>\n\
             <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"guides.css\">\n</head>\n<body>\n\
             <nav aria-label=\"Documentation\">\n<a href=\"../\">Remask</a>\n<a href=\"../docs\">API reference</a>\n{guides}\n\
             </nav>\n<main>\n<details>\n<summary>On this page</summary>\n<ul>{sections}</ul>\n</details>\n{body}</main>\n\
             </body>\n</html>\n"
        )
    }

    /// The Markdown, with ids of headings, addresses of this server, and tables that scroll.
    fn events(&self) -> Vec<Event<'static>> {
        let mut events: Vec<_> = Parser::new_ext(self.source, Options::ENABLE_TABLES).collect();
        for Heading { at, slug, .. } in headings(&events) {
            if let Event::Start(Tag::Heading { id, .. }) = &mut events[at.start] {
                *id = Some(slug.into());
            }
        }
        let mut shown = Vec::new();
        for event in events {
            match event {
                // comments: what checks of the documentation read
                Event::Html(_) | Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => {}
                Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                    let dest_url = self.address(&dest_url).into();
                    shown.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
                }
                table @ Event::Start(Tag::Table(_)) => {
                    shown.push(Event::Html(
                        "<div class=\"table\" tabindex=\"0\" role=\"region\" aria-label=\"Table\">".into(),
                    ));
                    shown.push(table);
                }
                end @ Event::End(TagEnd::Table) => shown.extend([end, Event::Html("</div>\n".into())]),
                Event::Start(Tag::CodeBlock(_)) => shown.push(Event::Html("<pre tabindex=\"0\"><code>".into())),
                Event::End(TagEnd::CodeBlock) => shown.push(Event::Html("</code></pre>\n".into())),
                event => shown.push(event),
            }
        }
        shown.into_iter().map(Event::into_static).collect()
    }

    /// Where a link leads on this server: to the top of the page if only the repository has it.
    fn address(&self, link: &str) -> String {
        if link.contains("://") || link.starts_with('#') {
            return link.to_owned();
        }
        let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
        let mut path: Vec<&str> = self.path.split('/').collect();
        path.pop();
        for part in file.split('/') {
            match part {
                ".." => drop(path.pop()),
                part => path.push(part),
            }
        }
        let path = path.join("/");
        match GUIDES.iter().find(|guide| guide.path == path) {
            Some(guide) if fragment.is_empty() => guide.name.to_owned(),
            Some(guide) => format!("{}#{fragment}", guide.name),
            None => "#".to_owned(),
        }
    }
}

/// A heading of a page.
#[derive(Debug)]
struct Heading {
    /// Its events.
    at: Range<usize>,
    level: usize,
    text: String,
    /// Its id, as GitHub makes it.
    slug: String,
}

fn headings(events: &[Event<'_>]) -> Vec<Heading> {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    let mut headings = Vec::new();
    for (start, event) in events.iter().enumerate() {
        let Event::Start(Tag::Heading { level, .. }) = event else { continue };
        let is_end = |event: &Event<'_>| matches!(event, Event::End(TagEnd::Heading(_)));
        let length = events[start..].iter().position(is_end).unwrap_or(0);
        let at = start..start + length;
        let text = events[at.clone()].iter().filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
            _ => None,
        });
        let text: String = text.collect();
        let slug = slug(&text);
        let used = uses.entry(slug.clone()).or_default();
        let slug = if *used == 0 { slug } else { format!("{slug}-{used}") };
        *used += 1;
        headings.push(Heading { at, level: *level as usize, text, slug });
    }
    headings
}

/// A heading as GitHub makes an id of it.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    html::push_html(&mut escaped, [Event::Text(CowStr::from(text))].into_iter());
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The values of an attribute in a page.
    fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
        let before = format!(" {attribute}=\"");
        page.split(&before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn every_page_of_the_folder_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let pages: BTreeSet<String> =
            files.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
        let known = GUIDES.iter().map(|guide| guide.path.to_owned()).filter(|path| path.starts_with("docs/"));
        assert_eq!(known.collect::<BTreeSet<_>>(), pages);
    }

    #[test]
    fn links_lead_to_pages_and_headings_that_are_there() {
        let mut followed = 0;
        for guide in &GUIDES {
            let page = guide.page();
            assert!(page.contains("<h1 id=") && !page.contains("<!-- "), "{}", guide.name);
            for link in
                values(page, "href").into_iter().filter(|link| !link.contains("://") && !link.contains(['/', ':']))
            {
                let (name, fragment) = link.split_once('#').unwrap_or((link, ""));
                let name = if name.is_empty() { guide.name } else { name };
                if name == "guides.css" {
                    continue;
                }
                let other = GUIDES.iter().find(|guide| guide.name == name);
                let other = other.unwrap_or_else(|| panic!("{}: {link}", guide.name)).page();
                assert!(fragment.is_empty() || values(other, "id").contains(&fragment), "{}: {link}", guide.name);
                followed += usize::from(!fragment.is_empty());
            }
        }
        assert!(followed > 50, "{followed}");
    }

    #[test]
    fn headings_have_the_ids_of_github() {
        assert_eq!(
            slug("What `a` quality head wins, and what a *perfect* one could"),
            "what-a-quality-head-wins-and-what-a-perfect-one-could"
        );
        let events: Vec<_> = Parser::new("# A `b`\n\n## Same\n\n## Same\n").collect();
        let slugs: Vec<String> = headings(&events).into_iter().map(|heading| heading.slug).collect();
        assert_eq!(slugs, ["a-b", "same", "same-1"]);
    }
}
