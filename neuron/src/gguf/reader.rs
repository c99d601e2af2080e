//! Bytes to [`Header`].

use std::{collections::BTreeMap, io::Read};

use super::{
    Array, Format, GgufError, Header, MAX_ARRAY_ELEMENTS, MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_METADATA,
    MAX_STRING_BYTES, MAX_TENSORS, TensorInfo, Value,
};
use crate::packed::Texts;

const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;

pub(super) fn read(input: impl Read, file_len: u64) -> Result<Header, GgufError> {
    let mut input = Input { input, at: 0, end: file_len.min(MAX_HEADER_BYTES), elements: 0 };
    if &input.array::<4>("the magic number")? != b"GGUF" {
        return Err(GgufError::NotGguf);
    }
    let version = input.u32("the version")?;
    if !matches!(version, 2 | 3) {
        return Err(GgufError::Version(version));
    }
    let tensor_count = input.count("the number of tensors", MAX_TENSORS)?;
    let metadata_count = input.count("the number of metadata entries", MAX_METADATA)?;

    let mut metadata = BTreeMap::new();
    for _ in 0..metadata_count {
        let key = input.string("a metadata key")?;
        let kind = input.u32("a metadata type")?;
        let value = input.value(kind, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(GgufError::Duplicate(key));
        }
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..tensor_count {
        let (name, tensor) = input.tensor()?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(GgufError::Duplicate(name));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Int(n)) => u64::try_from(*n).unwrap_or(0),
        Some(_) => 0,
    };
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return Err(GgufError::Alignment(alignment));
    }
    let data_offset = input.at.next_multiple_of(alignment);
    Ok(Header { version, metadata, tensors, data_offset, file_len, parts: Vec::new() })
}

struct Input<R> {
    input: R,
    at: u64,
    /// No byte past this is read.
    end: u64,
    /// Array elements so far, over the whole header.
    elements: u64,
}

impl<R: Read> Input<R> {
    fn fill(&mut self, into: &mut [u8], what: &'static str) -> Result<(), GgufError> {
        let len = into.len() as u64;
        if len > self.end - self.at {
            return Err(GgufError::Truncated { at: self.end, what });
        }
        self.input.read_exact(into).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => GgufError::Truncated { at: self.at, what },
            _ => GgufError::Io(e.to_string()),
        })?;
        self.at += len;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn count(&mut self, what: &'static str, max: u64) -> Result<u64, GgufError> {
        let value = self.array(what).map(u64::from_le_bytes)?;
        if value > max { Err(GgufError::TooLarge { what, value, max }) } else { Ok(value) }
    }

    fn string(&mut self, what: &'static str) -> Result<String, GgufError> {
        self.string_in(what, &mut Vec::new()).map(str::to_owned)
    }

    /// Into a buffer that others use as well.
    fn string_in<'b>(&mut self, what: &'static str, bytes: &'b mut Vec<u8>) -> Result<&'b str, GgufError> {
        // A string cannot be longer than what is left, so a short file never causes a long allocation.
        let max = MAX_STRING_BYTES.min((self.end - self.at).saturating_sub(8));
        let len = self.count(what, max)?;
        bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        self.fill(bytes, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8(what))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0..=5 | 10 | 11 => self.int(kind)?,
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array(WHAT)?))),
            12 => Value::Float(f64::from_le_bytes(self.array(WHAT)?)),
            7 => Value::Bool(self.array::<1>(WHAT)?[0] != 0),
            8 => Value::Text(self.string(WHAT)?),
            9 => self.array_value(key)?,
            other => return Err(GgufError::UnknownType(other)),
        })
    }

    fn int(&mut self, kind: u32) -> Result<Value, GgufError> {
        const WHAT: &str = "a whole number";
        Ok(Value::Int(match kind {
            0 => i64::from(self.array::<1>(WHAT)?[0]),
            1 => i64::from(i8::from_le_bytes(self.array(WHAT)?)),
            2 => i64::from(u16::from_le_bytes(self.array(WHAT)?)),
            3 => i64::from(i16::from_le_bytes(self.array(WHAT)?)),
            4 => i64::from(self.u32(WHAT)?),
            5 => i64::from(i32::from_le_bytes(self.array(WHAT)?)),
            11 => i64::from_le_bytes(self.array(WHAT)?),
            _ => {
                let wide = u64::from_le_bytes(self.array(WHAT)?);
                match i64::try_from(wide) {
                    Ok(n) => n,
                    Err(_) => return Ok(Value::Uint(wide)),
                }
            }
        }))
    }

    fn array_value(&mut self, key: &str) -> Result<Value, GgufError> {
        const WHAT: &str = "an array";
        let kind = self.u32(WHAT)?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(GgufError::NestedArray(key.to_owned())),
            other => return Err(GgufError::UnknownType(other)),
        };
        let left = (self.end - self.at).saturating_sub(8) / smallest;
        let len = self.count(WHAT, left.min(MAX_ARRAY_ELEMENTS - self.elements))?;
        self.elements += len;
        Ok(Value::Array(match kind {
            8 => Array::Text(self.texts(len)?),
            6 => Array::Float(
                (0..len).map(|_| self.array(WHAT).map(f32::from_le_bytes)).collect::<Result<_, _>>()?,
            ),
            12 => Array::Float((0..len).map(|_| self.narrowed()).collect::<Result<_, _>>()?),
            7 => Array::Int(
                (0..len).map(|_| Ok(i64::from(self.array::<1>(WHAT)?[0] != 0))).collect::<Result<_, _>>()?,
            ),
            _ => Array::Int((0..len).map(|_| self.plain_int(kind, key)).collect::<Result<_, _>>()?),
        }))
    }

    fn texts(&mut self, count: u64) -> Result<Texts, GgufError> {
        // There are as many bytes left at least, so a short file never causes a long allocation.
        let mut texts = Texts::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut bytes = Vec::new();
        for _ in 0..count {
            texts.push(self.string_in("a text in an array", &mut bytes)?);
        }
        Ok(texts)
    }

    #[expect(clippy::cast_possible_truncation, reason = "no array that is read here needs more than f32")]
    fn narrowed(&mut self) -> Result<f32, GgufError> {
        Ok(f64::from_le_bytes(self.array("an array")?) as f32)
    }

    fn plain_int(&mut self, kind: u32, key: &str) -> Result<i64, GgufError> {
        match self.int(kind)? {
            Value::Int(n) => Ok(n),
            _ => {
                Err(GgufError::WrongType { key: key.to_owned(), expected: "an array of numbers below 2^63" })
            }
        }
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo), GgufError> {
        let name = self.string("a tensor's name")?;
        let rank = self.u32("a tensor's rank")?;
        if rank > MAX_DIMENSIONS {
            let (value, max) = (u64::from(rank), u64::from(MAX_DIMENSIONS));
            return Err(GgufError::TooLarge { what: "a tensor's rank", value, max });
        }
        let dims = (0..rank)
            .map(|_| self.array("a tensor's shape").map(u64::from_le_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let format = Format(self.u32("a tensor's format")?);
        let offset = u64::from_le_bytes(self.array("a tensor's offset")?);
        // 2^40 elements are more than any model has; with it no later product can overflow.
        let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d).filter(|n| *n <= 1 << 40));
        let rows_are_whole =
            format.block().is_none_or(|(block, _)| dims.first().copied().unwrap_or(1).is_multiple_of(block));
        if elements.is_none_or(|n| n == 0) || !rows_are_whole {
            return Err(GgufError::Shape { name, dims });
        }
        Ok((name, TensorInfo { dims, format, offset, part: 0 }))
    }
}
