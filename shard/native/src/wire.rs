//! MessagePack, as much of it as the exchange speaks: integers, booleans, texts and arrays.
//!
//! The writer always uses the shortest form, unsigned where a number is not negative: two engines agree to the byte.
//! The reader takes any valid form, checks every bound and never allocates.

use crate::domain::Text;

const FALSE: u8 = 0xc2;
const TRUE: u8 = 0xc3;

/// Why bytes were refused: subject, rule, offending value. One word long, so that a number or a refusal is returned in
/// registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(Box<Sentence>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sentence(String);

impl Fault {
    /// A refusal, said in a sentence.
    #[cold]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(Box::new(Sentence(sentence.into())))
    }

    /// The same refusal with its subject in front.
    #[cold]
    pub fn about(self, subject: impl std::fmt::Display) -> Self {
        Self::new(format!("{subject}: {}", self.0.0))
    }

    /// The sentence.
    pub fn into_sentence(self) -> String {
        self.0.0
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
    #[inline(always)]
    pub fn int(&mut self) -> Result<i64, Fault> {
        match self.rest {
            &[small @ 0x00..=0x7f, ref rest @ ..] => {
                self.rest = rest;
                Ok(i64::from(small))
            }
            _ => self.long_int(),
        }
    }

    #[inline(never)]
    fn long_int(&mut self) -> Result<i64, Fault> {
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

/// Encoded values, one after the other. It grows and is used again and again; after the first records it never allocates.
pub struct Tape {
    /// All of it is initialised; only the first `length` bytes count.
    bytes: Vec<u8>,
    length: usize,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), length: 0 }
    }

    /// What was written.
    #[inline]
    pub fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// What was written, for good.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.truncate(self.length);
        self.bytes
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Appends the values that `write` writes: at most as many bytes as the longest row has.
    #[inline(always)]
    pub fn write(&mut self, write: impl FnOnce(&mut Row<'_>)) {
        if self.bytes.len() < self.length + Row::BYTES_MAX {
            self.grow();
        }
        let bytes = self.bytes[self.length..].first_chunk_mut().expect("tape: it has just grown");
        let mut row = Row { bytes, length: 0 };
        write(&mut row);
        self.length += row.length;
    }

    #[cold]
    fn grow(&mut self) {
        self.bytes.resize((self.bytes.len() * 2).max(4 * Row::BYTES_MAX), 0);
    }

    /// Appends integers.
    #[inline(always)]
    pub fn ints<const N: usize>(&mut self, numbers: [i64; N]) {
        self.write(|row| row.ints(numbers));
    }

    /// Appends the head of an array of `count` elements, which must follow.
    pub fn array(&mut self, count: usize) {
        self.write(|row| row.array(count));
    }

    /// Appends an array of integers.
    #[inline(always)]
    pub fn array_of<const N: usize>(&mut self, numbers: [i64; N]) {
        self.write(|row| {
            row.array(N);
            row.ints(numbers);
        });
    }
}

/// Where a tape is written. Numbers and texts are copied at their full width and only the length tells what counts, so
/// nothing is copied by a loop. What does not fit is our own mistake and panics.
pub struct Row<'t> {
    bytes: &'t mut [u8; Row::BYTES_MAX],
    length: usize,
}

impl Row<'_> {
    /// The longest row is that of a trade: ten integers, two accounts and two client order ids, 235 bytes; a text is
    /// copied with up to 36 bytes behind it.
    const BYTES_MAX: usize = 288;

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// A head, and the last `size` bytes of a number.
    #[inline(always)]
    fn headed(&mut self, head: u8, number: u64, size: usize) {
        self.byte(head);
        self.bytes[self.length..self.length + 8].copy_from_slice(&(number << (64 - 8 * size)).to_be_bytes());
        self.length += size;
    }

    /// Appends an integer.
    #[inline(always)]
    pub fn int(&mut self, number: i64) {
        match number {
            -0x20..=0x7f => self.byte(number as u8),
            0x80.. => self.wide(number as u64),
            _ => {
                let (head, size) = negative_form(number);
                self.headed(head, number as u64, size);
            }
        }
    }

    /// Appends an integer that is not negative.
    pub fn unsigned(&mut self, number: u64) {
        match number {
            0..=0x7f => self.byte(number as u8),
            _ => self.wide(number),
        }
    }

    #[inline(always)]
    fn wide(&mut self, number: u64) {
        let (head, size) = match number {
            0..=0xff => (0xcc, 1),
            0x100..=0xffff => (0xcd, 2),
            0x1_0000..=0xffff_ffff => (0xce, 4),
            _ => (0xcf, 8),
        };
        self.headed(head, number, size);
    }

    /// Appends integers.
    #[inline(always)]
    pub fn ints<const N: usize>(&mut self, numbers: [i64; N]) {
        for number in numbers {
            self.int(number);
        }
    }

    /// Appends a truth value.
    #[inline(always)]
    pub fn bool(&mut self, truth: bool) {
        self.byte(if truth { TRUE } else { FALSE });
    }

    /// Appends a text.
    #[inline(always)]
    pub fn text<const MAX: usize>(&mut self, text: &Text<MAX>) {
        let (length, padded) = text.padded();
        if length > 31 {
            self.byte(0xd9);
            self.byte(length as u8);
        } else {
            self.byte(0xa0 | length as u8);
        }
        self.bytes[self.length..self.length + MAX].copy_from_slice(padded);
        self.length += length;
    }

    /// Appends the head of an array of `count` elements, which must follow.
    #[inline(always)]
    pub fn array(&mut self, count: usize) {
        match count {
            0..=15 => self.byte(0x90 | count as u8),
            16..=0xffff => self.headed(0xdc, count as u64, 2),
            _ => self.headed(0xdd, u64::from(u32::try_from(count).expect("array: more than 2^32 elements")), 4),
        }
    }
}

/// Head and size of a number below -32.
#[inline(never)]
fn negative_form(number: i64) -> (u8, usize) {
    match number {
        -0x80.. => (0xd0, 1),
        -0x8000.. => (0xd1, 2),
        -0x8000_0000.. => (0xd2, 4),
        _ => (0xd3, 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Row<'_>)) -> Vec<u8> {
        let mut tape = Tape::new();
        tape.write(write);
        tape.get().to_vec()
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
            let bytes = written(|row| row.int(number));
            assert_eq!(bytes.len(), length, "{number}");
            assert_eq!(Reader::new(&bytes).int(), Ok(number));
        }
        assert_eq!(Reader::new(&written(|row| row.unsigned(u64::MAX))).unsigned(), Ok(u64::MAX));
    }

    #[test]
    fn texts_and_arrays_of_every_length_come_back() {
        for length in 0..=36 {
            let text = vec![b'x'; length];
            let bytes = written(|row| row.text(&Text::<36>::new(&text)));
            assert_eq!(bytes.len(), length + if length < 32 { 1 } else { 2 });
            assert_eq!(Reader::new(&bytes).text(), Ok(&text[..]));
        }
        for (count, length) in [(0, 1), (15, 1), (16, 3), (65_535, 3), (65_536, 5)] {
            let mut bytes = written(|row| row.array(count));
            assert_eq!(bytes.len(), length);
            bytes.resize(length + count, 0);
            assert_eq!(Reader::new(&bytes).array(), Ok(count));
        }
    }

    #[test]
    fn a_tape_grows_under_its_rows_and_is_used_again() {
        let mut tape = Tape::new();
        for round in 0..3 {
            for number in 0..10_000 {
                tape.ints([number, i64::MAX]);
            }
            let mut reader = Reader::new(tape.get());
            for number in 0..10_000 {
                assert_eq!((reader.int(), reader.int()), (Ok(number), Ok(i64::MAX)), "round {round}");
            }
            assert_eq!(reader.finish(), Ok(()));
            tape.clear();
        }
    }

    #[test]
    fn every_cut_of_a_value_is_refused() {
        let mut bytes = written(|row| {
            row.array(3);
            row.int(i64::MIN);
            row.text(&Text::<40>::new(&[b'a'; 40]));
            row.unsigned(u64::MAX);
        });
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
