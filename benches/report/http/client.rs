//! A client that keeps its connection: as little work as possible, because it shares the machine with what it measures.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer that is larger is not one of ours.
const MAX_BODY: usize = 4 << 20;

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
    /// `Set-Cookie` of the last answer, without attributes.
    pub cookie: Option<String>,
}

impl Client {
    /// Connects to 127.0.0.1.
    pub async fn connect(port: u16) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream: BufReader::new(stream),
            line: String::new(),
            body: Vec::new(),
            cookie: None,
        })
    }

    /// Sends a whole request and reads the whole answer: status and body.
    pub async fn ask(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        self.stream.get_mut().write_all(request).await?;
        self.next_line().await?;
        let status: u16 = self
            .line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("no status line")?;
        let (mut length, mut chunked) = (0, false);
        loop {
            self.next_line().await?;
            let Some((name, value)) = self.line.split_once(':') else {
                break;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().context("content-length")?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("set-cookie") {
                self.cookie = value.split(';').next().map(str::to_owned);
            }
        }
        self.body.clear();
        match chunked {
            false => self.read(length).await?,
            true => loop {
                self.next_line().await?;
                let size = usize::from_str_radix(self.line.trim(), 16).context("size of a chunk")?;
                self.read(size).await?;
                self.next_line().await?;
                if size == 0 {
                    break;
                }
            },
        }
        Ok((status, &self.body))
    }

    async fn next_line(&mut self) -> Result<()> {
        self.line.clear();
        if self.stream.read_line(&mut self.line).await? == 0 {
            bail!("the connection was closed");
        }
        self.line.truncate(self.line.trim_end().len());
        Ok(())
    }

    async fn read(&mut self, length: usize) -> Result<()> {
        let before = self.body.len();
        if length > MAX_BODY - before {
            bail!("an answer of more than {MAX_BODY} bytes");
        }
        self.body.resize(before + length, 0);
        self.stream.read_exact(&mut self.body[before..]).await?;
        Ok(())
    }
}

/// A request without a body.
pub fn get(path: &str, cookie: Option<&str>) -> Vec<u8> {
    let cookie = cookie.map_or_else(String::new, |cookie| format!("Cookie: {cookie}\r\n"));
    format!("GET {path} HTTP/1.1\r\nHost: kambana\r\n{cookie}\r\n").into_bytes()
}

/// A request with a body.
pub fn post(path: &str, kind: &str, body: &str, cookie: Option<&str>) -> Vec<u8> {
    let cookie = cookie.map_or_else(String::new, |cookie| format!("Cookie: {cookie}\r\n"));
    format!(
        "POST {path} HTTP/1.1\r\nHost: kambana\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{cookie}\r\n{body}",
        body.len()
    )
    .into_bytes()
}
