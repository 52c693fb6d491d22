//! MessagePack, as much of it as the exchange speaks: integers, booleans, texts and arrays.
//!
//! The writer always uses the shortest form, unsigned where a number is not negative: two engines agree to the byte.
//! The reader takes any valid form, checks every bound and never allocates.

/// Why bytes were refused: subject, rule, offending value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl Fault {
    /// A refusal, said in a sentence.
    #[cold]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }

    /// The same refusal with its subject in front.
    #[cold]
    pub fn about(self, subject: impl std::fmt::Display) -> Self {
        Self(format!("{subject}: {}", self.0))
    }
}

/// Reads values off the front of bytes.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes after the last value.
    pub fn finish(&self) -> Result<(), Fault> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Fault::new(format!("{more} bytes follow the last value"))),
        }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.rest.split_first().ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(first)
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The number of elements of an array, which follow.
    #[inline]
    pub fn array(&mut self) -> Result<usize, Fault> {
        let count = match self.byte()? {
            head @ 0x90..=0x9f => usize::from(head & 0x0f),
            0xdc => usize::from(u16::from_be_bytes(self.take()?)),
            0xdd => u32::from_be_bytes(self.take()?) as usize,
            head => return Err(unexpected("an array", head)),
        };
        // Every element takes at least a byte: a count that cannot be true is refused before anybody trusts it.
        if count > self.rest.len() {
            return Err(Fault::new(format!(
                "an array of {count} elements is longer than the {} bytes left",
                self.rest.len()
            )));
        }
        Ok(count)
    }

    /// An array of exactly `count` elements, which follow.
    pub fn array_of(&mut self, count: usize) -> Result<(), Fault> {
        match self.array()? {
            found if found == count => Ok(()),
            found => Err(Fault::new(format!("an array of {found} elements is not one of {count}"))),
        }
    }

    /// An integer within i64.
    #[inline]
    pub fn int(&mut self) -> Result<i64, Fault> {
        Ok(match self.byte()? {
            head @ 0x00..=0x7f => i64::from(head),
            head @ 0xe0..=0xff => i64::from(head as i8),
            0xcc => i64::from(self.byte()?),
            0xcd => i64::from(u16::from_be_bytes(self.take()?)),
            0xce => i64::from(u32::from_be_bytes(self.take()?)),
            0xcf => {
                let number = u64::from_be_bytes(self.take()?);
                i64::try_from(number).map_err(|_| Fault::new(format!("{number} is not within 64 bits with a sign")))?
            }
            0xd0 => i64::from(self.byte()? as i8),
            0xd1 => i64::from(i16::from_be_bytes(self.take()?)),
            0xd2 => i64::from(i32::from_be_bytes(self.take()?)),
            0xd3 => i64::from_be_bytes(self.take()?),
            head => return Err(unexpected("an integer", head)),
        })
    }

    /// An integer of 0 to 2^64 − 1.
    pub fn unsigned(&mut self) -> Result<u64, Fault> {
        if self.rest.first() == Some(&0xcf) {
            self.byte()?;
            return Ok(u64::from_be_bytes(self.take()?));
        }
        let number = self.int()?;
        u64::try_from(number).map_err(|_| Fault::new(format!("{number} is negative")))
    }

    /// A text, as bytes: whoever asks knows which characters it may have.
    #[inline]
    pub fn text(&mut self) -> Result<&'a [u8], Fault> {
        let length = match self.byte()? {
            head @ 0xa0..=0xbf => usize::from(head & 0x1f),
            0xd9 => usize::from(self.byte()?),
            0xda => usize::from(u16::from_be_bytes(self.take()?)),
            0xdb => u32::from_be_bytes(self.take()?) as usize,
            head => return Err(unexpected("a text", head)),
        };
        let (text, rest) = self.rest.split_at_checked(length).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(text)
    }
}

#[cold]
fn ends_early() -> Fault {
    Fault::new("ends in the middle of a value")
}

#[cold]
fn unexpected(wanted: &str, head: u8) -> Fault {
    Fault::new(format!("a value that starts with byte {head:#04x} is not {wanted}"))
}

/// Appends an integer.
#[inline]
pub fn put_int(out: &mut Vec<u8>, number: i64) {
    if number >= 0 {
        return put_unsigned(out, number as u64);
    }
    match number {
        -0x20.. => out.push(number as u8),
        -0x80.. => out.extend_from_slice(&[0xd0, number as u8]),
        -0x8000.. => put_headed(out, 0xd1, (number as i16).to_be_bytes()),
        -0x8000_0000.. => put_headed(out, 0xd2, (number as i32).to_be_bytes()),
        _ => put_headed(out, 0xd3, number.to_be_bytes()),
    }
}

/// Appends an integer that is not negative.
#[inline]
pub fn put_unsigned(out: &mut Vec<u8>, number: u64) {
    match number {
        0..=0x7f => out.push(number as u8),
        0x80..=0xff => out.extend_from_slice(&[0xcc, number as u8]),
        0x100..=0xffff => put_headed(out, 0xcd, (number as u16).to_be_bytes()),
        0x1_0000..=0xffff_ffff => put_headed(out, 0xce, (number as u32).to_be_bytes()),
        _ => put_headed(out, 0xcf, number.to_be_bytes()),
    }
}

/// Appends a truth value.
#[inline]
pub fn put_bool(out: &mut Vec<u8>, truth: bool) {
    out.push(if truth { 0xc3 } else { 0xc2 });
}

/// Appends a text of at most 65,535 bytes.
#[inline]
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ 0..=31 => out.push(0xa0 | length as u8),
        length @ 32..=255 => out.extend_from_slice(&[0xd9, length as u8]),
        length => {
            put_headed(out, 0xda, u16::try_from(length).expect("text: longer than any rule allows").to_be_bytes())
        }
    }
    out.extend_from_slice(text);
}

/// Appends the head of an array of `count` elements, which must follow.
#[inline]
pub fn put_array(out: &mut Vec<u8>, count: usize) {
    match count {
        0..=15 => out.push(0x90 | count as u8),
        16..=0xffff => put_headed(out, 0xdc, (count as u16).to_be_bytes()),
        _ => put_headed(out, 0xdd, u32::try_from(count).expect("array: more than 2^32 elements").to_be_bytes()),
    }
}

#[inline]
fn put_headed<const N: usize>(out: &mut Vec<u8>, head: u8, body: [u8; N]) {
    let mut bytes = [head; 9];
    bytes[1..=N].copy_from_slice(&body);
    out.extend_from_slice(&bytes[..=N]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(number: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_int(&mut out, number);
        out
    }

    #[test]
    fn every_integer_takes_its_shortest_form_and_comes_back() {
        let edges: [(i64, usize); 18] = [
            (0, 1),
            (127, 1),
            (128, 2),
            (255, 2),
            (256, 3),
            (65_535, 3),
            (65_536, 5),
            (u32::MAX as i64, 5),
            (u32::MAX as i64 + 1, 9),
            (i64::MAX, 9),
            (-1, 1),
            (-32, 1),
            (-33, 2),
            (-128, 2),
            (-129, 3),
            (-32_769, 5),
            (i32::MIN as i64 - 1, 9),
            (i64::MIN, 9),
        ];
        for (number, length) in edges {
            let bytes = written(number);
            assert_eq!(bytes.len(), length, "{number}");
            assert_eq!(Reader::new(&bytes).int(), Ok(number));
        }
    }

    #[test]
    fn every_cut_of_a_value_is_refused() {
        let mut bytes = Vec::new();
        put_array(&mut bytes, 3);
        put_int(&mut bytes, i64::MIN);
        put_text(&mut bytes, &[b'a'; 40]);
        put_unsigned(&mut bytes, u64::MAX);
        let read = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            reader.array_of(3)?;
            reader.int()?;
            reader.text()?;
            reader.unsigned()?;
            reader.finish()
        };
        assert_eq!(read(&bytes), Ok(()));
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        bytes.push(0);
        assert!(read(&bytes).is_err());
    }

    #[test]
    fn an_array_longer_than_its_bytes_is_refused_before_it_is_trusted() {
        assert!(Reader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff, 0x01]).array().is_err());
    }

    #[test]
    fn numbers_beyond_64_bits_with_a_sign_and_other_types_are_refused() {
        assert!(Reader::new(&[0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0]).int().is_err());
        for head in [0xc0, 0xc2, 0xca, 0xcb, 0xc4, 0x80, 0x90, 0xa0] {
            assert!(Reader::new(&[head, 0, 0, 0, 0, 0, 0, 0, 0]).int().is_err(), "{head:#x}");
        }
    }
}
