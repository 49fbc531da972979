//! Bodies as real clients send them: what is answered, and which field a refusal names.

mod common;

use common::server::Server;

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_skipped() {
    let server = Server::toy().await;
    for (path, body, status) in [
        ("/v1/completions", "\u{feff}{\"prompt\": \"a\", \"max_tokens\": 2}", 200),
        ("/v1/chat/completions", "\u{feff}\r\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", 200),
        ("/v1/infill", "\u{feff}{\"template\": \"a<blank>\"}", 200),
        ("/tokenize", "\u{feff}{\"prompt\": \"a\"}", 200),
        ("/v1/completions", "\u{feff}", 400),
        ("/v1/completions", "\u{feff}[]", 400),
        ("/v1/completions", "\u{feff}\u{feff}{\"prompt\": \"a\"}", 400),
    ] {
        let response = server.client.post(server.url(path)).body(body).send().await.unwrap();
        assert_eq!(response.status(), status, "{path} {body:?}");
    }
}
