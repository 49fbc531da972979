//! The files behind `GET /docs`: those of the viewer, and the style of the guides.

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const SCRIPT: &str = "text/javascript; charset=utf-8";
pub(crate) const MARKDOWN: &str = "text/markdown; charset=utf-8";
pub(crate) const STYLE: &str = "text/css; charset=utf-8";

pub(crate) const PAGE: &str = include_str!("viewer/index.html");

/// A file of the page, which may be gzipped.
#[derive(Clone, Copy)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) media_type: &'static str,
    pub(crate) content: &'static [u8],
}

impl File {
    pub(crate) fn is_gzipped(&self) -> bool {
        self.content.starts_with(&[0x1f, 0x8b]) // the magic number of RFC 1952
    }
}

pub(crate) const FILES: [File; 4] = [
    File { name: "swagger-ui.css", media_type: STYLE, content: include_bytes!("viewer/swagger-ui.css.gz") },
    File {
        name: "swagger-ui-bundle.js",
        media_type: SCRIPT,
        content: include_bytes!("viewer/swagger-ui-bundle.js.gz"),
    },
    File { name: "start.js", media_type: SCRIPT, content: include_bytes!("viewer/start.js") },
    File { name: "guides.css", media_type: STYLE, content: include_bytes!("viewer/guides.css") },
];
