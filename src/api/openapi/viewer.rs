//! The files of the viewer behind `GET /docs`.

/// The media type of the page.
pub(crate) const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The page.
pub(crate) const PAGE: &str = include_str!("viewer/index.html");

/// A file of the page.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) media_type: &'static str,
    pub(crate) content: Content,
}

#[derive(Clone, Copy)]
pub(crate) enum Content {
    Plain(&'static str),
    Gzipped(&'static [u8]),
}

pub(crate) const FILES: [File; 3] = [
    File {
        name: "swagger-ui.css",
        media_type: STYLE,
        content: Content::Gzipped(include_bytes!("viewer/swagger-ui.css.gz")),
    },
    File {
        name: "swagger-ui-bundle.js",
        media_type: SCRIPT,
        content: Content::Gzipped(include_bytes!("viewer/swagger-ui-bundle.js.gz")),
    },
    File { name: "start.js", media_type: SCRIPT, content: Content::Plain(include_str!("viewer/start.js")) },
];

/// The names and media types of the files.
pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().map(|file| (file.name, file.media_type))
}
