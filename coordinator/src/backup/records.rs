//! Records of one kind as bytes: for each the lengths of key and value, 32 bits big-endian, then both. The value begins with the
//! number of its schema.

use std::io::{self, Read, Write};

/// Neither a key nor a record is longer.
const LONGEST: u32 = 1 << 30;

/// Adds a record.
pub(super) fn put(out: &mut impl Write, key: &[u8], value: &[u8]) -> io::Result<()> {
    for part in [key, value] {
        let length = u32::try_from(part.len()).ok().filter(|&length| length <= LONGEST);
        let length = length.ok_or_else(|| io::Error::other("a record is longer than 1 GiB"))?;
        out.write_all(&length.to_be_bytes())?;
    }
    out.write_all(key)?;
    out.write_all(value)
}

/// The next record; `None` at the end.
pub(super) fn next(input: &mut impl Read) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut lengths = [0; 8];
    let mut part = input.take(8);
    let mut begun = Vec::new();
    match part.read_to_end(&mut begun)? {
        0 => return Ok(None),
        8 => lengths.copy_from_slice(&begun),
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    let [key, value] = [&lengths[..4], &lengths[4..]]
        .map(|four| u32::from_be_bytes(four.try_into().expect("four of eight bytes")));
    Ok(Some((exact(input, key)?, exact(input, value)?)))
}

fn exact(input: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record says that it is longer than 1 GiB"));
    }
    let mut bytes = Vec::new(); // grows as they come
    input.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
