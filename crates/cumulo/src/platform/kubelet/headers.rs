//! SPDY's blocks of headers: names and values with their lengths, all blocks of
//! one direction compressed as one zlib stream that begins with a dictionary
//! both sides know.

use std::sync::LazyLock;

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

/// The words of SPDY/3's dictionary, each with its length before it ...
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match \
    if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url \
    public set-cookie keep-alive origin";

/// ... and what follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415\
    416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split_ascii_whitespace() {
        let word = word.replace('_', " ");
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(TAIL.as_bytes());
    dictionary
});

/// zlib's header: compression method, flags, and the dictionary's checksum.
const ZLIB_HEADER: usize = 6;
/// A block is at most this long when it is no longer compressed.
const MAX_BLOCK: usize = 64 << 10;

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// It is not compressed as SPDY says.
    #[error("the headers of a stream cannot be decompressed")]
    Compression,
    /// It is longer than any honest client's.
    #[error("the headers of a stream are longer than {MAX_BLOCK} bytes")]
    TooLong,
    /// What was compressed is not a list of names and values.
    #[error("the headers of a stream are malformed")]
    Malformed,
}

/// Reads the blocks of one direction, in their order.
pub struct HeaderReader {
    inflate: Decompress,
    began: bool,
}

impl HeaderReader {
    /// Begins a connection.
    pub fn new() -> Self {
        Self {
            inflate: Decompress::new(false),
            began: false,
        }
    }

    /// Names and values of the next block.
    ///
    /// # Errors
    /// When it cannot be read; no later block of the connection can be then.
    pub fn read(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, HeadersError> {
        if !self.began {
            // The dictionary is brought in as if it had come as a stored block
            // before, which every implementation of inflate understands.
            let mut first = Vec::new();
            put_stored(&mut first, &DICTIONARY);
            self.inflate(&first)?;
            block = block.get(ZLIB_HEADER..).ok_or(HeadersError::Compression)?;
            self.began = true;
        }
        parse(&self.inflate(block)?).ok_or(HeadersError::Malformed)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, HeadersError> {
        let mut out = Vec::with_capacity(4096);
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress_vec(input, &mut out, FlushDecompress::Sync)
                .map_err(|_| HeadersError::Compression)?;
            let read = usize::try_from(self.inflate.total_in() - read)
                .map_err(|_| HeadersError::Compression)?;
            input = &input[read.min(input.len())..];
            let advanced = read > 0 || self.inflate.total_out() > written;
            let full = out.len() == out.capacity();
            match status {
                Status::Ok | Status::BufError if full => {
                    if out.len() >= MAX_BLOCK {
                        return Err(HeadersError::TooLong);
                    }
                    out.reserve(out.len());
                }
                Status::Ok if advanced && !input.is_empty() => {}
                Status::Ok | Status::BufError if input.is_empty() => return Ok(out),
                _ => return Err(HeadersError::Compression),
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Option<Vec<(String, String)>> {
    fn number(block: &mut &[u8]) -> Option<usize> {
        let (first, rest) = block.split_first_chunk::<4>()?;
        *block = rest;
        usize::try_from(u32::from_be_bytes(*first)).ok()
    }
    fn text(block: &mut &[u8]) -> Option<String> {
        let length = number(block)?;
        let (first, rest) = block.split_at_checked(length)?;
        *block = rest;
        String::from_utf8(first.to_vec()).ok()
    }
    let count = number(&mut block)?;
    // A header takes 8 bytes at least.
    if count > block.len() / 8 {
        return None;
    }
    (0..count)
        .map(|_| Some((text(&mut block)?.to_lowercase(), text(&mut block)?)))
        .collect()
}

/// Writes the blocks of one direction. Nothing that a server answers here needs
/// headers, so they are empty, and not really compressed.
#[derive(Default)]
pub struct HeaderWriter {
    began: bool,
}

impl HeaderWriter {
    /// Writes a block without headers.
    pub fn write_none(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.began, true) {
            // zlib without a dictionary, fastest compression.
            out.put_slice(&[0x78, 0x01]);
        }
        let mut block = Vec::new();
        put_stored(&mut block, &0u32.to_be_bytes());
        // An empty block tells the reader that what came is whole (a "sync flush").
        put_stored(&mut block, &[]);
        out.put_slice(&block);
    }
}

/// A stored block of deflate (RFC 1951, section 3.2.4).
fn put_stored(out: &mut Vec<u8>, content: &[u8]) {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    out.put_u8(0);
    out.put_u16_le(length);
    out.put_u16_le(!length);
    out.put_slice(&content[..usize::from(length)]);
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The first block of a connection as zlib makes it at its highest level.
    pub const BLOCK: &[u8] =
        b"\x78\xf9\xe3\xc6\xa7\xc2\x02\x25\x3a\x48\xf9\x5b\x04\x4e\xea\x16\x06\x16\
        \x06\x40\x9a\xb3\x08\x12\x5f\x99\xa0\x74\xcc\x68\x00\x4e\x89\x25\x45\xa9\
        \x89\xb9\xd0\xc2\x86\x35\x15\x14\x15\x00\x00\x00\x00\xff\xff";
    /// The second one: mostly references to the first.
    const NEXT: &[u8] = b"\x22\x53\x33\xa8\xa4\x4a\x04\x00\x00\x00\xff\xff";

    fn pairs(found: &[(String, String)]) -> String {
        let all: Vec<String> = found.iter().map(|(k, v)| format!("{k}={v}")).collect();
        all.join(" ")
    }

    #[test]
    fn the_dictionary_is_spdys() {
        // Its length and checksum (Adler-32) as every client announces it.
        assert_eq!(DICTIONARY.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
        assert_eq!(BLOCK[2..ZLIB_HEADER], 0xe3c6_a7c2u32.to_be_bytes());
    }

    #[test]
    fn blocks_are_read_in_their_order() {
        let mut reader = HeaderReader::new();
        let first = reader.read(BLOCK).expect("the first block");
        assert_eq!(pairs(&first), "port=8080 requestid=0 streamtype=error");
        let next = reader.read(NEXT).expect("the next block");
        assert_eq!(pairs(&next), "port=8080 requestid=0 streamtype=data");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = HeaderWriter::default();
        let mut inflate = Decompress::new(true);
        for _ in 0..2 {
            let mut block = BytesMut::new();
            writer.write_none(&mut block);
            let mut out = Vec::with_capacity(64);
            inflate
                .decompress_vec(&block, &mut out, FlushDecompress::Sync)
                .expect("zlib");
            assert_eq!(out, [0; 4]);
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        for cut in 0..BLOCK.len() {
            let _ = HeaderReader::new().read(&BLOCK[..cut]);
            let mut damaged = BLOCK.to_vec();
            damaged[cut] ^= 0x55;
            let _ = HeaderReader::new().read(&damaged);
        }
        assert!(HeaderReader::new().read(&BLOCK[..4]).is_err());
        assert_eq!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'a', 0, 0, 0]), None);
        assert_eq!(parse(&[0xff; 8]), None);
    }
}
