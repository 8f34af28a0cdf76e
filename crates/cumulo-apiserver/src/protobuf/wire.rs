//! Protobuf's wire format, as far as Kubernetes uses it: variable-length
//! integers, 64-bit values (for `double`), and bytes with their length.
//! <https://protobuf.dev/programming-guides/encoding/>

use bytes::BufMut;

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("unexpected end of the message")]
    Truncated,
    #[error("an integer of more than 64 bits")]
    Overflow,
    #[error("{0} is no field number")]
    FieldNumber(u64),
    #[error("wire type {0} is not read")]
    WireType(u8),
}

/// A field's value, before its type is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    /// The number of the wire type.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32 => 5,
        }
    }
}

/// The highest field number that protobuf has.
const MAX_FIELD: u64 = (1 << 29) - 1;

/// Reads fields one after the other.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and value; none at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        let number = u32::try_from(number)
            .ok()
            .filter(|_| (1..=MAX_FIELD).contains(&number))
            .ok_or(WireError::FieldNumber(number))?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| WireError::Truncated)?,
            )),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            // 3 and 4 are groups, which proto3 has not and Kubernetes never had.
            other => return Err(WireError::WireType(other as u8)),
        };
        Ok(Some((number, value)))
    }

    /// A variable-length integer: seven bits a byte, the lowest first.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(WireError::Truncated)?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // Of the tenth byte only one bit is left.
            if shift == 63 && bits > 1 {
                return Err(WireError::Overflow);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Writes a variable-length integer.
pub(super) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Writes an integer field. Negative ones take ten bytes, 32-bit ones too.
pub(super) fn put_integer(out: &mut impl BufMut, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value.cast_unsigned());
}

/// Writes a field of 64 bits.
pub(super) fn put_double(out: &mut impl BufMut, number: u32, value: f64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.put_f64_le(value);
}

/// Writes a field of bytes: text, a message.
pub(super) fn put_bytes(out: &mut impl BufMut, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_there_and_back() {
        for value in [0, 1, 127, 128, 300, i64::MAX, -1, i64::MIN] {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, 5, value);
            let read = Reader(&bytes).next().unwrap().unwrap();
            assert_eq!(read, (5, Wire::Varint(value.cast_unsigned())));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let read = |bytes: &[u8]| Reader(bytes).next().map(|_| ()).unwrap_err().to_string();
        assert_eq!(read(&[0x08]), "unexpected end of the message");
        assert_eq!(read(&[0x0a, 5, 1]), "unexpected end of the message");
        assert_eq!(read(&[0x00, 1]), "0 is no field number");
        assert_eq!(read(&[0x0b]), "wire type 3 is not read");
        assert_eq!(read(&[0xff; 11]), "an integer of more than 64 bits");
    }
}
