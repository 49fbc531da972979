//! Connections of real sockets, with a clock that runs ahead when nothing happens.

use super::activity::{IDLE_MAX, UNREAD_MAX};
use super::*;
use axum::body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The address of a server of `app` with `places`.
async fn served(app: Router, places: usize) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app, Places::new(places), std::future::pending()));
    address
}

/// What is received until the connection is closed, which it has to be `within` this time.
async fn received(address: std::net::SocketAddr, sent: &str, within: Duration) -> String {
    let mut near = TcpStream::connect(address).await.unwrap();
    near.write_all(sent.as_bytes()).await.unwrap();
    let mut all = String::new();
    let closed = timeout(within, near.read_to_string(&mut all)).await;
    assert!(closed.is_ok(), "after {sent:.50?} the connection stays open");
    all
}

#[tokio::test(start_paused = true)]
async fn silence_an_unfinished_head_and_an_idle_connection_are_closed() {
    let address = served(Router::new().fallback(async || ()), 1).await; // the one place is handed on
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for sent in ["", "PRI * HT", preface, "POST", "GET / HTTP/1.1\r\nHost: here\r\n"] {
        let answer = received(address, sent, 2 * IDLE_MAX).await;
        assert!(!answer.starts_with("HTTP"), "{sent:?} is answered {answer:?}");
    }
    let answer = received(address, "GET / HTTP/1.1\r\nHost: here\r\n\r\n", 2 * IDLE_MAX).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_let_go() {
    let endless = || async {
        let zeros = futures_util::stream::repeat(axum::body::Bytes::from(vec![0; 1 << 16]));
        Body::from_stream(futures_util::StreamExt::map(zeros, Ok::<_, std::convert::Infallible>))
    };
    let address = served(Router::new().fallback(endless), 1).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    tokio::time::sleep(2 * UNREAD_MAX).await;
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(60), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it is still served");
}

#[tokio::test]
async fn requests_that_cannot_be_read_have_an_error_object() {
    let address = served(Router::new().fallback(async || ()), 9).await;
    let long = "x".repeat(70_000);
    let many = "X: y\r\n".repeat(200);
    for (sent, status, words) in [
        ("GET\r\n\r\n".to_owned(), "400 Bad Request", "is not valid HTTP/1.1"),
        ("GET / HTTP/1.1\r\nBad Name: x\r\n\r\n".to_owned(), "400 Bad Request", "is not valid HTTP/1.1"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "414 URI Too Long", "the path is too long"),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431 Request Header Fields Too Large", "too long or too many"),
    ] {
        let answer = received(address, &sent, Duration::from_secs(60)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length, body.len().to_string(), "{answer}");
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn sockets_have_keep_alive_and_a_limit_on_unread_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    set_options(&stream).unwrap();
    assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), PROBE_IDLE);
    assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), PROBE_INTERVAL);
    assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
    #[cfg(target_os = "linux")]
    assert_eq!(u128::from(sockopt::tcp_user_timeout(&stream).unwrap()), UNREAD_MAX.as_millis());
}
