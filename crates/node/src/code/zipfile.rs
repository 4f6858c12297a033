//! The entries of a zip, in the words of `entry`.
//!
//! The central directory at the end is what counts, as for every common reader; local headers only
//! tell where the content begins. It is read entry by entry, so that a long one takes no memory.

use std::io::{self, Read, Seek};

use flate2::read::DeflateDecoder;
use rawzip::time::{UtcDateTime, ZipDateTimeKind};
use rawzip::{CompressionMethod, ErrorKind, ReaderAt, ZipArchive, ZipFileHeaderRecord};

use super::archive::Walk;
use super::entry::{Admitted, Entry, Kind};
use super::{CodeError, EntryProblem};

/// Reads the archive by its directory.
pub(super) fn walk<V: FnMut(&Admitted, &mut dyn Read) -> io::Result<()>>(
    reader: impl Read + Seek,
    walk: &mut Walk<'_, V>,
) -> Result<(), CodeError> {
    let mut buffer = vec![0; rawzip::MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let archive = ZipArchive::from_seekable(reader, &mut buffer)
        .map_err(|error| walk.unreadable(&plain(error)))?;
    let announced = archive.entries_hint();
    if announced > walk.limits.entries_max as u64 {
        return Err(walk.too_many());
    }
    let mut found = 0;
    let mut entries = archive.entries(&mut buffer);
    loop {
        let record = entries
            .next_entry()
            .map_err(|error| walk.unreadable(&plain(error)))?;
        let Some(record) = record else { break };
        found += 1;
        entry(&archive, &record, walk)?;
    }
    if found != announced {
        let reason = format!("its directory announces {announced} entries and has {found}");
        return Err(walk.unreadable(&io::Error::other(reason)));
    }
    Ok(())
}

/// Whether the directory has an entry whose path is wanted.
pub(super) fn any(
    reader: impl Read + Seek,
    mut is_wanted: impl FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    let mut buffer = vec![0; rawzip::MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let archive = ZipArchive::from_seekable(reader, &mut buffer).map_err(plain)?;
    let mut entries = archive.entries(&mut buffer);
    while let Some(record) = entries.next_entry().map_err(plain)? {
        if is_wanted(record.file_path().as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn entry<V: FnMut(&Admitted, &mut dyn Read) -> io::Result<()>>(
    archive: &ZipArchive<impl ReaderAt>,
    record: &ZipFileHeaderRecord<'_>,
    walk: &mut Walk<'_, V>,
) -> Result<(), CodeError> {
    let content = content(archive, record).map_err(|error| walk.unreadable(&error))?;
    let file_path = record.file_path();
    let path = file_path.as_bytes();
    let Some(mut content) = content else {
        let kind = Kind::Unsupported(EntryProblem::Encoding);
        return walk.entry(&Entry { path, kind }, &mut io::empty());
    };
    let mode = record.mode();
    // The type bits of Unix, which writers on other systems leave at those of a file.
    let kind = match mode.value() & 0o170_000 {
        0o120_000 => {
            // The content is the target. One byte too many makes the check complain.
            let mut target = Vec::new();
            let length_max = walk.limits.path_bytes_max as u64 + 1;
            let read = content.take(length_max).read_to_end(&mut target);
            read.map_err(|error| walk.unreadable(&error))?;
            let kind = Kind::Link { target: &target };
            return walk.entry(&Entry { path, kind }, &mut io::empty());
        }
        0o040_000 => Kind::Directory,
        _ if record.is_dir() => Kind::Directory,
        0 | 0o100_000 => Kind::File {
            size: record.uncompressed_size_hint(),
            executable: mode.permissions() & 0o111 != 0,
            modified_unix: modified_unix(record),
        },
        0o060_000 | 0o020_000 => Kind::Unsupported(EntryProblem::Kind("device")),
        0o010_000 => Kind::Unsupported(EntryProblem::Kind("fifo")),
        _ => Kind::Unsupported(EntryProblem::Kind("thing of an unknown kind")),
    };
    walk.entry(&Entry { path, kind }, &mut content)
}

/// The content, whose length and checksum are verified as it is read; `None` if it is encrypted or
/// compressed in a way that we don't know.
fn content<'a>(
    archive: &'a ZipArchive<impl ReaderAt>,
    record: &ZipFileHeaderRecord<'_>,
) -> io::Result<Option<Box<dyn Read + 'a>>> {
    if record.flags().is_encrypted() || record.flags().has_strong_encryption() {
        return Ok(None);
    }
    let entry = archive.get_entry(record.wayfinder()).map_err(plain)?;
    Ok(match record.compression_method() {
        CompressionMethod::STORE => Some(Box::new(entry.verifying_reader(entry.reader()))),
        CompressionMethod::DEFLATE => {
            let inflated = DeflateDecoder::new(entry.reader());
            Some(Box::new(entry.verifying_reader(inflated)))
        }
        _ => None,
    })
}

/// Times without a zone, the usual ones, are taken for UTC: no better guess is possible here.
fn modified_unix(record: &ZipFileHeaderRecord<'_>) -> u64 {
    let seconds = match record.last_modified() {
        ZipDateTimeKind::Utc(time) => time.to_unix(),
        ZipDateTimeKind::Local(time) => {
            let (hour, minute, second) = (time.hour(), time.minute(), time.second());
            let (year, month, day) = (time.year(), time.month(), time.day());
            UtcDateTime::from_components(year, month, day, hour, minute, second, 0)
                .map_or(0, |time| time.to_unix())
        }
    };
    u64::try_from(seconds).unwrap_or(0)
}

/// The error as one of I/O, with the words that fit whoever sent the archive.
fn plain(error: rawzip::Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::IO(error) => error,
        ErrorKind::MissingEndOfCentralDirectory => {
            io::Error::other("it has no directory at its end, as if cut short")
        }
        kind => io::Error::other(kind.to_string()),
    }
}
