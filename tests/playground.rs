//! The playground: who gets it at `GET /`, the headers of its files, and that they are small, whole
//! and need no other server. `.ci/playground` tests the page in a browser.

mod common;

use common::server::Server;
use flate2::{Compression, write::GzEncoder};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

const HTML: &str = "text/html; charset=utf-8";
/// What browsers send when a person opens an address.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";
/// Bytes of all files together, compressed.
const SIZE_MAX: usize = 150_000;
const LINES_MAX: usize = 400;
const COLUMNS_MAX: usize = 100;

/// The files in the repository, by their names.
fn files() -> BTreeMap<String, String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/api/endpoints/playground");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()));
    files.collect()
}

async fn asked(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.client.get(server.url(path));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

#[track_caller]
fn check_headers(headers: &HeaderMap, place: &str) {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.split("; ").any(|one| one == part), "{place}: {policy} lacks {part}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{place}: {policy}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{place}");
    assert_eq!(header("cache-control"), "no-cache", "{place}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{place}");
}

#[tokio::test]
async fn browsers_get_the_page_and_all_others_json() {
    let server = Server::toy().await;
    let plain = asked(&server, "/", &[]).await;
    let json = plain.text().await.unwrap();
    let listed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(listed["name"], "remask");
    for (accept, is_page) in [
        (BROWSER, true),
        ("text/html", true),
        ("TEXT/HTML", true),
        ("text/*", true),
        ("text/html;level=1;q=0.3, application/json;q=0.2", true),
        ("text/html, application/json;q=0.9", true),
        ("*/*", false),
        ("", false),
        ("application/json", false),
        ("application/json, text/plain, */*", false),
        ("application/json, text/html", false),
        ("text/html;q=0", false),
        ("text/html;q=0, */*", false),
        ("text/html;q=many", false),
        ("application/*, text/html;q=0.9", false),
        ("nonsense", false),
    ] {
        let response = asked(&server, "/", &[("accept", accept)]).await;
        assert_eq!((response.status().as_u16(), &response.headers()["vary"]), (200, &"accept".parse().unwrap()));
        let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(media_type, if is_page { HTML } else { "application/json" }, "{accept:?}");
        let body = response.text().await.unwrap();
        assert!(if is_page { body == files()["index.html"] } else { body == json }, "{accept:?}: {body}");
    }
    let head = server.client.head(server.url("/")).header("accept", BROWSER).send().await.unwrap();
    check_headers(head.headers(), "HEAD /");
}

#[tokio::test]
async fn every_file_is_served_as_what_it_is_and_once_per_version() {
    let server = Server::toy().await;
    let mut tags = BTreeSet::new();
    for (name, content) in files() {
        let path = if name == "index.html" { "/".to_owned() } else { format!("/playground/{name}") };
        let response = asked(&server, &path, &[("accept", "text/html, */*;q=0.1")]).await;
        assert_eq!(response.status(), 200, "{path}");
        check_headers(response.headers(), &path);
        let media_type = match name.rsplit_once('.').unwrap().1 {
            "html" => HTML,
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            other => panic!("{name}: {other} files are not served"),
        };
        assert_eq!(response.headers()["content-type"], media_type, "{path}");
        let tag = response.headers()["etag"].to_str().unwrap().to_owned();
        assert!(tags.insert(tag.clone()), "{path} has the tag of another file");
        assert_eq!(response.text().await.unwrap(), content, "{path}");
        for (known, status) in
            [(tag.clone(), 304), (format!("W/{tag}"), 304), (format!("\"a\", {tag}"), 304), ("\"a\"".to_owned(), 200)]
        {
            let headers = [("accept", "text/html"), ("if-none-match", known.as_str())];
            let response = asked(&server, &path, &headers).await;
            assert_eq!(response.status(), status, "{path} {known}");
            check_headers(response.headers(), &path);
            assert_eq!(response.headers()["etag"], tag.as_str(), "{path}");
        }
    }
    let missing = asked(&server, "/playground/nothing.js", &[]).await;
    assert_eq!(missing.status(), 404);
    let error: Value = missing.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("main.js") && !message.contains("index.html"), "{message}");
}

#[test]
fn the_files_are_small_and_readable() {
    let mut packed = 0;
    for (name, content) in files() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(content.as_bytes()).unwrap();
        packed += gzip.finish().unwrap().len();
        assert!(content.lines().count() <= LINES_MAX, "{name} has more than {LINES_MAX} lines");
        let wide = content.lines().position(|line| line.chars().count() > COLUMNS_MAX);
        assert_eq!(wide.map(|line| line + 1), None, "{name} has a line of more than {COLUMNS_MAX} columns");
    }
    assert!(packed <= SIZE_MAX, "{packed} bytes");
}

#[test]
fn the_page_needs_no_other_server_and_makes_no_markup_of_texts() {
    let files = files();
    for (name, content) in &files {
        for forbidden in [
            "//cdn",
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "@import",
            "srcdoc",
            "DOMParser",
            "createContextualFragment",
        ] {
            assert!(!content.contains(forbidden), "{name} has {forbidden}");
        }
    }
    // nothing inline, which the policy forbids
    let page = &files["index.html"];
    for forbidden in [" style=", "<style", " onclick=", " onload=", "javascript:"] {
        assert!(!page.contains(forbidden), "index.html has {forbidden}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    // each module and style sheet is in use, and each that is used exists
    let used = files.values().flat_map(|content| {
        let imports = content.split("from './").skip(1).map(|rest| rest.split('\'').next().unwrap());
        let links = content.split("=\"playground/").skip(1).map(|rest| rest.split('"').next().unwrap());
        imports.chain(links).map(str::to_owned).collect::<Vec<_>>()
    });
    let used: BTreeSet<String> = used.collect();
    let served: BTreeSet<String> = files.keys().filter(|name| *name != "index.html").cloned().collect();
    assert_eq!(used, served);
}
