//! Requests to our own instances: enough HTTP/1.1 for readiness, status and the clients of a drill, no dependency. Every
//! request has a connection of its own.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that is larger is not one of ours.
const MAX_ANSWER: u64 = 16 << 20;

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// For example 200.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Decoded body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// For example `POST`.
    pub method: &'a str,
    /// `http://host[:port]/path`.
    pub url: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// A JSON body.
    pub body: Option<&'a str>,
}

/// Fetches `url` (`http://host[:port]/path`) within `deadline`.
///
/// # Errors
/// What went wrong, as one clause.
pub async fn get(url: &str, deadline: Duration) -> Result<Answer, String> {
    let request = Request {
        method: "GET",
        url,
        headers: &[],
        body: None,
    };
    send(&request, deadline).await
}

/// Sends `request` and waits for the whole answer within `deadline`.
///
/// # Errors
/// What went wrong, as one clause. The request may have been carried out all the same.
pub async fn send(request: &Request<'_>, deadline: Duration) -> Result<Answer, String> {
    tokio::time::timeout(deadline, exchange(request))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} ms", deadline.as_millis())))
}

/// Sends a JSON body as operation `op` within `deadline`. Without an answer it may have been carried out; repeating it with
/// the same `op` is safe.
///
/// # Errors
/// What went wrong, as one clause.
pub async fn post(
    url: &str,
    body: &serde_json::Value,
    op: &str,
    deadline: Duration,
) -> Result<Answer, String> {
    let body = body.to_string();
    let request = Request {
        method: "POST",
        url,
        headers: &[("Idempotency-Key", op)],
        body: Some(&body),
    };
    send(&request, deadline).await
}

async fn exchange(request: &Request<'_>) -> Result<Answer, String> {
    let url = request.url;
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("`{url}` is not an http:// address"))?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let address = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        _ => format!("{host}:80"),
    };
    let mut stream = TcpStream::connect(&address).await.map_err(|e| e.to_string())?;
    stream
        .write_all(written(request, host, path).as_bytes())
        .await
        .map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    stream
        .take(MAX_ANSWER)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| e.to_string())?;
    match bytes.is_empty() {
        true => Err("the connection was closed without an answer".to_owned()),
        false => parse(&bytes).ok_or_else(|| "the answer is not HTTP, or was cut off".to_owned()),
    }
}

fn written(request: &Request<'_>, host: &str, path: &str) -> String {
    let method = request.method;
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n"
    );
    for (name, value) in request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = request.body {
        let length = body.len();
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {length}\r\n"
        ));
    }
    text.push_str("\r\n");
    text.push_str(request.body.unwrap_or(""));
    text
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    let chunked =
        header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    let promised = header(head, "content-length").and_then(|length| length.parse().ok());
    if promised.is_some_and(|length: usize| length != body.len()) {
        return None;
    }
    let head = head.to_owned();
    Some(Answer { status, head, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let start = line + 2;
        body.extend_from_slice(rest.get(start..start.checked_add(size)?)?);
        rest = rest.get(start + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let plain = parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, plain.body.as_slice()), (404, b"hi".as_slice()));
        assert_eq!(plain.header("content-length"), Some("2"));
        let chunked = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().body, b"abcd");
        for broken in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
        ] {
            assert!(parse(broken.as_bytes()).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn requests() {
        let request = Request {
            method: "POST",
            url: "",
            headers: &[("Idempotency-Key", "7")],
            body: Some("{}"),
        };
        let text = written(&request, "h:1", "/x");
        assert!(text.starts_with("POST /x HTTP/1.1\r\nHost: h:1\r\n"), "{text}");
        assert!(
            text.ends_with(
                "Idempotency-Key: 7\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
            ),
            "{text}"
        );
    }
}
