//! Streams of zstd: frames one after the other, and some to be skipped, as layers have them that can
//! be fetched in parts.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Memory for what a frame may refer back to: what any decoder takes unless told otherwise.
const WINDOW_MAX: u64 = 128 << 20;

/// Whether a stream that begins so is zstd's: with a frame of data, or with one to be skipped.
pub(super) fn is_zstd(start: &[u8]) -> bool {
    matches!(
        start,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]
    )
}

/// Reads what is compressed. How much comes out is for the reader to limit; how much memory it takes
/// is limited here.
pub(super) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Zstd {
            source,
            decoder,
            in_frame: false,
        }
    }

    /// Begins the next frame with data; whether there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let mut skipped = (&mut self.source).take(length);
                    if io::copy(&mut skipped, &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if !self.in_frame || self.decoder.is_finished() {
                self.in_frame = self.next_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(io::Error::other)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Zstd::new(bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn skipped(bytes: &[u8]) -> Vec<u8> {
        let length = (bytes.len() as u32).to_le_bytes();
        [&[0x5a, 0x2a, 0x4d, 0x18][..], &length, bytes].concat()
    }

    #[test]
    fn frames_follow_each_other_and_some_are_skipped() {
        let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let stream = [
            skipped(b"first"),
            frame(&large),
            skipped(b""),
            frame(b""),
            frame(b"last"),
            skipped(b"end"),
        ]
        .concat();
        assert!(is_zstd(&stream) && is_zstd(&frame(b"")) && !is_zstd(b"\x1f\x8b"));
        assert_eq!(read(&stream).unwrap(), [&large[..], b"last"].concat());
    }

    #[test]
    fn what_is_cut_short_or_too_large_fails() {
        let whole = [frame(&[7; 5000]), skipped(b"12345")].concat();
        for length in 1..whole.len() {
            let cut = read(&whole[..length]);
            // Between two frames is the one place to stop.
            let stops = length == whole.len() - 13;
            assert_eq!(cut.is_ok(), stops, "{length} of {}", whole.len());
        }
        // A frame that wants a window of 2 TiB.
        let error = read(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0]).unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("window"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            bytes.splice(0..0, [0x28, 0xb5, 0x2f, 0xfd]);
            let _ = read(&bytes);
        }

        #[test]
        fn damaged_streams_fail_or_not_but_never_panic(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut stream = frame(&[[3; 300], [9; 300]].concat());
            let at = at.index(stream.len());
            stream[at] = byte;
            let _ = read(&stream);
        }
    }
}
