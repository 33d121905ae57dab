//! A GET or a POST to our own instances: enough HTTP/1.1 for readiness and status, no dependency.

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
    /// Decoded body.
    pub body: Vec<u8>,
}

/// Fetches `url` (`http://host[:port]/path`) within `deadline`.
///
/// # Errors
/// What went wrong, as one clause.
pub async fn get(url: &str, deadline: Duration) -> Result<Answer, String> {
    let sent = exchange(url, "GET", "");
    tokio::time::timeout(deadline, sent)
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
    let rest = format!(
        "Content-Type: application/json\r\nIdempotency-Key: {op}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let sent = exchange(url, "POST", &rest);
    tokio::time::timeout(deadline, sent)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} ms", deadline.as_millis())))
}

/// `rest_of_request`: more header lines, the empty line and the body; nothing for none of them.
async fn exchange(url: &str, method: &str, rest_of_request: &str) -> Result<Answer, String> {
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
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n{}",
        if rest_of_request.is_empty() {
            "\r\n"
        } else {
            rest_of_request
        }
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    stream
        .take(MAX_ANSWER)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| e.to_string())?;
    parse(&bytes).ok_or_else(|| "the answer is not HTTP".to_owned())
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    let chunked = head.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some(Answer { status, body })
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
        let chunked = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().body, b"abcd");
        for broken in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
        ] {
            assert!(parse(broken.as_bytes()).is_none(), "{broken:?}");
        }
    }
}
