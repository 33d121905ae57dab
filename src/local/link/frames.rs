//! Cutting a byte stream into PostgreSQL's messages without keeping large ones.
//!
//! Only the beginning of a message that somebody looks at is gathered; everything else passes through as it comes.

/// How much of a message is looked at: a longer statement is judged by its beginning.
const LOOK: usize = 64 * 1024;

/// Codes of the messages without a type byte (protocol version 3: the upper half is 3).
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// A part of the stream, in order; together they are the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A message begins: its type (0 for one without), its bytes from the first on, and where its body starts.
    Message { kind: u8, bytes: Vec<u8>, body: usize },
    /// More of the message before.
    More(Vec<u8>),
}

impl Piece {
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Piece::Message { bytes, .. } | Piece::More(bytes) => bytes,
        }
    }
}

/// One direction of one connection.
pub(super) struct Frames {
    /// Messages that somebody looks at.
    looked_at: &'static [u8],
    /// The next message has no type byte: the connection is being opened.
    untyped: bool,
    /// So many answers of one byte come next.
    lone: u32,
    /// Not PostgreSQL's messages, or encrypted: passes as it is.
    opaque: bool,
    buffer: Vec<u8>,
    /// Bytes of the present message that are still to come.
    rest: usize,
}

impl Frames {
    /// What a client sends.
    pub fn of_client() -> Frames {
        Frames {
            looked_at: b"QPBEC",
            untyped: true,
            lone: 0,
            opaque: false,
            buffer: Vec::new(),
            rest: 0,
        }
    }

    /// What a server sends.
    pub fn of_server() -> Frames {
        Frames {
            looked_at: b"C",
            untyped: false,
            ..Frames::of_client()
        }
    }

    /// The server will answer a request for encryption with one byte.
    pub fn expect_lone(&mut self, answers: u32) {
        self.lone += answers;
    }

    /// From here on nothing can be understood.
    pub fn set_opaque(&mut self) {
        self.opaque = true;
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, if enough has come.
    pub fn next(&mut self) -> Option<Piece> {
        if self.buffer.is_empty() {
            return None;
        }
        if self.opaque {
            return Some(Piece::More(std::mem::take(&mut self.buffer)));
        }
        if self.rest > 0 {
            let now = self.rest.min(self.buffer.len());
            self.rest -= now;
            return Some(Piece::More(self.take(now)));
        }
        if self.lone > 0 {
            self.lone -= 1;
            return Some(Piece::Message {
                kind: self.buffer[0],
                bytes: self.take(1),
                body: 1,
            });
        }
        let body = if self.untyped { 4 } else { 5 };
        let length = u32_at(&self.buffer, body - 4)? as usize;
        if length < 4 {
            self.opaque = true;
            return self.next();
        }
        let kind = if self.untyped { 0 } else { self.buffer[0] };
        let whole = body - 4 + length;
        let head = match self.untyped || self.looked_at.contains(&kind) {
            true => whole.min(LOOK),
            false => body,
        };
        if self.buffer.len() < head {
            return None;
        }
        if self.untyped && u32_at(&self.buffer, 4).is_some_and(|code| code >> 16 == 3) {
            self.untyped = false;
        }
        self.rest = whole - head;
        Some(Piece::Message {
            kind,
            bytes: self.take(head),
            body,
        })
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }
}

/// Whether a message without a type byte asks for encryption, which is answered with one byte.
pub(super) fn asks_for_encryption(bytes: &[u8]) -> bool {
    u32_at(bytes, 4).is_some_and(|code| code == SSL_REQUEST || code == GSS_REQUEST)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message with a type byte.
    pub(in crate::local::link) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn untyped(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// The kinds of the messages, and that the pieces together are the stream.
    fn kinds(mut frames: Frames, stream: &[u8], packet: usize) -> Vec<u8> {
        let (mut kinds, mut out) = (Vec::new(), Vec::new());
        for packet in stream.chunks(packet) {
            frames.push(packet);
            while let Some(piece) = frames.next() {
                if let Piece::Message { kind, .. } = &piece {
                    kinds.push(*kind);
                }
                out.extend(piece.into_bytes());
            }
        }
        assert!(out == stream, "the stream is unchanged");
        kinds
    }

    #[test]
    fn split_and_merged_packets_are_the_same_messages() {
        let large = vec![b'x'; 3 * LOOK];
        let stream = [
            untyped(SSL_REQUEST, b""),
            untyped(196_608, b"user\0me\0\0"),
            message(b'p', b"secret\0"),
            message(b'Q', b"COMMIT\0"),
            message(b'Q', &large),
            message(b'd', &large),
            message(b'S', b""),
            message(b'X', b""),
        ]
        .concat();
        for packet in [1, 2, 3, 5, 7, 4096, LOOK, stream.len()] {
            assert_eq!(
                kinds(Frames::of_client(), &stream, packet),
                b"\0\0pQQdSX",
                "{packet}"
            );
        }
        let mut frames = Frames::of_server();
        frames.expect_lone(1);
        let stream = [b"N".to_vec(), message(b'R', &[0; 4]), message(b'C', b"COMMIT\0")].concat();
        assert_eq!(kinds(frames, &stream, 1), b"NRC");
    }

    #[test]
    fn a_large_message_is_not_kept() {
        let mut frames = Frames::of_server();
        frames.push(&message(b'D', &vec![0; 10 * LOOK])[..100]);
        assert!(matches!(frames.next(), Some(Piece::Message { kind: b'D', bytes, .. }) if bytes.len() == 5));
        assert_eq!(
            frames.next(),
            Some(Piece::More(vec![0; 95])),
            "passed on as it comes"
        );
        assert_eq!(frames.next(), None);
    }

    #[test]
    fn what_is_no_message_passes() {
        let mut frames = Frames::of_client();
        frames.push(&[0, 0, 0, 0, 9, 9]);
        assert_eq!(frames.next(), Some(Piece::More(vec![0, 0, 0, 0, 9, 9])));
        assert!(
            asks_for_encryption(&untyped(GSS_REQUEST, b"")) && !asks_for_encryption(&untyped(196_608, b""))
        );
        // A request to cancel has a code of its own and is followed by nothing.
        assert_eq!(
            kinds(Frames::of_client(), &untyped(80_877_102, &[1; 8]), 3),
            b"\0"
        );
    }
}
