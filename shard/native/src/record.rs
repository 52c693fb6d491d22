//! The journal record (PROTOCOL 2): what its head says and where its commands lie.

use crate::domain::SUM_MAX;
use crate::wire::Fault;

const MAGIC: u16 = 0x5358;
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 48;
const HEAD_CRC_AT: usize = 40;
const TRAILER_BYTES: usize = 4;
const ALIGNMENT: usize = 8;
const COMMANDS_MAX: u32 = 1_024;
const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// A well-formed record. `prev_chain` is the journal's business.
#[allow(missing_docs, reason = "the fields say it")]
pub struct Record<'a> {
    pub epoch: i64,
    pub count: usize,
    pub first_seq: i64,
    pub ts_ns: i64,
    pub payload: &'a [u8],
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("record: the length was checked")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(fixed(bytes, at))
}

impl<'a> Record<'a> {
    /// Checks a whole record to the last byte of its padding. The commands are not looked at.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let refuse = |sentence: String| Err(Fault::new(format!("record: {sentence}")));
        if bytes.len() < HEAD_BYTES {
            return refuse(format!("{} bytes are shorter than the head of {HEAD_BYTES}", bytes.len()));
        }
        let magic = u16::from_le_bytes(fixed(bytes, 0));
        if magic != MAGIC {
            return refuse(format!("magic {magic:#06x} is not {MAGIC:#06x}"));
        }
        let (head_crc, crc) = (u32_at(bytes, HEAD_CRC_AT), crc32fast::hash(&bytes[..HEAD_CRC_AT]));
        if head_crc != crc {
            return refuse(format!("head_crc {head_crc:#010x} is not {crc:#010x}"));
        }
        let (format, flags, reserved) = (bytes[2], bytes[3], u32_at(bytes, 44));
        if (format, flags, reserved) != (FORMAT, 0, 0) {
            return refuse(format!("fmt {format}, flags {flags}, reserved {reserved} are not {FORMAT}, 0, 0"));
        }
        let count = u32_at(bytes, 12);
        if !(1..=COMMANDS_MAX).contains(&count) {
            return refuse(format!("count {count} is not in 1..{COMMANDS_MAX}"));
        }
        let payload_bytes = u32_at(bytes, 4) as usize;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return refuse(format!("payload of {payload_bytes} bytes exceeds {PAYLOAD_BYTES_MAX}"));
        }
        let first_seq = i64::from_le_bytes(fixed(bytes, 16));
        if first_seq < 1 || first_seq - 1 > i64::MAX - i64::from(count) {
            return refuse(format!("first_seq {} is not in 1..2^63-1", first_seq as u64));
        }
        let ts_ns = i64::from_le_bytes(fixed(bytes, 24));
        if !(0..=SUM_MAX).contains(&ts_ns) {
            return refuse(format!("ts_ns {ts_ns} is not in 0..2^62"));
        }
        let end = HEAD_BYTES + payload_bytes;
        let size = (end + TRAILER_BYTES).next_multiple_of(ALIGNMENT);
        if bytes.len() != size {
            return refuse(format!("{} bytes are not the {size} that its head announces", bytes.len()));
        }
        let (stored, crc) = (u32_at(bytes, end), crc32fast::hash(&bytes[..end]));
        if stored != crc {
            return refuse(format!("crc {stored:#010x} is not {crc:#010x}"));
        }
        if bytes[end + TRAILER_BYTES..].iter().any(|&padding| padding != 0) {
            return refuse("padding is not zero".into());
        }
        let epoch = i64::from(u32_at(bytes, 8));
        Ok(Self { epoch, count: count as usize, first_seq, ts_ns, payload: &bytes[HEAD_BYTES..end] })
    }
}
